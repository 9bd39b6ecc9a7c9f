"""Power: what could a paired comparison of so many seeds have seen, and how many seeds does a difference need?

All of it takes the estimated standard error for the true one, and averages a normal probability over the standard
errors that a study may find (from chi-square): scipy's noncentral t is NaN where the power is near one.
"""

from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from study.analysis.axis import Array
from study.analysis.paired import LEAST_SEEDS, Mean

POWER = 0.8
MOST_SEEDS = 1000  # that are worth advising
QUANTILES = (np.arange(200) + 0.5) / 200


def p_different(difference: Mean) -> float:
    """The two-sided p-value of no difference."""
    return float(2 * stats.t.sf(abs(difference.value) / difference.error, difference.freedom))


@lru_cache(maxsize=256)
def found_errors(freedom: float) -> Array:
    """Standard errors that a study finds, in units of the true one: equally likely values."""
    return np.sqrt(stats.chi2.ppf(QUANTILES, freedom) / freedom)


def power(difference: Mean, true: float, level: float) -> float:
    """How often the two-sided t test at `level` sees a `true` difference."""
    critical, shift = (
        stats.t.isf(level / 2, difference.freedom) * found_errors(difference.freedom),
        true / difference.error,
    )
    return float((stats.norm.sf(critical - shift) + stats.norm.cdf(-critical - shift)).mean())


def detectable(difference: Mean, level: float) -> float:
    """The true difference that is seen with a probability of POWER."""
    far = difference.error * (stats.t.isf(level / 2, difference.freedom) + stats.t.isf(1 - POWER, difference.freedom))
    return float(optimize.brentq(lambda true: power(difference, true, level) - POWER, 0, 3 * far))


def seeds_needed(difference: Mean, true: float, level: float) -> int | None:
    """The fewest seeds that see a `true` difference with a probability of POWER; None where MOST_SEEDS do not.

    By bisection: more seeds never see less.
    """
    if power(difference._replace(seeds=MOST_SEEDS), true, level) < POWER:
        return None
    fewer, enough = LEAST_SEEDS - 1, MOST_SEEDS
    while enough - fewer > 1:
        middle = (fewer + enough) // 2
        seen = power(difference._replace(seeds=middle), true, level) >= POWER
        fewer, enough = (fewer, middle) if seen else (middle, enough)
    return enough
