"""Shared value: does one focus value for all variants rank them wrongly, and against the reference even reverse them?

At every value of the focus knob the variants are ranked by their smoothed responses there, and by the tops of the same
curves: what changes between the two is the tuning of the focus knob alone.
"""

from typing import Any

import numpy as np
import pandas as pd

from study.analysis.cells import basis, explored
from study.analysis.curves import central
from study.analysis.finding import POOLED, Estimate, Finding, Record
from study.analysis.flips import band, extremes, flips
from study.analysis.plan import Plan
from study.analysis.ranks import tau
from study.analysis.variant_curves import Curve, variant_curves
from study.analysis.words import number, span, standing, subject_words, unanswered

QUESTION = "shared value"
EVERY = 2  # places of the axis that are compared: 61 of 121


def shared_value(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """How the ranking at each shared value agrees with the tuned one, and the sign flips against the reference."""
    curves, refused = variant_curves(table, plan, task)
    stands = basis(explored(table, task, curves))
    if plan.reference not in curves:
        reason = f"{plan.reference} has no response: {refused.get(plan.reference, 'it is not part of the study')}"
        return [unanswered(QUESTION, task, POOLED, reason, stands)]
    alike = {v: curve for v, curve in curves.items() if curve.axis.values == curves[plan.reference].axis.values}
    if len(alike) < 2:
        reason = f"no other variant has a response over the same range of {plan.focus} as {plan.reference}"
        return [unanswered(QUESTION, task, POOLED, reason, stands)]
    values = numbers({plan.reference: alike[plan.reference]} | alike, plan)
    left_out = tuple(f"{v} is left out: {refused.get(v, 'another range')}." for v in plan.knobs if v not in alike)
    words = f"{sentence(values, task)} {standing(stands)}"
    stands |= {
        "method": "posterior draws of the smoothed responses, taken as independent; one band for all differences"
    }
    return [Finding(QUESTION, task, POOLED, True, words, values, stands, left_out, records_of(values))]


def numbers(curves: dict[str, Curve], plan: Plan) -> dict[str, Any]:
    """Of the reference's curve, which comes first, and the others'."""
    base, others = curves[plan.reference], list(curves)[1:]
    count = min(len(curve.draws) for curve in curves.values())
    draws = np.stack([curve.draws[:count] for curve in curves.values()], axis=-1)  # S G V
    shared = draws[:, ::EVERY]
    x = [float(value) for value in base.axis.values[::EVERY]]
    taus = [central(at) for at in tau(draws.max(axis=1)[:, None], shared).T]
    differences = band(shared[..., 1:] - shared[..., :1])
    flipped = flips(differences, plan.margin)
    return {
        "knob": plan.focus,
        "reference": plan.reference,
        "margin": plan.margin,
        "x": x,
        "tau": [one.value for one in taus],
        "tau_low": [one.low for one in taus],
        "tau_high": [one.high for one in taus],
        "at": x[base.best // EVERY],  # the reference's best value
        "tau_at": taus[base.best // EVERY],
        "flips": Estimate(*flipped.sum(axis=1).tolist()),
        "flipped": [name for name, shown in zip(others, flipped[1], strict=True) if shown],
        "differences": {name: extremes(differences, i, x) for i, name in enumerate(others)},
    }


def sentence(values: dict[str, Any], task: str) -> str:
    """The agreement at the value that the reference likes best, over the range, and every flip that is shown."""
    knob, reference, others, taus = values["knob"], values["reference"], values["differences"], values["tau"]
    words = (
        f"{subject_words(POOLED, task)} the ranking at {knob} {number(values['at'])}, the best of {reference}, agrees "
        f"with the ranking at each one's own best with a Kendall's tau of {span(values['tau_at'])}; over all shared "
        f"values tau goes from {number(min(taus))} to {number(max(taus))}. Of {len(others)} variants "
        f"{span(values['flips'])} beat {reference} by more than {values['margin']:g} at one shared value and lose by "
        "more at another"
    )
    return "; ".join([words, *(flip_in_words(name, others[name]) for name in values["flipped"])]) + "."


def flip_in_words(name: str, difference: dict[str, Any]) -> str:
    """One variant's best and worst shared value."""
    most, least = difference["most"], difference["least"]
    return (
        f"{name} by +{span(most)} at {number(difference['most_at'])} and {span(least)} at "
        f"{number(difference['least_at'])}"
    )


def records_of(values: dict[str, Any]) -> tuple[Record, ...]:
    """The flips, each variant's extremes, and tau at the reference's best value."""
    knob, against = values["knob"], f"against {values['reference']}"
    at = f"{knob}={values['at']:.3g}, the best of {values['reference']}"
    flips_and_tau = (
        Record("variants that flip sign", values["flips"], "variants", knob, f"{against}, margin {values['margin']:g}"),
        Record("tau of the shared ranking to the tuned one", values["tau_at"], "", knob, at),
    )
    ends = (
        Record(
            f"{which} difference of {name} at a shared value", found[end], "score", knob, f"{knob}={found[place]:.3g}"
        )
        for name, found in values["differences"].items()
        for which, end, place in (("largest", "most", "most_at"), ("smallest", "least", "least_at"))
    )
    return (*flips_and_tau, *ends)
