"""Variance: which part of the score's variation over the declared space does each knob explain?

Pooled over variants the variant is one more factor. Three gates stand before an answer: the design must be sampled
independently of its results, run-to-run noise must not dominate, and a surrogate must predict points it has not
seen; a balanced full factorial needs none. Pooled designs that are too small for a surrogate get main effects only; a
single variant gets advice.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from study.analysis.cells import Cells, basis, cells, explored, refusal
from study.analysis.factorial import factorial, factorial_effects
from study.analysis.finding import POOLED, Estimate, Finding, Record
from study.analysis.main_effects import Shares, freedom, main_effects
from study.analysis.marginal import focus_refusal, separable
from study.analysis.plan import Plan, varies
from study.analysis.sampling import sampling_refusal
from study.analysis.total_effects import StandIn, explainable_part, stand_in, total_effects
from study.analysis.widths import Width
from study.analysis.words import number, percent, span, standing, subject_words, unanswered
from study.space import Knob, LogFloat, Value

QUESTION = "variance"
POINTS_PER_KNOB = 16  # of a design that a surrogate is fitted to
LEAST_POINTS = 8  # for main effects
LEAST_CELLS = 4  # of a factorial
Q2_GATE = 0.7  # of the explainable part
NOISE_GATE = 0.5  # of the cells' variance
ALONE, COMBINED = "share by itself", "share with all its combinations"


def variance(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """The shares pooled over variants, and per variant."""
    return [variance_of(table, plan, task, subject) for subject in plan.subjects]


def variance_of(table: pd.DataFrame, plan: Plan, task: str, subject: str) -> Finding:
    """One subject's shares, or why there are none."""
    rows = explored(table, task, plan.members(subject))
    stands = basis(rows)
    reason = refusal(rows, LEAST_CELLS)
    if reason:
        return unanswered(QUESTION, task, subject, reason, stands)
    cell = cells(rows, plan, task, "score")
    stands |= {"points": cell.good.shape[1], "explainable": explainable_part(cell)}
    reason = sampling_refusal(cell, plan)
    if reason:
        return unanswered(QUESTION, task, subject, reason, stands)
    if explainable_part(cell) < NOISE_GATE:
        return little_to_explain(cell, task, subject, stands)
    grid = factorial(cell)
    if grid:
        return finding(factorial_effects(cell, plan, grid), cell, plan, task, subject, stands)
    return sampled(cell, plan, task, subject, stands)


def sampled(cell: Cells, plan: Plan, task: str, subject: str, stands: dict[str, Any]) -> Finding:
    """The shares of a design whose points are scattered."""
    reason = focus_refusal(cell.rows, plan)
    if reason:
        return unanswered(QUESTION, task, subject, reason, stands)
    least = least_points(cell)
    stand = stand_in(cell) if cell.good.shape[1] >= least else None
    reason = surrogate_refusal(cell, stand, least)
    if stand:
        stands |= {"q2": stand.surrogate.q2}
    if stand and not reason:
        return finding(total_effects(cell, plan), cell, plan, task, subject, stands)
    if subject != POOLED or cell.good.shape[1] < LEAST_POINTS or cell.replicate is None or freedom(cell) < 1:
        return unanswered(QUESTION, task, subject, reason, stands)
    return finding(main_effects(cell, plan), cell, plan, task, subject, stands, reason)


def least_points(cell: Cells) -> int:
    """How many points of the design a surrogate of these knobs needs: a power of two, for a Sobol sequence."""
    return 1 << (POINTS_PER_KNOB * len(separable(cell)) - 1).bit_length()


def little_to_explain(cell: Cells, task: str, subject: str, stands: dict[str, Any]) -> Finding:
    """A robust subject: its settings differ hardly more than seeds do, and that is the answer."""
    spread, noise = Estimate(float(np.nanstd(cell.good)), None, None), Estimate(math.sqrt(cell.noise), None, None)
    sentence = (
        f"{subject_words(subject, task)} there is little to explain: settings differ with an SD of {span(spread)} of "
        f"score, and seeds alone give {span(noise)}, so shares would divide noise. {standing(stands)}"
    )
    values = {"settings_deviation": spread, "seeds_deviation": noise}
    records = (
        Record("standard deviation between settings", spread, "score"),
        Record("standard deviation that seeds alone give", noise, "score"),
    )
    return Finding(QUESTION, task, subject, False, sentence, values, stands, records=records)


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
        "pairs": dict(sorted((shares.pairs or {}).items(), key=lambda item: -item[1].value)),
        "floor": shares.floor,
        "deviation": shares.deviation,
        "ranges": {name: declared_range(knob) for name, knob in cell.knobs.items()},
        "by_width": [width_values(width) for width in shares.widths],
    }
    caveats = (
        f"A wider declared range makes a share larger by itself; here {ranges_in_words(cell)}.",
        *partial_knobs(cell),
        *left_out(cell, plan),
    )
    words = f"{subject_words(subject, task)} {in_words(shares, order, unresolved)} {standing(stands)}"
    stands = stands | {"method": shares.method}
    return Finding(QUESTION, task, subject, True, words, values, stands, caveats, records(shares, order, plan))


def in_words(shares: Shares, order: list[str], unresolved: str) -> str:
    """The shares, the SD that they are shares of, and the noise floor."""
    return (
        f"the score varies with an SD of {span(shares.deviation)} over the declared ranges: "
        f"{parts_in_words(shares, order)} A knob without effect would show {100 * shares.floor:.1f} %."
        + (f" No total effects: {unresolved}." if unresolved else "")
    )


def width_values(width: Width) -> dict[str, Any]:
    """A line of the table of the focus knob's shares against the width of its range."""
    low, high = width.range
    parts = {"first": width.first, "total": width.total, "deviation": width.deviation}
    return {"decades": width.range.decades, "low": low, "high": high, **parts}


def records(shares: Shares, order: list[str], plan: Plan) -> tuple[Record, ...]:
    """Every number of the finding; a share names the SD that it is a share of."""
    unit = share_unit(shares.deviation)
    found = [Record("standard deviation over the declared ranges", shares.deviation, "score")]
    found += [Record(ALONE, shares.first[name], unit, name) for name in order]
    found += [Record(COMBINED, shares.total[name], unit, name) for name in order if shares.total]
    found += [Record("share of the combination", share, unit, pair) for pair, share in (shares.pairs or {}).items()]
    found.append(Record("share that a knob without effect shows", Estimate(shares.floor, None, None), unit))
    for width in shares.widths:
        given, unit = (
            f"{plan.focus} from {number(width.range.low)} to {number(width.range.high)}",
            share_unit(width.deviation),
        )
        found.append(Record("standard deviation", width.deviation, "score", given=given))
        found.append(Record(ALONE, width.first, unit, plan.focus, given))
        found += [Record(COMBINED, width.total, unit, plan.focus, given)] if width.total else []
    return tuple(found)


def share_unit(deviation: Estimate) -> str:
    """What a share is a share of."""
    return f"share of an SD of {number(deviation.value)} score"


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
    return f"{', '.join(parts)}; {left:.0f} % {whose}{largest_pair(shares)}."


def largest_pair(shares: Shares) -> str:
    """The combination of two that explains most, if it explains more than a knob without effect."""
    above = {pair: share for pair, share in (shares.pairs or {}).items() if (share.low or 0) > shares.floor}
    if not above:
        return ""
    pair = max(above, key=lambda name: above[name].value)
    return f", of which {pair} {percent(above[pair])}"


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
