"""Variance: which part of the score's variation over the declared space does each knob explain?

Pooled over variants the variant is one more factor. Three gates stand before an answer: the design must be sampled
independently of its results, run-to-run noise must not dominate, and the surrogate must predict points it has not
seen. Pooled designs that are too small for a surrogate get main effects only; a single variant gets advice.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from study.analysis.cells import Cells, basis, cells, explored
from study.analysis.finding import POOLED, Estimate, Finding
from study.analysis.main_effects import Shares, freedom, main_effects
from study.analysis.marginal import focus_refusal, separable
from study.analysis.plan import Plan, varies
from study.analysis.total_effects import StandIn, explainable_part, stand_in, total_effects
from study.analysis.words import number, percent, span, standing, subject_words, unanswered
from study.space import Knob, LogFloat, Value

QUESTION = "variance"
POINTS_PER_KNOB = 16  # of a design that a surrogate is fitted to
LEAST_POINTS = 8  # for main effects
Q2_GATE = 0.7  # of the explainable part
NOISE_GATE = 0.5  # of the cells' variance
CORRELATION_GATE = 0.3  # between knobs, beyond what chance gives


def variance(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """The shares pooled over variants, and per variant."""
    return [variance_of(table, plan, task, subject) for subject in plan.subjects]


def variance_of(table: pd.DataFrame, plan: Plan, task: str, subject: str) -> Finding:
    """One subject's shares, or why there are none."""
    rows = explored(table, task, plan.members(subject))
    stands = basis(rows)
    reason = focus_refusal(rows, plan)
    if reason:
        return unanswered(QUESTION, task, subject, reason, stands)
    cell = cells(rows, plan, task, "score")
    stands |= {"points": cell.good.shape[1], "explainable": explainable_part(cell)}
    reason = design_refusal(cell, plan) or noise_refusal(cell)
    if reason:
        return unanswered(QUESTION, task, subject, reason, stands)
    least = least_points(cell)
    stand = stand_in(cell) if cell.good.shape[1] >= least else None
    reason = surrogate_refusal(cell, stand, least)
    if stand:
        stands |= {"q2": stand.surrogate.q2}
    if stand and not reason:
        return finding(total_effects(stand), cell, plan, task, subject, stands)
    if subject != POOLED or cell.good.shape[1] < LEAST_POINTS or cell.replicate is None or freedom(cell) < 1:
        return unanswered(QUESTION, task, subject, reason, stands)
    return finding(main_effects(cell, plan), cell, plan, task, subject, stands, reason)


def least_points(cell: Cells) -> int:
    """How many points of the design a surrogate of these knobs needs: a power of two, for a Sobol sequence."""
    return 1 << (POINTS_PER_KNOB * len(separable(cell)) - 1).bit_length()


def design_refusal(cell: Cells, plan: Plan) -> str | None:
    """Why the sampling forbids shares, or None."""
    if plan.design == "tpe":
        return "its settings were chosen by looking at earlier results (tpe), so shares would describe the search"
    if len(separable(cell)) + (len(cell.variants) > 1) < 2:
        return "only one knob varied, so there is nothing to divide"
    places = np.array([cell.where[name] for name in separable(cell)])
    strongest = float(np.abs(np.corrcoef(places) - np.eye(len(places))).max()) if len(places) > 1 else 0.0
    if strongest > CORRELATION_GATE + 2 / np.sqrt(places.shape[1]):
        return f"two knobs moved together (correlation {strongest:.2f}), so their shares cannot be told apart"
    return None


def noise_refusal(cell: Cells) -> str | None:
    """Little to explain: the settings differ hardly more than seeds do."""
    if explainable_part(cell) >= NOISE_GATE:
        return None
    spread, noise = number(float(np.nanstd(cell.good))), number(math.sqrt(cell.noise))
    return f"there is little to explain: settings differ with an SD of {spread}, and seeds alone give {noise}"


