"""The answer in short: findings put next to each other in plain words. Every number is a finding's own."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from study.analysis.finding import POOLED, Estimate, Finding
from study.analysis.words import number, percent, span

NO_ANSWER = "There are results, but too few for any question of this report; the reasons are listed below."


class Statement(NamedTuple):
    """One part of the answer: what it is about, and what is known."""

    about: str
    text: str


def statements(findings: Sequence[Finding]) -> list[Statement]:
    """What matters, where it is good, whether a variant wins, and how sure that is; for every task."""
    if not any(finding.answered for finding in findings):
        return [Statement("No answer yet.", NO_ANSWER)]
    tasks = list(dict.fromkeys(finding.task for finding in findings))
    return [
        Statement(f"{about} ({task})" if len(tasks) > 1 else about, text)
        for task in tasks
        for about, text in of_task([finding for finding in findings if finding.task == task])
        if text
    ]


def of_task(findings: Sequence[Finding]) -> list[Statement]:
    """The parts of one task's answer; a part without findings is empty."""
    return [
        Statement("What matters most.", what_matters(findings)),
        Statement("Where it is good.", where_good(findings)),
        Statement("Which variant.", which_variant(findings)),
        Statement("How sure.", how_sure(findings)),
    ]


def pooled(question: str, findings: Sequence[Finding]) -> Finding | None:
    """A question's finding over all variants."""
    return next((f for f in findings if f.question == question and f.subject == POOLED), None)


def what_matters(findings: Sequence[Finding]) -> str:
    """The knob with the largest share, checked against the cost per equal width: a ranking needs both measures."""
    shares, costs = pooled("variance", findings), pooled("sensitivity", findings)
    per_range, per_decade = (cost_of(costs, measure) for measure in ("range", "decade"))
    if shares is None:
        return ""
    if not shares.answered:
        return " ".join([shares.sentence, by_cost(per_range, per_decade)]).strip()
    ordered = sorted(shares.values["first"].items(), key=lambda item: -item[1].value)
    return " ".join([by_share(ordered, shares), by_decade(ordered[0][0], per_decade)]).strip()


def cost_of(costs: Finding | None, measure: str) -> dict[str, Estimate]:
    """Every knob's cost in score units by one measure, largest first."""
    if costs is None or not costs.answered:
        return {}
    found = {knob: cost[measure] for knob, cost in costs.values["score"].items() if cost[measure]}
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def by_share(ordered: Sequence[tuple[str, Estimate]], shares: Finding) -> str:
    """The largest share, how far the next one is, and whether chance alone could show as much."""
    (top, share), *others = ordered
    deviation = span(shares.values["deviation"])
    text = f"{top}: by itself it explains {percent(share)} of the variance of the score, whose SD is {deviation}"
    floor = shares.values["floor"]
    if share.low is None or share.high is None or share.value <= floor:
        return f"{text}; a knob without effect would show {100 * floor:.1f} %, so no knob stands out."
    if not others:
        return f"{text}."
    rivals = [name for name, other in others if other.high is None or other.high >= share.low]
    doubt = f"overlaps that of {', '.join(rivals)}, so the order is not certain"
    sure = doubt if rivals else "lies above those of all others"
    return f"{text}; the next largest is {others[0][0]} with {percent(others[0][1])}. Its interval {sure}."


def by_decade(top: str, per_decade: Mapping[str, Estimate]) -> str:
    """Whether the knob with the largest share also costs most when every range is one decade wide."""
    if top not in per_decade or len(per_decade) < 2:
        return ""
    first, second = list(per_decade)[:2]
    if first == top:
        return (
            f"Over an equal width, one decade around the best value, leaving it untuned also costs most: "
            f"{span(per_decade[top])} of score, next {second} with {span(per_decade[second])}."
        )
    return (
        f"But over an equal width, one decade around the best value, leaving {first} untuned costs more: "
        f"{span(per_decade[first])} of score against {span(per_decade[top])}. "
        "So the ranking depends on the declared ranges."
    )


