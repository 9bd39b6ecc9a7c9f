"""Response: score over the knob in focus, pooled, per variant and at every level of the discrete knobs."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dashboards import curves
from dashboards.charts import Chart
from dashboards.curves import Axes, Curve, Line, Point, Smooth
from dashboards.views.base import Figure, Scene, Table, View, columns_of, having, stands
from study.analysis.finding import POOLED, Finding
from study.analysis.words import number, span

MARKS = "Marks: single trials; × is a diverged one, drawn at the score of the untouched base model"


def figures(findings: Sequence[Finding], scene: Scene) -> list[Figure]:
    """The pooled curve with every variant's trials, a panel per variant before the pooled curve, one per other knob."""
    told = having("raw", findings)
    if not told:
        return []
    found = {finding.subject: curve(finding) for finding in told}
    knob = str(told[0].values["knob"])
    axes = axes_of(list(found.values()), knob, scene)
    title = f"Validation {scene.score} against {knob}"
    pooled = found.pop(POOLED, None)
    shown = []
    if pooled:
        panel = curves.response(pooled, scene.looks, axes)
        shown.append(Figure(f"response-{scene.name}", f"{title}, all variants", words(told[0]), (panel,)))
    if found:
        panels = tuple(curves.response(one, scene.looks, axes, pooled) for one in found.values())
        behind = "; the thin grey line is the curve of all variants" if pooled else ""
        caption = f"The same for each variant by itself{behind}."
        name = f"response-variants-{scene.name}"
        shown.append(Figure(name, f"{title}, per variant", caption, panels, columns_of(panels)))
    return [*shown, *(levels_figure(told[0], axes, scene) if pooled else [])]


def curve(finding: Finding) -> Curve:
    """A response finding as the chart wants it."""
    values, raw = finding.values, finding.values["raw"]
    rows = zip(raw["x"], raw["y"], raw["seed"], raw["variant"], raw["diverged"], strict=True)
    return Curve(
        finding.subject,
        [Point(*row) for row in rows if row[1] is not None],
        smooth(values),
        values["best"] if values["ranked"] else None,
        (values["window"]["low"], values["window"]["high"]),
        values["start"],
    )


def smooth(values: Mapping[str, Any]) -> list[Smooth]:
    """A curve and its band, place by place."""
    return [Smooth(*row) for row in zip(values["x"], values["mean"], values["low"], values["high"], strict=True)]


def axes_of(found: Sequence[Curve], knob: str, scene: Scene) -> Axes:
    """Axes that hold every trial, every smooth and the pooled band; a variant's band is cut where it leaves them."""
    across = [s.x for curve in found for s in curve.smooth] + [p.x for curve in found for p in curve.points]
    up = [s.mean for curve in found for s in curve.smooth] + [p.y for curve in found for p in curve.points]
    up += [end for curve in found if curve.subject == POOLED for s in curve.smooth for end in (s.low, s.high)]
    room = 0.05 * (max(up) - min(up))
    titles = f"{knob} (log scale)", f"validation {scene.score}"
    return Axes(*titles, (min(across), max(across)), (min(up) - room, max(up) + room))


def levels_figure(pooled: Finding, axes: Axes, scene: Scene) -> list[Figure]:
    """A panel per discrete knob, a line per level."""
    panels: tuple[Chart, ...] = tuple(
        curves.lines([Line(level, smooth(values)) for level, values in levels.items()], axes, knob)
        for knob, levels in pooled.values["by_level"].items()
    )
    if not panels:
        return []
    title = f"Validation {scene.score} against {pooled.values['knob']}, at every level of the discrete knobs"
    caption = "All variants; a line per level, averaged over the other knobs, with its 95 % band."
    return [Figure(f"response-levels-{scene.name}", title, caption, panels, min(len(panels), 2))]


def trials_figure(trials: pd.DataFrame, knob: str, scene: Scene) -> list[Figure]:
    """The explore trials of a task as they are, for when no curve could be drawn through them."""
    columns = [knob, "val_score", "seed", "variant", "diverged"]
    if knob not in trials or not pd.api.types.is_numeric_dtype(trials[knob]):
        return []
    wanted = (trials["task"] == scene.task) & (trials["phase"] == "explore") & (trials[knob] > 0)
    points = [
        Point(float(x), float(y), int(seed), str(name), bool(lost))
        for x, y, seed, name, lost in trials.loc[wanted, columns].itertuples(index=False)
    ]
    if len({point.x for point in points}) < 2:
        return []
    everything = Curve(POOLED, points)
    title = f"Every trial: validation {scene.score} against {knob}"
    caption = f"{MARKS}. There is no curve, for the reasons given below."
    chart = curves.response(everything, scene.looks, axes_of([everything], knob, scene))
    return [Figure(f"response-{scene.name}", title, caption, (chart,))]


def words(finding: Finding) -> str:
    """How to read a response curve."""
    return (
        f"Line: smoothed score, averaged over the other knobs, with its 95 % band. {MARKS} (dashed line). "
        "Vertical line: the best value; the bar at its top is its 95 % interval. "
        f"Tinted: where the line stays within {finding.values['margin']:g} of its best."
    )


def tables(findings: Sequence[Finding]) -> list[Table]:
    """Best value, score there and window: a row per subject, then a row per level of the discrete knobs, pooled."""
    heads = ("for", "best value", "score there", "window", "decades")
    told = having("best", findings)
    main = Table((*heads, "settings / seeds / diverged"), tuple((*row(f.subject, f.values), stands(f)) for f in told))
    levels = tuple(
        row(f"{knob} {level}", values)
        for finding in told
        if finding.subject == POOLED
        for knob, of in finding.values["by_level"].items()
        for level, values in of.items()
    )
    return [main, Table(heads, levels, "At every level of the discrete knobs, all variants")]


def row(subject: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """One line; an optimum at the end of the range is told, not ranked."""
    best, inside = values["best"], values["window"]
    told = span(best) if values["ranked"] else f"{number(best.value)}, not ranked: {unranked(values)}"
    low, high = ("< " if inside["cut_low"] else ""), ("> " if inside["cut_high"] else "")
    window = f"{low}{number(inside['low'])} to {high}{number(inside['high'])}"
    return (subject, told, span(values["best_score"]), window, span(values["window_decades"]))


def unranked(values: Mapping[str, Any]) -> str:
    """Why a best value is not ranked."""
    edge = values["boundary"]
    return f"at the {edge} end of the range" if edge else "its interval is too wide"


VIEW = View(
    "Where is a good {focus}?",
    "The score over the knob in focus, averaged over the design of all other knobs.",
    figures,
    tables,
)
