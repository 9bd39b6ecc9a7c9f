"""Sensitivity: how much does not tuning a knob cost, on average over its range?

For the focus knob this is the learning-rate sensitivity of Wortsman et al. 2023 (arXiv:2309.14322): the mean over
log-uniform values of min(loss, loss0) - loss*, where loss is the smoothed mean over seeds and over the design of the
other knobs (a marginal response) and loss* its minimum; in score units, score* - max(score, score0). The same number
is given for every other knob. A range of more decades costs more by its width alone, so each number comes in two
measures: over the declared range, and over the one decade around the knob's optimum.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from study.analysis.cells import Cells, Measure, basis, cells, explored, point_means
from study.analysis.curves import estimate, one_decade, shortfall
from study.analysis.finding import Estimate, Finding
from study.analysis.marginal import focus_refusal, marginal, separable
from study.analysis.plan import Plan
from study.analysis.words import span, standing, subject_words, unanswered

QUESTION = "sensitivity"
MEASURES: tuple[Measure, ...] = ("score", "loss")
CAVEATS = (
    "Averaged over the design of the other knobs (marginal): with them tuned, a knob can cost more or less.",
    "A wider declared range costs more by its width alone; compare knobs in both measures.",
)


class Cost(NamedTuple):
    """What not tuning a knob costs on average, in units of the measure."""

    range: Estimate  # over the declared range
    decade: Estimate | None  # over the decade around the optimum; None: no logarithm, or less than a decade


def sensitivity(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """The cost of not tuning each knob, pooled and per variant."""
    return [sensitivity_of(table, plan, task, subject) for subject in plan.subjects]


def sensitivity_of(table: pd.DataFrame, plan: Plan, task: str, subject: str) -> Finding:
    """What not tuning each knob costs one subject."""
    rows = explored(table, task, plan.members(subject))
    reason = focus_refusal(rows, plan)
    if reason:
        return unanswered(QUESTION, task, subject, reason, basis(rows))
    costs = {measure: knob_costs(cells(rows, plan, task, measure), plan) for measure in MEASURES}
    values: dict[str, Any] = {"focus": plan.focus}
    for measure, of_knobs in costs.items():
        values[measure] = {knob: cost._asdict() for knob, cost in of_knobs.items()}
    stands = basis(rows) | {"method": "functional of posterior draws of the smoothed point means"}
    words = sentence(costs, plan, task, subject) + " " + standing(stands)
    return Finding(QUESTION, task, subject, True, words, values, stands, CAVEATS)


def knob_costs(cell: Cells, plan: Plan) -> dict[str, Cost]:
    """Every separable knob's cost; none where the measure never changes."""
    if np.ptp(point_means(cell.good)) < 1e-12:
        return {}
    return {name: cost(cell, plan, name) for name in separable(cell)}


def cost(cell: Cells, plan: Plan, name: str) -> Cost:
    """One knob's cost in both measures, each draw of the response around its own optimum."""
    axis, draws = (found := marginal(cell, plan, name)).axis, found.response
    whole = estimate(lambda curve: shortfall(curve, axis.weight, cell.floor), draws)
    if one_decade(axis, 0) is None:
        return Cost(whole, None)

    def around_best(curve: np.ndarray) -> float:
        decade = one_decade(axis, int(curve.argmax()))
        return shortfall(curve, axis.weight if decade is None else decade, cell.floor)

    return Cost(whole, estimate(around_best, draws))


def sentence(costs: Mapping[Measure, Mapping[str, Cost]], plan: Plan, task: str, subject: str) -> str:
    """The focus knob's cost in every measure, then the other knobs' in score units."""
    focus = [(measure, of[plan.focus]) for measure, of in costs.items() if plan.focus in of]
    whole = " and ".join(f"{span(cost.range)} in {measure}" for measure, cost in focus)
    decade = " and ".join(f"{span(cost.decade)} in {measure}" for measure, cost in focus if cost.decade)
    others = [f"{knob} {span(cost.range)}" for knob, cost in costs["score"].items() if knob != plan.focus]
    return (
        f"{subject_words(subject, task)} a {plan.focus} drawn from its whole range costs {whole} against the best one"
        + (f"; one drawn from the decade around the best costs {decade}" if decade else "")
        + (f"; over their ranges the other knobs cost, in score, {', '.join(others)}" if others else "")
        + "."
    )
