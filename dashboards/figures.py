"""Findings as figures and tables: the one place that knows what each question's `values` are called."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from dashboards import charts
from dashboards.charts import Axes, Chart, Curve, Look, Mark, Point, Share, Smooth
from study.analysis.finding import POOLED, Estimate, Finding
from study.analysis.words import number, percent, span

MISSING = "–"
MARKS = "Marks: single trials; × is a diverged one, drawn at the score of the untouched base model"
COST = (
    "What a value drawn at random costs on average against the best value, in units of the score, with its 95 % "
    "interval. Near zero, tuning is hardly worth the effort. A wide range costs more by its width alone, hence the "
    "second panel, on the same scale."
)
ALONE, COMBINED = "by itself", "with its combinations"


@dataclass(frozen=True)
class Figure:
    """A picture of one or more panels, and what a reader must know to read it."""

    name: str  # file stem, unique in the report
    title: str
    caption: str
    panels: tuple[Chart, ...]
    columns: int = 1  # of the picture; a page wraps its panels by itself


class Table(NamedTuple):
    """Headings and rows of text; every row is as long as the headings."""

    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Scene:
    """What a question's figures need besides its findings."""

    task: str
    name: str  # of the task, fit for a file name
    score: str  # what the score is called
    better: str  # "higher is better" | "lower is better"
    looks: Mapping[str, Look]


class View(NamedTuple):
    """How one question is shown."""

    figures: Callable[[Sequence[Finding], Scene], list[Figure]]
    table: Callable[[Sequence[Finding]], Table]


def of_question(question: str) -> View:
    """The question's own view; a question without one is shown in words and a plain table."""
    return VIEWS.get(question, View(lambda findings, scene: [], plain_table))


def response_figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """The pooled curve with every variant's trials, then a panel per variant in front of the pooled curve."""
    curves = {finding.subject: curve(finding) for finding in findings}
    if not curves:
        return []
    knob = str(findings[0].values["knob"])
    axes = response_axes(list(curves.values()), knob, scene)
    pooled = curves.pop(POOLED, None)
    found = []
    if pooled:
        title = f"Validation {scene.score} against {knob}, all variants"
        found.append(
            Figure(
                f"response-{scene.name}", title, curve_words(findings[0]), (charts.response(pooled, scene.looks, axes),)
            )
        )
    if curves:
        panels = tuple(charts.response(one, scene.looks, axes, pooled) for one in curves.values())
        caption = "The same for each variant by itself" + (
            "; the thin grey line is the curve of all variants." if pooled else "."
        )
        title = f"Validation {scene.score} against {knob}, per variant"
        found.append(Figure(f"response-variants-{scene.name}", title, caption, panels, 2))
    return found


def curve(finding: Finding) -> Curve:
    """A response finding as the chart wants it."""
    values, raw = finding.values, finding.values["raw"]
    rows = zip(raw["x"], raw["y"], raw["seed"], raw["variant"], raw["diverged"], strict=True)
    return Curve(
        finding.subject,
        [Point(*row) for row in rows],
        [Smooth(*row) for row in zip(values["x"], values["mean"], values["low"], values["high"], strict=True)],
        values["best"] if values["ranked"] else None,
        (values["window"]["low"], values["window"]["high"]),
        values["start"],
    )


def response_axes(curves: Sequence[Curve], knob: str, scene: Scene) -> Axes:
    """Axes that hold every trial, every smooth and the pooled band; a variant's band is cut where it leaves them."""
    across = [s.x for curve in curves for s in curve.smooth] + [p.x for curve in curves for p in curve.points]
    up = [s.mean for curve in curves for s in curve.smooth] + [p.y for curve in curves for p in curve.points]
    up += [end for curve in curves if curve.subject == POOLED for s in curve.smooth for end in (s.low, s.high)]
    room = 0.05 * (max(up) - min(up))
    titles = f"{knob} (log scale)", f"validation {scene.score}"
    return Axes(*titles, (min(across), max(across)), (min(up) - room, max(up) + room))


def trials_figure(trials: pd.DataFrame, knob: str, scene: Scene) -> list[Figure]:
    """The explore trials of a task as they are, for when no curve could be drawn through them."""
    columns = [knob, "val_score", "seed", "variant", "diverged"]
    if knob not in trials or not pd.api.types.is_numeric_dtype(trials[knob]):
        return []
    rows = trials.loc[(trials["task"] == scene.task) & (trials["phase"] == "explore") & (trials[knob] > 0), columns]
    points = [
        Point(float(x), float(y), int(seed), str(name), bool(lost))
        for x, y, seed, name, lost in rows.itertuples(index=False)
    ]
    if len({point.x for point in points}) < 2:
        return []
    everything = Curve(POOLED, points)
    title = f"Every trial: validation {scene.score} against {knob}"
    caption = f"{MARKS}. There is no curve, for the reasons given below."
    chart = charts.response(everything, scene.looks, response_axes([everything], knob, scene))
    return [Figure(f"response-{scene.name}", title, caption, (chart,))]


