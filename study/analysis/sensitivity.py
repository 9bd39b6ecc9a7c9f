"""Sensitivity: how much does not tuning a knob cost, on average over its range?

For the focus knob this is the learning-rate sensitivity of Wortsman et al. 2023 (arXiv:2309.14322): the mean over
log-uniform values of min(loss, loss0) - loss*, where loss is the smoothed mean over seeds and loss* its minimum, read
at the best place (`curves.locate`); in score units, score* - max(score, score0). The range is the declared one,
whatever the data reach. The same number is given for every other knob, and for three curves of each:

    marginal     averaged over the design of the other knobs
    conditional  the other knobs at the variant's selected setting
    retuned      the other knobs there, but the focus knob at its best for each value

A range of more decades costs more by its width alone, so each number comes in two measures: over the declared range,
and over the one decade around the knob's optimum. A knob that spans less than a decade keeps its whole range in both:
it may still cost more than a wider one does over its decade.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from study.analysis.axis import Array, Axis
from study.analysis.cells import Cells, Measure, basis, cells, explored, point_means
from study.analysis.conditional import conditional, selected
from study.analysis.curves import estimate, locate, one_decade, shortfall
from study.analysis.finding import POOLED, Estimate, Finding, Record
from study.analysis.marginal import focus_refusal, marginal, on_a_line, separable
from study.analysis.plan import Plan
from study.analysis.words import NO_FLOOR, span, standing, subject_words, unanswered
from study.space import Value

QUESTION = "sensitivity"
WIDTH = "A wider declared range costs more by its width alone; compare knobs in both measures."
AVERAGED = "Averaged over the design of the other knobs (marginal) unless they are said to be at their selected values."
NEAR = "one decade around the best (all of a narrower range)"
PER_VARIANT = (
    "Averaged over the design of the other knobs (marginal); with them at a selected setting, per variant only."
)
ON_A_LINE = (
    "Only one knob varied, so its cost with the others at their selected values (conditional) is the same number."
)


class Cost(NamedTuple):
    """What not tuning a knob costs on average, in units of the measure."""

    range: Estimate  # over the declared range
    decade: Estimate | None  # over the decade around the optimum, or all of a narrower range; None: no logarithm


class AllCosts(NamedTuple):
    """The costs per knob in one measure."""

    marginal: Mapping[str, Cost]  # averaged over the design of the other knobs
    conditional: Mapping[str, Cost]  # the others at their selected values
    retuned: Mapping[str, Cost]  # and the focus knob retuned
    caveats: tuple[str, ...]


class Verdict(NamedTuple):
    """Which knobs cost most, in both measures."""

    by_range: list[str]  # most expensive first
    by_decade: list[str]  # of the knobs that have a decade
    agree: bool  # one knob leads both, its intervals above those of every other knob


def sensitivity(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """The cost of not tuning each knob, pooled and per variant."""
    return [sensitivity_of(table, plan, task, subject) for subject in plan.subjects]


def sensitivity_of(table: pd.DataFrame, plan: Plan, task: str, subject: str) -> Finding:
    """What not tuning each knob costs one subject."""
    rows = explored(table, task, plan.members(subject))
    reason = focus_refusal(rows, plan)
    if reason:
        return unanswered(QUESTION, task, subject, reason, basis(rows))
    setting = None if subject == POOLED else selected(table, plan, task, subject)
    found = {measure: costs_of(cells(rows, plan, task, measure), plan, setting) for measure in plan.measures}
    marginals, ranks = found["score"].marginal, verdict(found["score"].marginal)
    values: dict[str, Any] = {
        "focus": plan.focus,
        **{measure: plain(costs.marginal) for measure, costs in found.items()},
        "conditional": {measure: plain(costs.conditional) for measure, costs in found.items()},
        "retuned": {measure: plain(costs.retuned) for measure, costs in found.items()},
        "selected": setting,
        "ranking": ranks._asdict(),
    }
    stands = basis(rows) | {"method": "functional of posterior draws of the smoothed point means"}
    words = [
        f"{subject_words(subject, task)} {focus_words(found, plan)}.",
        f"With the other knobs at their selected values it costs {tuned_words(found['score'], plan)}."
        if len(found["score"].conditional) > 1
        else "",
        ranking_words(marginals, ranks) if len(marginals) > 1 else "",
        standing(stands),
    ]
    caveats = dict.fromkeys([WIDTH, *(caveat for costs in found.values() for caveat in costs.caveats)])
    sentence = " ".join(filter(None, words))
    return Finding(QUESTION, task, subject, True, sentence, values, stands, tuple(caveats), recorded(found, plan))


def costs_of(cell: Cells, plan: Plan, setting: Mapping[str, Value] | None) -> AllCosts:
    """Every cost in one measure, none where it is constant; `setting` is None for several variants together."""
    floor = (NO_FLOOR,) if not np.isfinite(cell.floor) else ()
    if np.ptp(point_means(cell.good)) < 1e-12:
        return AllCosts({}, {}, {}, floor)
    marginals = {name: cost(cell, plan, name) for name in separable(cell)}
    if setting is None:
        return AllCosts(marginals, {}, {}, (*floor, PER_VARIANT))
    if on_a_line(cell, plan):
        return AllCosts(marginals, marginals, {}, (*floor, ON_A_LINE))
    found = conditional(cell, plan, setting)
    fixed, retuned = (
        {name: cost_on(one.axis, one.draws, one.middle, cell.floor) for name, one in responses.items()}
        for responses in (found.fixed, found.retuned)
    )
    refused = f"Nothing is said of the other knobs at their selected values: {found.reason}."
    return AllCosts(marginals, fixed, retuned, (*floor, AVERAGED if fixed else refused))


def cost(cell: Cells, plan: Plan, name: str) -> Cost:
    """One knob's marginal cost in both measures."""
    found = marginal(cell, plan, name)
    return cost_on(found.axis, found.response, found.response.mean(axis=0), cell.floor)


