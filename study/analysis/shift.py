"""Shift: how many decades from the reference's best value of the focus knob is another variant's?"""

import numpy as np
import pandas as pd

from study.analysis.cells import basis, explored
from study.analysis.curves import LEVEL
from study.analysis.finding import Estimate, Finding, Record
from study.analysis.plan import Plan
from study.analysis.variant_curves import Curve, variant_curves
from study.analysis.words import span, standing, subject_words, unanswered

QUESTION = "shift"


def shift(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """Every variant's shift from the reference, in decades; positive where its best value is larger."""
    curves, refused = variant_curves(table, plan, task)
    return [
        _finding(table, curves, refusal(curves, refused, plan, variant), plan, task, variant)
        for variant in plan.knobs
        if variant != plan.reference
    ]


def refusal(curves: dict[str, Curve], refused: dict[str, str], plan: Plan, variant: str) -> str | None:
    """Why two optima cannot be compared, or None."""
    for name in (plan.reference, variant):
        if name not in curves:
            return f"{name} has no response: {refused.get(name, 'it is not part of the study')}"
        if curves[name].edge:
            return f"the optimum of {name} is at an end of the range of {plan.focus}, may lie outside and is not ranked"
        if curves[name].axis.decades is None:
            return f"{plan.focus} has no logarithm"
    return None


def _finding(
    table: pd.DataFrame, curves: dict[str, Curve], reason: str | None, plan: Plan, task: str, variant: str
) -> Finding:
    rows = explored(table, task, (plan.reference, variant))
    stands = basis(rows)
    if reason:
        return unanswered(QUESTION, task, variant, reason, stands)
    found = decades_between(curves[variant], curves[plan.reference])
    times = Estimate(*(10.0**x for x in (found.value, found.low or 0.0, found.high or 0.0)))
    values = {"knob": plan.focus, "reference": plan.reference, "shift": found, "times": times}
    words = (
        f"{subject_words(variant, task)} the best {plan.focus} is {'+' if found.value > 0 else ''}{span(found)} "
        f"decades from that of {plan.reference}, {span(times)} times it. {standing(stands)}"
    )
    given = f"against {plan.reference}"
    records = (
        Record("shift of the best value", found, "decades", plan.focus, given),
        Record("ratio of the best values", times, "", plan.focus, given),
    )
    method = {"method": "posterior draws of both smoothed responses, taken as independent"}
    return Finding(QUESTION, task, variant, True, words, values, stands | method, records=records)


def decades_between(curve: Curve, reference: Curve) -> Estimate:
    """log10 of the ratio of the best values, and its 95 % interval over both curves' draws."""
    count = min(len(curve.draws), len(reference.draws))
    one, other = (np.log10(some.axis.values) for some in (curve, reference))
    draws = one[curve.draws[:count].argmax(axis=1)] - other[reference.draws[:count].argmax(axis=1)]
    low, high = np.percentile(draws, LEVEL)
    value = float(one[curve.best] - other[reference.best])
    return Estimate(value, min(float(low), value), max(float(high), value))
