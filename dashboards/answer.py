"""The answer in short: findings put next to each other in plain words. Every number is a finding's own."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from study.analysis.finding import POOLED, Estimate, Finding
from study.analysis.seeds import LEAST_SEEDS
from study.analysis.words import number, percent, span

NO_ANSWER = "There are results, but too few for any question of this report; the reasons are listed below."
FEW = 4  # variants that are named with their numbers


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
        Statement("Does one shared value mislead?", shared_value(findings)),
        Statement("How sure.", how_sure(findings)),
    ]


def pooled(question: str, findings: Sequence[Finding]) -> Finding | None:
    """A question's finding over all variants."""
    return next((f for f in findings if f.question == question and f.subject == POOLED), None)


def what_matters(findings: Sequence[Finding]) -> str:
    """The knob with the largest share, held against the cost in both measures: a ranking needs both."""
    shares, costs = pooled("variance", findings), pooled("sensitivity", findings)
    known = shares is not None and "first" in shares.values
    parts = [by_share(shares) if shares and known else shares.sentence if shares else ""]
    if costs and costs.answered:
        parts.append(by_cost(costs, largest(shares) if shares and known else ""))
    return " ".join(filter(None, parts))


def largest(shares: Finding) -> str:
    """The knob with the largest share by itself."""
    first: Mapping[str, Estimate] = shares.values["first"]
    return max(first, key=lambda name: first[name].value)


def by_share(shares: Finding) -> str:
    """The largest share, how far the next one is, and whether chance alone could show as much."""
    (top, share), *others = sorted(shares.values["first"].items(), key=lambda item: -item[1].value)
    deviation = span(shares.values["deviation"])
    text = f"{top} explains {percent(share)} by itself of the variance of the score, whose SD is {deviation}"
    floor = shares.values["floor"]
    if share.low is None or share.high is None or share.value <= floor:
        return f"{text}; a knob without effect would show {100 * floor:.1f} %, so no knob stands out."
    if not others:
        return f"{text}."
    rivals = [name for name, other in others if other.high is None or other.high >= share.low]
    doubt = f"overlaps that of {', '.join(rivals)}, so the order is not certain"
    sure = doubt if rivals else "lies above those of all others"
    return f"{text}; the next largest is {others[0][0]} with {percent(others[0][1])}. Its interval {sure}."


def by_cost(costs: Finding, top: str) -> str:
    """What leaving a knob untuned costs over its range and over a decade, and whether the measures agree on `top`."""
    score, ranks = costs.values["score"], costs.values["ranking"]
    if not ranks["by_range"]:
        return ""
    dear, *rivals = ranks["by_range"]
    if not rivals:
        return f"Left untuned over its declared range, it costs {span(score[dear]['range'])} of score."
    text = f"Left untuned over its declared range, {dear} costs most: {span(score[dear]['range'])} of score"
    if len(ranks["by_decade"]) < 2:
        return f"{text}; over equal widths knobs cannot be compared here, so this order may come from the ranges."
    near, second, *_ = ranks["by_decade"]
    text += (
        f"; over one decade around the best value (all of a narrower range) {near} does, "
        f"{span(score[near]['decade'])}, before {second}, {span(score[second]['decade'])}."
    )
    return f"{text} {agreement([dear, near, *filter(None, [top])], ranks['agree'])}"


def agreement(named: Sequence[str], sure: bool) -> str:
    """Whether every measure names the same knob, and does so beyond doubt."""
    if len(set(named)) > 1:
        return "So the ranking depends on the declared ranges."
    return "Both measures agree." if sure else "Both agree, but intervals overlap, so the order is not certain."


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
    groups = {verdict: [f for f in compared if f.values["verdict"] == verdict] for verdict in verdicts}
    opening = "Tuned alike." if "better" in groups else f"Tuned alike, no variant is shown to beat {reference}."
    listed = "; ".join(f"{members(group)} ({verdict})" for verdict, group in groups.items())
    return f"{opening} Difference in test score from {reference}: {listed}."


def members(group: Sequence[Finding]) -> str:
    """A few variants with their differences, or how many there are and how far they reach."""
    if len(group) <= FEW:
        return ", ".join(map(member, group))
    low, *_, high = sorted(group, key=lambda finding: finding.values["difference"].value)
    return f"{len(group)} variants, from {member(low)} to {member(high)}"


def member(finding: Finding) -> str:
    """A variant and its difference."""
    difference = finding.values["difference"]
    return f"{finding.subject} {'+' if difference.value > 0 else ''}{span(difference)}"


def shared_value(findings: Sequence[Finding]) -> str:
    """How the variants' ranking at the reference's best value agrees with the tuned one, and the sign flips."""
    found = pooled("shared value", findings)
    if found is None or not found.answered:
        return ""
    values = found.values
    flips, others, reference = values["flips"], len(values["differences"]), values["reference"]
    many = "variant" if others == 1 else "variants"
    opening = "Yes." if (flips.low or 0) >= 1 else "No reversal is possible." if flips.high == 0 else "Not shown."
    return (
        f"{opening} {span(flips)} of {others} {many} beat {reference} by more than {values['margin']:g} at one shared "
        f"{values['knob']} and lose by more at another; at the best one of {reference}, {number(values['at'])}, the "
        f"ranking agrees with the tuned one with a Kendall's tau of {span(values['tau_at'])}."
    )


def how_sure(findings: Sequence[Finding]) -> str:
    """What everything rests on, and how many questions were refused."""
    basis = next((f.basis for f in findings if f.subject == POOLED and f.basis.get("runs")), None)
    if basis is None:
        return ""
    seeds = basis["seeds"]
    given = "one seed, so run-to-run noise is unknown" if seeds == 1 else f"conditional on these {seeds} seeds"
    given = "over settings and seeds" if seeds >= LEAST_SEEDS else given
    text = (
        f"{counted(basis['settings'], 'setting')}, {counted(seeds, 'seed')}, {counted(basis['runs'], 'trial')}, "
        f"{basis['diverged']} of them diverged; square brackets are 95 % intervals, {given}."
    )
    refused = sum(not finding.answered for finding in findings)
    return f"{text} {refused} of {len(findings)} questions were refused, with reasons below." if refused else text


def counted(count: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{count} {noun}{'s' * (count != 1)}"
