"""Cost: what does a step of each variant take, and how much does it train?

Medians over all trials of a variant, each charged its share of its pack: what was measured with the machines and packs
at hand, validation included. No interval: a median of costs is a description, not an estimate.
"""

import pandas as pd

from study.analysis.cells import basis, checked
from study.analysis.finding import Finding
from study.analysis.plan import Plan
from study.analysis.words import number, unanswered

QUESTION = "cost"
COLUMNS = ("cpu_seconds", "steps", "trainable")


def cost(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """Each variant's CPU time per trial and step, against the reference's, and its trainable parameters."""
    rows = checked(table)
    rows = rows[rows["task"] == task]
    if not set(COLUMNS) <= set(rows.columns):
        return []  # results from elsewhere say nothing of their cost
    of_variant = {name: rows[(rows["variant"] == name) & (rows["steps"] > 0)] for name in (plan.reference, *plan.knobs)}
    base = step_seconds(of_variant[plan.reference])
    return [_cost(of_variant[name], base, plan, task, name) for name in plan.knobs]


def step_seconds(rows: pd.DataFrame) -> float | None:
    """The median CPU time of one step of one trial, None without trials."""
    return None if rows.empty else float((rows["cpu_seconds"] / rows["steps"]).median())


def _cost(rows: pd.DataFrame, base: float | None, plan: Plan, task: str, variant: str) -> Finding:
    stands, seconds = basis(rows), step_seconds(rows)
    if seconds is None:
        return unanswered(QUESTION, task, variant, "no trial of it has finished", stands)
    trainable = int(rows["trainable"].median())
    values: dict[str, float | int] = {"CPU ms per step": 1000 * seconds, "trainable parameters": trainable}
    words = f"A step of {variant} on {task} takes {number(1000 * seconds)} ms of CPU time"
    if base and variant != plan.reference:
        values[f"times {plan.reference}"] = seconds / base
        words += f", {number(seconds / base)} times that of {plan.reference}"
    return Finding(QUESTION, task, variant, True, f"{words}; it trains {trainable:,} parameters.", values, stands)
