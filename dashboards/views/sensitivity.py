"""Sensitivity: what it costs not to tune a knob, in two measures, averaged over the other knobs and at x*."""

from collections.abc import Mapping, Sequence
from typing import Any

from dashboards import heat, intervals
from dashboards.charts import Chart
from dashboards.heat import Field
from dashboards.intervals import Mark
from dashboards.views.base import MISSING, Figure, Scene, Table, View, cell, top_of
from study.analysis.finding import POOLED, Estimate, Finding
from study.analysis.words import number

Costs = Mapping[str, Mapping[str, Estimate | None]]  # knob -> measure -> cost

COST = (
    "What a value drawn at random costs on average against the best value, in units of the score, with its 95 % "
    "interval. Near zero, tuning is hardly worth the effort. A wide range costs more by its width alone, hence the "
    "second panel, on the same scale; a knob that spans less than a decade keeps its whole range there."
)
MEASURES = (("range", "declared range"), ("decade", "one decade around the best"))


def figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """The focus knob's cost per variant, every knob's averaged over variants, and a map of knobs by variants."""
    told = [finding for finding in findings if finding.values.get("score")]
    if not told:
        return []
    focus, axis = str(told[0].values["focus"]), f"{scene.score} given up on average"
    per_subject = {f.subject: f.values["score"][focus] for f in told if focus in f.values["score"]}
    pooled: Costs = next((f.values["score"] for f in told if f.subject == POOLED), {})
    shown = [
        ("sensitivity", f"Cost of not tuning {focus}", COST, panels(per_subject, scene, axis)),
        (
            "sensitivity-knobs",
            "Cost of not tuning each knob, all variants",
            COST,
            panels(pooled, scene, axis),
        ),
        ("sensitivity-map", "Cost of not tuning each knob, per variant", map_words(scene), maps(told)),
    ]
    return [Figure(f"{name}-{scene.name}", title, words, some, 2) for name, title, words, some in shown if some]


def panels(costs: Costs, scene: Scene, axis: str) -> tuple[Chart, ...]:
    """The declared range on the left, the decade around the best on the right where a knob has a logarithm."""
    marks = {title: [Mark(name, cost) for name, of in costs.items() if (cost := of[key])] for key, title in MEASURES}
    top = top_of([mark.estimate for some in marks.values() for mark in some])
    return tuple(intervals.dots(some, scene.looks, axis, title, top) for title, some in marks.items() if some)


def map_words(scene: Scene) -> str:
    """How to read the map."""
    return (
        f"The same costs, in validation {scene.score}: the darker, the more it costs to leave the knob of the column "
        f"untuned in the variant of the row. {MISSING}: the variant has no such knob, or the knob no logarithm."
    )


def maps(findings: Sequence[Finding]) -> tuple[Chart, ...]:
    """Variants by knobs, a map per measure; none for a single variant or knob, which the dots show."""
    costs: dict[str, Costs] = {f.subject: f.values["score"] for f in findings if f.subject != POOLED}
    knobs = list(dict.fromkeys(knob for of in costs.values() for knob in of))
    if len(costs) < 2 or len(knobs) < 2:
        return ()
    top = max(cost.value for of in costs.values() for both in of.values() for cost in both.values() if cost) or 1.0
    return tuple(heat.heat(fields(costs, knobs, key), title, top) for key, title in MEASURES)


def fields(costs: Mapping[str, Costs], knobs: Sequence[str], measure: str) -> list[Field]:
    """A field per variant and knob."""
    found = [(variant, knob, of.get(knob, {}).get(measure)) for variant, of in costs.items() for knob in knobs]
    return [
        Field(variant, knob, cost.value, number(cost.value)) if cost else Field(variant, knob, None, MISSING)
        for variant, knob, cost in found
    ]


def tables(findings: Sequence[Finding]) -> list[Table]:
    """A row per subject and knob: averaged over the other knobs, and with them at their selected values."""
    told = [finding for finding in findings if finding.values.get("score")]
    heads = ("for", "knob", "score, range", "score, decade", "loss, range", "loss, decade")
    fixed = ("for", "knob", "range", "decade", "range, retuned", "decade, retuned")
    title = "In score, the other knobs at their selected values; retuned: the knob in focus at its best for each value"
    return [
        Table(heads, tuple(row for finding in told for row in rows(finding))),
        Table(fixed, tuple(row for finding in told for row in fixed_rows(finding)), title),
    ]


def rows(finding: Finding) -> list[tuple[str, ...]]:
    """One subject's lines, averaged over the other knobs."""
    score, loss = finding.values["score"], finding.values.get("loss", {})
    return [(finding.subject, knob, *cells(score[knob]), *cells(loss.get(knob))) for knob in score]


def fixed_rows(finding: Finding) -> list[tuple[str, ...]]:
    """One subject's lines at its selected setting."""
    fixed, retuned = (finding.values[given].get("score", {}) for given in ("conditional", "retuned"))
    return [(finding.subject, knob, *cells(fixed[knob]), *cells(retuned.get(knob))) for knob in fixed]


def cells(cost: Mapping[str, Any] | None) -> tuple[str, str]:
    """A cost by both measures; not every measure is defined for every knob."""
    both = cost or {}
    return cell(both.get("range")), cell(both.get("decade"))


VIEW = View(
    "What does it cost not to tune a knob?",
    "What is lost on average by drawing a value at random instead of taking the best one, no result counted as worse "
    "than the untouched base model (learning-rate sensitivity, Wortsman et al. 2023).",
    figures,
    tables,
)