def curve_words(finding: Finding) -> str:
    """How to read a response curve."""
    return (
        f"Line: smoothed score, averaged over the other knobs, with its 95 % band. {MARKS} (dashed line). "
        "Vertical line: the best value; the bar at its top is its 95 % interval. "
        f"Tinted: where the line stays within {finding.values['margin']:g} of its best."
    )


def response_table(findings: Sequence[Finding]) -> Table:
    """Best value, score there and window, a row per subject."""
    heads = ("for", "best value", "score there", "window", "decades", "settings / seeds / diverged")
    return Table(heads, tuple(response_row(finding) for finding in findings))


def response_row(finding: Finding) -> tuple[str, ...]:
    """One subject's line; an optimum at the end of the range is told, not ranked."""
    values, inside = finding.values, finding.values["window"]
    best = (
        span(values["best"]) if values["ranked"] else f"{number(values['best'].value)}, not ranked: {unranked(finding)}"
    )
    low, high = ("< " if inside["cut_low"] else ""), ("> " if inside["cut_high"] else "")
    window = f"{low}{number(inside['low'])} to {high}{number(inside['high'])}"
    return (finding.subject, best, span(values["best_score"]), window, span(values["window_decades"]), stands(finding))


def unranked(finding: Finding) -> str:
    """Why a best value is not ranked."""
    edge = finding.values["boundary"]
    return f"at the {edge} end of the range" if edge else "its interval is too wide"


def stands(finding: Finding) -> str:
    """What a finding rests on: settings, seeds, diverged runs."""
    return " / ".join(str(finding.basis.get(name, MISSING)) for name in ("settings", "seeds", "diverged"))


def variance_figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """Bars per knob, pooled and then a panel per variant, each headed by the deviation that the bars are shares of."""
    pooled = tuple(shares_panel(finding, scene) for finding in findings if finding.subject == POOLED)
    single = tuple(shares_panel(finding, scene) for finding in findings if finding.subject != POOLED)
    caption = (
        f"Bars: the part of the variance that a knob explains {ALONE} and, where the design allows it, {COMBINED}. "
        "Black lines: 95 % intervals. Dashed line: the noise floor, what a knob without any effect would show."
    )
    title = f"Shares of the variance of validation {scene.score}"
    found = [Figure(f"variance-{scene.name}", f"{title}, all variants", caption, pooled)] if pooled else []
    if single:
        again = "The same for each variant by itself." if pooled else caption
        found.append(Figure(f"variance-variants-{scene.name}", f"{title}, per variant", again, single, 2))
    return found


def shares_panel(finding: Finding, scene: Scene) -> Chart:
    """One subject's bars; a share means nothing without what it is a share of."""
    title = f"{finding.subject}: shares of an SD of {number(finding.values['deviation'].value)}"
    return charts.shares(
        bars(finding), finding.values["floor"], f"share of the variance of validation {scene.score}", title
    )


def bars(finding: Finding) -> list[Share]:
    """A variance finding as the chart wants it."""
    kinds = ((ALONE, finding.values["first"]), (COMBINED, finding.values["total"] or {}))
    return [Share(knob, kind, share) for kind, of in kinds for knob, share in of.items()]


def variance_table(findings: Sequence[Finding]) -> Table:
    """A row per subject and knob."""
    heads = ("for", "knob", "declared values", ALONE, COMBINED, "noise floor")
    return Table(heads, tuple(row for finding in findings for row in variance_rows(finding)))


def variance_rows(finding: Finding) -> list[tuple[str, ...]]:
    """One subject's lines, in the finding's order."""
    values = finding.values
    total = values["total"] or {}
    return [
        (
            finding.subject,
            knob,
            range_words(values["ranges"].get(knob)),
            percent(share),
            percent(total[knob]) if knob in total else MISSING,
            f"{100 * values['floor']:.1f} %",
        )
        for knob, share in values["first"].items()
    ]


def range_words(ends: Sequence[Any] | None) -> str:
    """The ends of a range or the levels, as declared."""
    return ", ".join(map(str, ends)) if ends else MISSING


