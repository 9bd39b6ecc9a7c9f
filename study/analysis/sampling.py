"""May shares of variance be told from this sample? Only if the knobs were drawn independently of each other.

A table from elsewhere may hold settings that someone, or a search, chose: then knobs move together, or crowd where
results were good, and an index would describe the choice. Dependence is looked for in tables of binned values, which
see any shape of it and need no order, by the chi-square test; a test that rejects must also find an effect worth
speaking of, since in a large table anything is significant.
"""

from itertools import combinations

import numpy as np
from scipy import stats

from study.analysis.axis import Array
from study.analysis.cells import Cells
from study.analysis.marginal import separable
from study.analysis.plan import Plan
from study.space import Choice, Levels

EXPECTED = 5  # points per field of a table, on average: the chi-square distribution is good enough
LEAST_EXPECTED = 1  # else a table is too sparse for the test
MOST_BINS = 6
FALSE_ALARMS = 0.05  # of all pairs of one sample together
STRENGTH_GATE = 0.2  # Cramer's V
CORRELATION_GATE = 0.3  # beyond what chance gives
CROWDING_GATE = 0.15  # largest difference from an even spread (Kolmogorov), beyond what chance gives


def sampling_refusal(cell: Cells, plan: Plan) -> str | None:
    """Why the sampling forbids shares, or None."""
    if plan.design == "tpe":
        return "its settings were chosen by looking at earlier results (tpe), so shares would describe the search"
    if len(separable(cell)) + (len(cell.variants) > 1) < 2:
        return "only one knob varied, so there is nothing to divide"
    return dependence(cell) or (crowding(cell) if plan.design == "foreign" else None)


def dependence(cell: Cells) -> str | None:
    """Which two factors did not vary independently, or None."""
    names, several = separable(cell), len(cell.variants) > 1
    alarm = FALSE_ALARMS / max(len(names) * (len(names) - 1 + 2 * several) // 2, 1)
    for one, other in combinations(names, 2):
        found = correlation(cell, one, other) or association(binned(cell, one), binned(cell, other), alarm)
        if found:
            return f"{one} and {other} moved together ({found}), so their shares cannot be told apart"
    variant, point = np.nonzero(np.isfinite(cell.good))
    for name in names if several else ():
        found = association(binned(cell, name)[point], variant, alarm)
        if found:
            return f"the variants were given different values of {name} ({found}), so shares would mix the two up"
    return None


def correlation(cell: Cells, one: str, other: str) -> str | None:
    """The correlation of two knobs, in words, where it is strong."""
    strength = abs(float(np.corrcoef(cell.where[one], cell.where[other])[0, 1]))
    return f"correlation {strength:.2f}" if strength > CORRELATION_GATE + 2 / np.sqrt(cell.good.shape[1]) else None


def association(x: np.ndarray, y: np.ndarray, alarm: float) -> str | None:
    """The association of two columns of levels, in words, where it is strong and less likely by chance than `alarm`."""
    counts = stats.contingency.crosstab(x, y).count
    if min(counts.shape) < 2 or counts.mean() < LEAST_EXPECTED:
        return None
    found = stats.chi2_contingency(counts, correction=False)
    strength = float(np.sqrt(found.statistic / counts.sum() / (min(counts.shape) - 1)))
    return f"Cramer's V {strength:.2f}" if found.pvalue < alarm and strength > STRENGTH_GATE else None


def binned(cell: Cells, name: str) -> Array:
    """n: the level of a knob with few or without an order, else the bin that holds its rank."""
    u = cell.where[name]
    most = int(np.clip(np.sqrt(len(u) / EXPECTED), 2, MOST_BINS))
    if isinstance(cell.knobs[name], Choice) or len(np.unique(u)) <= most:
        return u
    return np.floor(most * (stats.rankdata(u) - 0.5) / len(u))


def crowding(cell: Cells) -> str | None:
    """Which range was not sampled evenly, or None: a search crowds where results were good."""
    for name in separable(cell):
        u = cell.where[name]
        if isinstance(cell.knobs[name], Levels):
            continue
        uneven = float(stats.kstest(u, "uniform").statistic)
        if uneven > CROWDING_GATE + 1.4 / np.sqrt(len(np.unique(u))):
            return f"the values of {name} crowd in a part of its range, as where a search chose them"
    return None