def cost_on(axis: Axis, draws: Array, middle: Array, floor: float) -> Cost:
    """The cost against the best place of a response with draws S G around its middle G.

    Over one decade the interval also holds the costs of the middle around every other place that may be the best.
    """
    best = locate(draws, middle, axis)
    whole = against(best.place, axis.weight, draws, middle, floor)
    around = {place: one_decade(axis, place) for place in range(best.low, best.high + 1)}
    costs = [shortfall(middle, weight, floor, place) for place, weight in around.items() if weight is not None]
    decade = around[best.place]
    return Cost(whole, None if decade is None else against(best.place, decade, draws, middle, floor, costs))


def against(
    best: int, weight: Array, draws: Array, middle: Array, floor: float, others: Sequence[float] = ()
) -> Estimate:
    """The cost against place `best`, with an interval over the draws that also holds the `others`."""
    costs = np.array([shortfall(draw, weight, floor, best) for draw in draws])
    return estimate(shortfall(middle, weight, floor, best), costs, others)


def verdict(costs: Mapping[str, Cost]) -> Verdict:
    """Whether both measures tell the same knob to cost most."""
    decade = {name: of.decade for name, of in costs.items() if of.decade}
    whole = {name: of.range for name, of in costs.items()}
    first = leader(whole)
    return Verdict(ordered(whole), ordered(decade), first is not None and first == leader(decade))


def ordered(costs: Mapping[str, Estimate]) -> list[str]:
    """The most expensive knob first."""
    return sorted(costs, key=lambda name: -costs[name].value)


def leader(costs: Mapping[str, Estimate]) -> str | None:
    """The knob, of at least two, whose interval is above all others'."""
    if len(costs) < 2:
        return None
    first, *others = ordered(costs)
    ends = [(costs[first].low, costs[name].high) for name in others]
    return first if all(low is not None and high is not None and low > high for low, high in ends) else None


def plain(costs: Mapping[str, Cost]) -> dict[str, dict[str, Estimate | None]]:
    """As a finding's values hold them."""
    return {name: of._asdict() for name, of in costs.items()}


def focus_words(found: Mapping[Measure, AllCosts], plan: Plan) -> str:
    """The focus knob's marginal cost in every measure."""
    of = [(measure, costs.marginal[plan.focus]) for measure, costs in found.items() if plan.focus in costs.marginal]
    whole = " and ".join(f"{span(cost.range)} in {measure}" for measure, cost in of)
    decade = " and ".join(f"{span(cost.decade)} in {measure}" for measure, cost in of if cost.decade)
    return f"a {plan.focus} drawn from its whole range costs {whole} against the best one" + (
        f"; one drawn from the decade around the best costs {decade}" if decade else ""
    )


def tuned_words(costs: AllCosts, plan: Plan) -> str:
    """The focus knob's conditional cost, and the other knobs' with the focus knob retuned."""
    others = ", ".join(f"{name} {span(of.range)}" for name, of in costs.retuned.items())
    return f"{span(costs.conditional[plan.focus].range)}; where {plan.focus} is retuned, the other knobs cost {others}"


def ranking_words(costs: Mapping[str, Cost], ranks: Verdict) -> str:
    """Knobs in order of cost in both measures, or why there is no order."""
    whole = ", ".join(f"{name} {span(costs[name].range)}" for name in ranks.by_range)
    decade = ", ".join(f"{name} {span(each)}" for name in ranks.by_decade if (each := costs[name].decade))
    first = f"In score, the declared ranges cost {whole}"
    if len(ranks.by_decade) < 2:
        return f"{first}; fewer than two knobs have a logarithm, so this order may come from the ranges."
    if ranks.agree:
        return f"{first}, and {NEAR} {decade}: {ranks.by_decade[0]} costs most in both measures."
    return f"{first}, and {NEAR} {decade}: the ranking depends on the declared ranges."


def recorded(found: Mapping[Measure, AllCosts], plan: Plan) -> tuple[Record, ...]:
    """Every cost."""
    return tuple(
        Record(f"cost {over}", estimate, measure, name, given)
        for measure, costs in found.items()
        for given, of in (
            ("averaged over the other knobs", costs.marginal),
            ("others at their selected values", costs.conditional),
            (f"others at their selected values, {plan.focus} retuned", costs.retuned),
        )
        for name, one in of.items()
        for over, estimate in (("over the declared range", one.range), ("over one decade", one.decade))
        if estimate
    )
