"""Compare: is a tuned variant better than the tuned reference on the test split, and by how much?

Only the confirm phase is read: one setting per variant, selected on validation before, on fresh seeds paired across
variants. Nothing here looks at the test score to choose.
"""

import math
from typing import Any

import pandas as pd
from scipy import stats

from study.analysis.axis import Array
from study.analysis.cells import basis, checked
from study.analysis.finding import POOLED, Estimate, Finding
from study.analysis.plan import Plan
from study.analysis.words import span, unanswered
from study.space import Knob, LogFloat, Value

QUESTION = "comparison"
LEAST_SEEDS = 3  # for an interval


def compare(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """Each variant's confirmed test score, and its paired difference from the reference variant's."""
    rows = checked(table)
    rows = rows[(rows["task"] == task) & (rows["phase"] == "confirm") & rows["test_score"].notna()]
    if rows.empty:
        return [unanswered(QUESTION, task, POOLED, "no setting was confirmed on the test split", basis(rows))]
    chosen = {variant: selected(rows, plan, task, variant) for variant in (plan.reference, *plan.knobs)}
    return [_compare(chosen[variant], chosen[plan.reference], plan, task, variant) for variant in plan.knobs]


def selected(rows: pd.DataFrame, plan: Plan, task: str, variant: str) -> pd.DataFrame:
    """The variant's rows of the confirmed setting with the best mean validation score (usually there is one)."""
    rows = rows[rows["variant"] == variant]
    if rows.empty:
        return rows
    means = plan.sign(task) * rows.groupby("key")["val_score"].mean()
    return rows[rows["key"] == means.idxmax()]


def _compare(rows: pd.DataFrame, reference: pd.DataFrame, plan: Plan, task: str, variant: str) -> Finding:
    stands = basis(rows)
    if rows.empty:
        return unanswered(QUESTION, task, variant, "no setting was confirmed on the test split", stands)
    values = confirmed(rows, plan, variant)
    intro = f"Tuned {variant} on {task} scores {span(values['test_score'])} on the test split"
    if variant == plan.reference:
        return Finding(QUESTION, task, variant, True, f"{intro}, over {seeds_in_words(len(rows))}.", values, stands)
    difference = paired(rows, reference)
    if difference.size == 0:
        words = f"{intro}; no difference is given, because no seed was confirmed for it and for {plan.reference}."
        return Finding(QUESTION, task, variant, False, words, values, stands)
    found = mean_with_interval(difference)
    values |= {"difference": found, "pairs": len(difference), "verdict": verdict(found, plan.margin, plan.sign(task))}
    words = (
        f"{intro}; its paired difference from tuned {plan.reference} over {seeds_in_words(len(difference))} is "
        f"{'+' if found.value > 0 else ''}{span(found)}: {values['verdict']} (margin {plan.margin:g})."
    )
    return Finding(QUESTION, task, variant, len(difference) > 1, words, values, stands, caveats(len(difference), plan))


def confirmed(rows: pd.DataFrame, plan: Plan, variant: str) -> dict[str, Any]:
    """The selected setting and its test score."""
    return {
        "setting": {knob.name: as_declared(knob, rows[knob.name].tolist()[0]) for knob in plan.knobs[variant]},
        "key": str(rows["key"].iloc[0]),
        "test_score": mean_with_interval(rows["test_score"].to_numpy(dtype=float)),
        "reference": plan.reference,
        "margin": plan.margin,
    }


def as_declared(knob: Knob, value: Value) -> Value:
    """A column with empty cells turns rank 4 into 4.0; this turns it back."""
    return value if isinstance(knob, LogFloat) or value not in knob.values else knob.values[knob.values.index(value)]


def paired(rows: pd.DataFrame, reference: pd.DataFrame) -> Array:
    """Differences in test score over the seeds that both have."""
    one, other = (some.groupby("seed")["test_score"].mean() for some in (rows, reference))
    return (one - other).dropna().to_numpy(dtype=float)


def mean_with_interval(values: Array) -> Estimate:
    """The mean, with its 95 % t interval from three values on."""
    mean = float(values.mean())
    if len(values) < LEAST_SEEDS:
        return Estimate(mean, None, None)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def verdict(difference: Estimate, margin: float, sign: int) -> str:
    """What the interval says; equivalence is asked first, because a tuned variant is expected to match."""
    if difference.low is None or difference.high is None:
        return "not decided"
    if -margin < difference.low and difference.high < margin:
        return "within the margin"
    low, high = sorted((sign * difference.low, sign * difference.high))
    return "better" if low > 0 else "worse" if high < 0 else "not decided"


def seeds_in_words(count: int) -> str:
    """How many seeds, and what too few of them cannot say."""
    return f"{count} fresh seed{'s' * (count > 1)}" + (", too few for an interval" if count < LEAST_SEEDS else "")


def caveats(pairs: int, plan: Plan) -> tuple[str, ...]:
    """What a difference does not say."""
    several = (f"Not corrected for comparing {len(plan.knobs) - 1} variants.",) if len(plan.knobs) > 2 else ()
    return several if pairs >= LEAST_SEEDS else (*several, f"{pairs} paired seeds carry no interval; use 3 or more.")
