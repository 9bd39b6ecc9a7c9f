"""Selection: how much of a tuned score is the luck of which setting was selected?

The best of many settings on noisy validation scores is not the best setting, and an identical variant, tuned again,
gets another one. Fresh seeds cannot see this, for they all run the one that was selected: two identical variants of
50 settings each then come out different two to three times as often as a test's 5 % (`tests/analysis/test_compare.py`).
"""

import numpy as np
import pandas as pd

from study.analysis.axis import SEED, Array
from study.analysis.cells import replicate_variance, tried
from study.analysis.plan import Plan

RESELECTIONS = 1000


def selection_variance(table: pd.DataFrame, plan: Plan, task: str, variant: str) -> float | None:
    """The variance that selection adds to one variant's tuned score; None where no good setting ran twice.

    The noise of a run is that of the better half of the settings.
    """
    rows = tried(table, task, variant)
    good = plan.sign(task) * rows["val_score"]
    settings = good.groupby(rows["key"]).agg(["mean", "size"])
    better = rows["key"].isin(settings.index[settings["mean"] >= settings["mean"].median()])
    noise = replicate_variance(*(column[better] for column in (good, rows["variant"], rows["key"], rows["seed"])))
    if noise is None:
        return None
    return reselected(settings["mean"].to_numpy(), np.sqrt(noise / settings["size"].to_numpy()))


def reselected(mean: Array, error: Array) -> float:
    """The variance of the selected mean over repeated selections, noise of standard deviation `error` drawn anew.

    The observed means count as the true ones and differ more than those do: too large where many settings are equal.
    """
    again = mean + error * np.random.default_rng(SEED).normal(size=(RESELECTIONS, len(mean)))
    return float(mean[again.argmax(axis=1)].var())