def by_cost(per_range: Mapping[str, Estimate], per_decade: Mapping[str, Estimate]) -> str:
    """What is known about the knobs without shares, by both measures of their cost."""
    if not per_range:
        return ""
    top = next(iter(per_range))
    text = f"Left untuned over its declared range, {top} costs most: {span(per_range[top])} of score."
    return f"{text} {by_decade(top, per_decade)}".strip()


def where_good(findings: Sequence[Finding]) -> str:
    """The pooled best value and window, and how far the variants' own best values are apart."""
    response = pooled("response", findings)
    if response is None:
        return ""
    if not response.answered:
        return response.sentence
    values, inside = response.values, response.values["window"]
    if values["boundary"]:
        edge = f"at the {values['boundary']} end of its range"
        return f"The best {values['knob']} tried lies {edge}: the optimum may lie outside, so widen it."
    cut = " (cut by the range)" if inside["cut_low"] or inside["cut_high"] else ""
    wide = "" if values["ranked"] else ", too wide an interval to rank"
    text = (
        f"{values['knob']} {span(values['best'])}{wide}; the score stays within {values['margin']:g} of its best from "
        f"{number(inside['low'])} to {number(inside['high'])}{cut}, {span(values['window_decades'])} decades."
    )
    return f"{text} {best_per_variant(findings)}".strip()


def best_per_variant(findings: Sequence[Finding]) -> str:
    """The smallest and the largest of the variants' best values, and whether their intervals tell them apart."""
    given = [f for f in findings if f.question == "response" and f.answered and f.subject != POOLED]
    found: dict[str, Estimate] = {f.subject: f.values["best"] for f in given if f.values["ranked"]}
    if len(found) < 2:
        return ""
    low, high = (pick(found, key=lambda name: found[name].value) for pick in (min, max))
    ceiling, floor = found[low].high, found[high].low
    apart = ceiling is not None and floor is not None and ceiling < floor
    sure = "their intervals do not overlap" if apart else "but their intervals overlap, so no shift is shown"
    ends = (f"{number(found[name].value)} ({name})" for name in (low, high))
    return f"By variant the best value goes from {' to '.join(ends)}; {sure}."


def which_variant(findings: Sequence[Finding]) -> str:
    """The variants by verdict against the reference."""
    asked = [finding for finding in findings if finding.question == "comparison"]
    compared = [finding for finding in asked if "verdict" in finding.values]
    if not compared:
        return "No variant was compared with the reference on the test split." if asked else ""
    reference = compared[0].values["reference"]
    verdicts = dict.fromkeys(str(finding.values["verdict"]) for finding in compared)
    groups = {verdict: [member(f) for f in compared if f.values["verdict"] == verdict] for verdict in verdicts}
    opening = "Tuned alike." if "better" in groups else f"Tuned alike, no variant is shown to beat {reference}."
    listed = "; ".join(f"{', '.join(members)} ({verdict})" for verdict, members in groups.items())
    return f"{opening} Difference in test score from {reference}: {listed}."


def member(finding: Finding) -> str:
    """A variant and its difference."""
    difference = finding.values["difference"]
    return f"{finding.subject} {'+' if difference.value > 0 else ''}{span(difference)}"


def how_sure(findings: Sequence[Finding]) -> str:
    """What everything rests on, and how many questions were refused."""
    basis = next(
        (finding.basis for finding in findings if finding.subject == POOLED and finding.basis.get("runs")), None
    )
    if basis is None:
        return ""
    text = (
        f"{basis['settings']} settings, {basis['seeds']} seeds, {basis['runs']} trials, "
        f"{basis['diverged']} of them diverged; square brackets are 95 % intervals, conditional on these seeds."
    )
    refused = sum(not finding.answered for finding in findings)
    return f"{text} {refused} of {len(findings)} questions were refused, with reasons below." if refused else text
