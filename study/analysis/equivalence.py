"""Equivalence: is a difference surely smaller than a margin? Two one-sided tests (TOST, Schuirmann 1987)."""

import numpy as np
from scipy import stats

from study.analysis.paired import Mean
from study.analysis.power import found_errors


def p_equivalent(difference: Mean, margin: float) -> float:
    """The p-value of |difference| >= margin."""
    above = stats.t.sf((margin + difference.value) / difference.error, difference.freedom)
    below = stats.t.sf((margin - difference.value) / difference.error, difference.freedom)
    return float(max(above, below))


def power_of_equivalence(difference: Mean, margin: float, level: float) -> float:
    """How often TOST at `level` succeeds where the true difference is 0 and the standard error the estimated one.

    It succeeds where the mean falls within the margin less t standard errors as found.
    """
    room = margin / difference.error - stats.t.isf(level, difference.freedom) * found_errors(difference.freedom)
    return float(np.maximum(2 * stats.norm.cdf(room) - 1, 0).mean())