def surrogate_refusal(cell: Cells, stand: StandIn | None, least: int) -> str:
    """Why there are no total effects, with advice; empty where there are."""
    knobs, points = len(separable(cell)), cell.good.shape[1]
    if stand is None:
        return f"{points} points cannot tell combinations of {knobs} knobs apart; {least} would be needed"
    if stand.missing <= 1 - Q2_GATE:
        return ""
    return (
        f"the surrogate predicts {100 * stand.surrogate.q2:.0f} % of the variance of unseen points where "
        f"{100 * stand.explainable:.0f} % could be explained (gate: {100 * Q2_GATE:.0f} % of that); try {2 * points}"
    )


def finding(
    shares: Shares, cell: Cells, plan: Plan, task: str, subject: str, stands: dict[str, Any], unresolved: str = ""
) -> Finding:
    """Shares in words and numbers; `unresolved` says why total effects are missing."""
    order = sorted(shares.first, key=lambda name: -(shares.total or shares.first)[name].value)
    values = {
        "first": {name: shares.first[name] for name in order},
        "total": {name: shares.total[name] for name in order} if shares.total else None,
        "floor": shares.floor,
        "deviation": shares.deviation,
        "ranges": {name: declared_range(knob) for name, knob in cell.knobs.items()},
    }
    words = (
        f"{subject_words(subject, task)} the score varies with an SD of {span(shares.deviation)} over the declared "
        f"ranges: {parts_in_words(shares, order)} A knob without effect would show {100 * shares.floor:.1f} %."
        + (f" No total effects: {unresolved}." if unresolved else "")
    )
    caveats = (
        f"A wider declared range makes a share larger by itself; here {ranges_in_words(cell)}.",
        *partial_knobs(cell),
        *left_out(cell, plan),
    )
    return Finding(
        QUESTION,
        task,
        subject,
        True,
        f"{words} {standing(stands)}",
        values,
        stands | {"method": shares.method},
        caveats,
    )


def parts_in_words(shares: Shares, order: list[str]) -> str:
    """Each factor's share by itself, and with its combinations where known."""
    parts = [
        f"{name} explains {percent(shares.first[name])} by itself"
        + (f" and {percent(shares.total[name])} with its combinations" if shares.total else "")
        for name in order
    ]
    left = 100 * max(1 - sum(share.value for share in shares.first.values()), 0.0)
    whose = (
        "belongs to combinations" if shares.total else "is left to combinations and to what so few points cannot tell"
    )
    return f"{', '.join(parts)}; {left:.0f} % {whose}."


def declared_range(knob: Knob) -> list[Value]:
    """The ends of a range, or the levels."""
    return [knob.low, knob.high] if isinstance(knob, LogFloat) else list(knob.values)


def ranges_in_words(cell: Cells) -> str:
    """Every knob's declared range."""
    ends = {
        n: (k.low, k.high) if isinstance(k, LogFloat) else (k.values[0], k.values[-1]) for n, k in cell.knobs.items()
    }
    return ", ".join(f"{name} {low} to {high}" for name, (low, high) in ends.items())


def partial_knobs(cell: Cells) -> tuple[str, ...]:
    """Knobs that only some of the variants have."""
    some = {name: int(has.sum()) for name, has in cell.has.items() if not has.all()}
    return tuple(f"{name} varied in {count} of {len(cell.variants)} variants." for name, count in some.items())


def left_out(cell: Cells, plan: Plan) -> tuple[str, ...]:
    """Knobs that varied and are part of what is left."""
    names = dict.fromkeys(knob.name for variant in cell.variants for knob in plan.knobs[variant] if varies(knob))
    return tuple(
        f"{name} has no share of its own: its values differ between variants at the same point of the design."
        for name in names
        if name not in separable(cell)
    )


class Rank(NamedTuple):
    """One line of a ranking: a factor's shares of the variance of the score."""

    task: str
    knob: str
    first: Estimate  # by itself
    total: Estimate | None  # with its combinations
    floor: float  # what a knob without effect shows
    deviation: float  # score units: the SD that these are shares of


def ranking(findings: Sequence[Finding]) -> list[Rank]:
    """The pooled ranking of factors per task, largest first; empty where no gate opened."""
    return [
        Rank(
            found.task,
            knob,
            first,
            found.values["total"][knob] if found.values["total"] else None,
            found.values["floor"],
            found.values["deviation"].value,
        )
        for found in findings
        if found.question == QUESTION and found.subject == POOLED and found.answered
        for knob, first in found.values["first"].items()
    ]