def sensitivity_figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """The focus knob's cost per variant, and every knob's cost averaged over variants, both in two measures."""
    if not any(finding.values["score"] for finding in findings):
        return []
    focus, axis = str(findings[0].values["focus"]), f"validation {scene.score} given up on average"
    per_subject = {f.subject: f.values["score"][focus] for f in findings if focus in f.values["score"]}
    pooled: Mapping[str, Any] = next((f.values["score"] for f in findings if f.subject == POOLED), {})
    found = [
        Figure(
            f"sensitivity-{scene.name}", f"Cost of not tuning {focus}", COST, cost_panels(per_subject, scene, axis), 2
        )
    ]
    if pooled:
        name, title = f"sensitivity-knobs-{scene.name}", "Cost of not tuning each knob, averaged over variants"
        found.append(Figure(name, title, "The same for every knob.", cost_panels(pooled, scene, axis), 2))
    return found


def cost_panels(costs: Mapping[str, Mapping[str, Estimate | None]], scene: Scene, axis: str) -> tuple[Chart, ...]:
    """The declared range on the left, the decade around the best on the right where one is defined."""
    measures = (("range", "declared range"), ("decade", "one decade around the best"))
    marks = {title: [Mark(name, cost) for name, of in costs.items() if (cost := of[key])] for key, title in measures}
    top = max(
        (
            high if (high := mark.estimate.high) is not None else mark.estimate.value
            for some in marks.values()
            for mark in some
        ),
        default=0,
    )
    return tuple(charts.dots(some, scene.looks, axis, title, top) for title, some in marks.items() if some)


def sensitivity_table(findings: Sequence[Finding]) -> Table:
    """A row per subject and knob: the cost in both units and both measures."""
    heads = ("for", "knob", "score, range", "score, decade", "loss, range", "loss, decade")
    return Table(heads, tuple(row for finding in findings for row in sensitivity_rows(finding)))


def sensitivity_rows(finding: Finding) -> list[tuple[str, ...]]:
    """One subject's lines."""
    score, loss = finding.values["score"], finding.values["loss"]
    return [(finding.subject, knob, *cost_cells(score[knob]), *cost_cells(loss.get(knob))) for knob in score]


def cost_cells(cost: Mapping[str, Estimate | None] | None) -> tuple[str, str]:
    """A cost by both measures; not every measure is defined for every knob."""
    both = [cost["range"], cost["decade"]] if cost else [None, None]
    in_range, in_decade = (span(one) if one else MISSING for one in both)
    return in_range, in_decade


def comparison_figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """Every variant's paired difference from the reference, over the strip that counts as equal."""
    compared = [finding for finding in findings if "difference" in finding.values]
    if not compared:
        return []
    reference, margin = compared[0].values["reference"], compared[0].values["margin"]
    marks = [Mark(finding.subject, finding.values["difference"]) for finding in compared]
    title = f"Tuned variants against tuned {reference}"
    axis = f"test {scene.score} minus that of {reference} ({scene.better})"
    caption = (
        f"Paired difference from {reference} on the test split, each variant at the setting selected on validation, "
        f"with its 95 % interval (a hollow mark has none). Tinted: differences below the margin of {margin:g}, "
        "which count as equal."
    )
    return [Figure(f"comparison-{scene.name}", title, caption, (charts.differences(marks, margin, scene.looks, axis),))]


def comparison_table(findings: Sequence[Finding]) -> Table:
    """The selected setting, its test score and its difference, a row per variant."""
    heads = ("for", "selected setting", "test score", "difference", "seeds", "verdict")
    return Table(heads, tuple(comparison_row(finding) for finding in findings if "test_score" in finding.values))


def comparison_row(finding: Finding) -> tuple[str, ...]:
    """One variant's line; the reference has no difference from itself."""
    values = finding.values
    setting = ", ".join(
        f"{knob} {value:.3g}" if isinstance(value, float) else f"{knob} {value}"
        for knob, value in values["setting"].items()
    )
    difference = span(values["difference"]) if "difference" in values else MISSING
    verdict = "the reference" if finding.subject == values["reference"] else values.get("verdict", MISSING)
    return (
        finding.subject,
        setting,
        span(values["test_score"]),
        difference,
        str(finding.basis.get("seeds", MISSING)),
        verdict,
    )


def plain_table(findings: Sequence[Finding]) -> Table:
    """The single numbers of a question without a view of its own."""
    names = list(
        dict.fromkeys(
            name
            for f in findings
            for name, value in f.values.items()
            if isinstance(value, Estimate | float | int | str)
        )
    )
    rows = tuple((f.subject, *(plain_cell(f.values.get(name)) for name in names)) for f in findings)
    return Table(("for", *names), rows) if names else Table()


def plain_cell(value: Any) -> str:
    """A number with its interval, a number, or the text itself."""
    if isinstance(value, Estimate):
        return span(value)
    if isinstance(value, float):
        return number(value)
    return MISSING if value is None else str(value)


VIEWS = {
    "variance": View(variance_figures, variance_table),
    "response": View(response_figures, response_table),
    "sensitivity": View(sensitivity_figures, sensitivity_table),
    "comparison": View(comparison_figures, comparison_table),
}
