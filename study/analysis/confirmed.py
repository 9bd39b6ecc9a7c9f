"""The confirm phase: one setting per variant, selected on validation before, on fresh seeds paired across variants."""

import numpy as np
import pandas as pd

from study.analysis.axis import Array
from study.analysis.cells import checked
from study.analysis.plan import Plan

ROUNDING = 1e-5  # of a score: it may have been stored in single precision


def confirmed(table: pd.DataFrame, plan: Plan, task: str) -> dict[str, pd.DataFrame]:
    """Per variant the rows of its selected setting, one per seed and indexed by it; empty where none was confirmed."""
    rows = checked(table)
    rows = rows[(rows["task"] == task) & (rows["phase"] == "confirm") & rows["test_score"].notna()]
    return {variant: selected(rows[rows["variant"] == variant], plan, task) for variant in plan.knobs}


def selected(rows: pd.DataFrame, plan: Plan, task: str) -> pd.DataFrame:
    """The rows of the confirmed setting with the best mean validation score (usually there is one)."""
    if len(rows):
        means = plan.sign(task) * rows.groupby("key")["val_score"].mean()
        rows = rows[rows["key"] == means.idxmax()]
    return rows.drop_duplicates("seed").set_index("seed", drop=False).rename_axis(None)


def correctness(rows: pd.DataFrame) -> Array | None:
    """S N, which test examples each run got right; None unless all runs tell and the score is what they count."""
    if "test_correct" not in rows:
        return None
    each = [one for one in rows["test_correct"] if isinstance(one, np.ndarray)]
    if len(each) < len(rows) or len({len(one) for one in each}) != 1:
        return None
    correct = np.stack(each).astype(float)
    return correct if np.allclose(correct.mean(axis=1), rows["test_score"], atol=ROUNDING) else None
