"""Judgement: what the tests of paired differences say, and what so many seeds could not have seen."""

from collections.abc import Mapping
from typing import NamedTuple

from study.analysis.equivalence import p_equivalent, power_of_equivalence
from study.analysis.finding import Estimate, Record
from study.analysis.holm import ALPHA, holm
from study.analysis.paired import Mean
from study.analysis.plan import Plan
from study.analysis.power import MOST_SEEDS, POWER, detectable, p_different, seeds_needed
from study.analysis.words import number


class Judgement(NamedTuple):
    """What the tests of one difference say; p-values are Holm-adjusted."""

    verdict: str  # within the margin | better | worse | not decided
    p_different: float
    p_equivalent: float
    power_equivalent: float  # of equivalence, if the two were equal
    detectable: float  # score units: the difference that would have been seen with a probability of POWER
    seeds_needed: int | None  # to see a difference of the margin with a probability of POWER


def judgements(differences: Mapping[str, Mean], plan: Plan, task: str) -> dict[str, Judgement]:
    """Equivalence is asked first, because a tuned variant is expected to match."""
    different = holm({v: p_different(d) for v, d in differences.items()})
    equivalent = holm({v: p_equivalent(d, plan.margin) for v, d in differences.items()})
    level = ALPHA / max(len(differences), 1)  # of Holm's first step: what follows is no less likely
    judged = {}
    for variant, found in differences.items():
        ahead = "better" if plan.sign(task) * found.value > 0 else "worse"
        unequal = ahead if different[variant] < ALPHA else "not decided"
        judged[variant] = Judgement(
            "within the margin" if equivalent[variant] < ALPHA else unequal,
            different[variant],
            equivalent[variant],
            power_of_equivalence(found, plan.margin, level),
            detectable(found, level),
            seeds_needed(found, plan.margin, level),
        )
    return judged


def records_of(judged: Judgement, plan: Plan) -> tuple[Record, ...]:
    """Every number of the tests."""
    against = f"against {plan.reference}"
    within = f"{against}, margin {plan.margin:g}"
    numbers = (
        ("p of no difference, Holm", judged.p_different, "probability", against),
        ("p of no equivalence, Holm", judged.p_equivalent, "probability", within),
        ("power of equivalence", judged.power_equivalent, "probability", within),
        ("detectable difference", judged.detectable, "score", against),
        ("seeds to detect the margin", judged.seeds_needed, "seeds", within),
    )
    return tuple(
        Record(quantity, Estimate(value, None, None), unit, given=given)
        for quantity, value, unit, given in numbers
        if value is not None
    )


def tests_in_words(judged: Judgement, seeds: int, tests: int) -> str:
    """The p-values, and what so many seeds can and cannot see."""
    corrected = f", both after Holm's correction over {tests} variants" if tests > 1 else ""
    often = f"{100 * POWER:.0f} % of the time"
    advice = (
        f"{judged.seeds_needed} seeds would see one of the margin as often"
        if judged.seeds_needed
        else f"not even {MOST_SEEDS:,} seeds would see one of the margin as often"
    )
    return (
        f"Test of a difference: {p_in_words(judged.p_different)}; of equivalence within the margin: "
        f"{p_in_words(judged.p_equivalent)}{corrected}. Were they equal, {seeds} seeds would show it at least "
        f"{100 * judged.power_equivalent:.0f} % of the time; "
        f"a difference of {number(judged.detectable)} would be seen {often}, and {advice}."
    )


def p_in_words(p: float) -> str:
    """Two digits, and no more zeros than a reader wants."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
