"""The charts of a report: plain rows in, an Altair chart out; no statistic is computed here.

A chart leaves here without width and theme. `on_page` and `in_picture` give it both, because a page wants the width of
its container and a picture a fixed one, and because Altair cannot put themed charts side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import altair as alt

from study.analysis.finding import Estimate
from study.analysis.words import number

Chart = alt.LayerChart | alt.FacetChart

INK, FAINT, POOL = "#222222", "#767676", "#444444"
STRIP = "#f3e9cf"  # what counts as good, or as equal; a warm tint keeps it apart from grey bands
FLOOR = "#d55e00"
FIRST_ORDER, TOTAL = "#5aa9dd", "#d3e8f7"  # light enough for an interval on top

# Okabe and Ito's colour-blind-safe palette without its yellow, which vanishes on white; black is the reference's.
PALETTE = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# A second mark of identity, for grey print and for more variants than colours.
SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "triangle-right", "triangle-left")
# Vega's own "cross" is a filled plus sign; a thin x reads as "lost" and stays visible on a band.
LOST = "M-1,-1L1,1M-1,1L1,-1"

# The Vega-Lite version that Altair writes, as vl-convert names it: 6.4.
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])

CONFIG: dict[str, Any] = {
    "font": "Liberation Sans, Arial, Helvetica, sans-serif",  # vl-convert carries the first; a browser falls through
    "background": "white",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "labelFlush": False,
        "labelPadding": 5,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelColor": INK,
        "titleColor": INK,
        "gridColor": "#ebebeb",
        "domainColor": FAINT,
        "tickColor": FAINT,
    },
    "title": {"fontSize": 13, "anchor": "start", "frame": "bounds", "color": INK},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "labelColor": INK, "orient": "top", "symbolSize": 60},
}


class Look(NamedTuple):
    """How one variant is drawn, everywhere."""

    colour: str
    shape: str


class Axes(NamedTuple):
    """What the panels of one figure share, so that they can be compared by eye."""

    x: str  # the titles, with units
    y: str
    x_domain: tuple[float, float]
    y_domain: tuple[float, float]


class Smooth(NamedTuple):
    """A smooth at one value of the focus knob, with its 95 % band."""

    x: float
    mean: float
    low: float
    high: float


class Point(NamedTuple):
    """One trial: the focus knob's value and what it reached (the base model's number where it diverged)."""

    x: float
    y: float
    seed: int
    variant: str
    diverged: bool


@dataclass(frozen=True)
class Curve:
    """A response to the focus knob: one variant's, or the pooled one with every variant's trials."""

    subject: str
    points: Sequence[Point]
    smooth: Sequence[Smooth] = ()
    best: Estimate | None = None  # None: not ranked
    window: tuple[float, float] | None = None
    base: float | None = None  # what the untouched model reaches


class Share(NamedTuple):
    """One bar: a knob's share of the variance, in [0, 1]."""

    knob: str
    kind: str  # "by itself" | "with its combinations"
    estimate: Estimate


class Mark(NamedTuple):
    """A labelled number with its interval, for a dot plot."""

    label: str
    estimate: Estimate


def looks(variants: Sequence[str]) -> dict[str, Look]:
    """One look per variant, by its place in the list: the first (the reference) is black."""
    return {name: _look(i) for i, name in enumerate(variants)}


def _look(i: int) -> Look:
    # The shape steps once more after each lap of colours, so that no pair repeats within 49 variants.
    return Look(PALETTE[i % len(PALETTE)], SHAPES[(i + i // len(PALETTE)) % len(SHAPES)])


def response(curve: Curve, variants: Mapping[str, Look], axes: Axes, behind: Curve | None = None) -> Chart:
    """Score over the focus knob; `behind` is a second smooth drawn thin and grey, to compare with."""
    colour = variants[curve.subject].colour if curve.subject in variants else POOL
    layers = [
        *_window(curve),
        *_base(curve, told=behind is None),
        *([_line(behind, FAINT, axes, 1.2)] if behind else []),
        *([_band(curve, colour, axes), _line(curve, colour, axes, 2.4)] if curve.smooth else []),
        *_trials(curve, variants, axes),
        *_best(curve),
    ]
    return alt.layer(*layers).properties(height=250, title=curve.subject)


def _data(rows: Sequence[Mapping[str, Any]]) -> alt.Data:
    return alt.Data(values=[dict(row) for row in rows])


def _x(axes: Axes) -> alt.X:
    scale = alt.Scale(type="log", domain=list(axes.x_domain), nice=False)
    labels = ".0e" if axes.x_domain[0] < 1e-3 else "~g"
    return alt.X("x:Q", title=axes.x, scale=scale, axis=alt.Axis(format=labels, tickCount=5, grid=False))


def _y(axes: Axes, field: str) -> alt.Y:
    scale = alt.Scale(domain=list(axes.y_domain), nice=True, zero=False)
    return alt.Y(f"{field}:Q", title=axes.y, scale=scale, axis=alt.Axis(tickCount=6))


def _number(field: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", format=".3~g", title=title)


def _band(curve: Curve, colour: str, axes: Axes) -> alt.Chart:
    band = alt.Chart(_data([row._asdict() for row in curve.smooth])).mark_area(color=colour, opacity=0.16, clip=True)
    return band.encode(x=_x(axes), y=_y(axes, "low"), y2="high:Q")


def _line(curve: Curve, colour: str, axes: Axes, width: float) -> alt.Chart:
    line = alt.Chart(_data([row._asdict() for row in curve.smooth])).mark_line(
        color=colour, strokeWidth=width, clip=True
    )
    return line.encode(x=_x(axes), y=_y(axes, "mean"), tooltip=[_number("x", axes.x), _number("mean", "smooth")])


def _trials(curve: Curve, variants: Mapping[str, Look], axes: Axes) -> list[alt.Chart]:
    here = [name for name in variants if any(point.variant == name for point in curve.points)]
    legend = alt.Legend(title=None, columns=4 if len(here) <= 4 else 3) if len(here) > 1 else None
    colour = alt.Color("variant:N", legend=legend, scale=_scale(here, [variants[name].colour for name in here]))
    shape = alt.Shape("variant:N", legend=legend, scale=_scale(here, [variants[name].shape for name in here]))
    tooltip = ["variant:N", "seed:O", _number("x", axes.x), _number("y", axes.y), "diverged:N"]
    kept, lost = ([p._asdict() for p in curve.points if p.diverged is gone] for gone in (False, True))
    dots = alt.Chart(_data(kept)).mark_point(filled=True, size=44, opacity=0.65, clip=True)
    crosses = alt.Chart(_data(lost)).mark_point(shape=LOST, size=60, strokeWidth=1.8)
    return [
        dots.encode(x=_x(axes), y=_y(axes, "y"), color=colour, shape=shape, tooltip=tooltip),
        *([crosses.encode(x=_x(axes), y=_y(axes, "y"), color=colour, tooltip=tooltip)] if lost else []),
    ]


def _scale(names: Sequence[str], values: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=list(values))


def _window(curve: Curve) -> list[alt.Chart]:
    if curve.window is None:
        return []
    strip = alt.Chart(_data([{"x": curve.window[0], "x2": curve.window[1]}])).mark_rect(color=STRIP)
    return [strip.encode(x="x:Q", x2="x2:Q")]


def _base(curve: Curve, told: bool) -> list[alt.Chart]:
    if curve.base is None:
        return []
    level = alt.Chart(_data([{"y": curve.base}])).encode(y="y:Q")
    label = level.mark_text(text=["base", "model"], align="left", dx=4, dy=-5, fontSize=11, color=FAINT)
    rule = level.mark_rule(color=FAINT, strokeDash=[5, 4])
    return [rule, label.encode(x=alt.value("width"))] if told else [rule]


def _best(curve: Curve) -> list[alt.Chart]:
    if curve.best is None:
        return []
    best = alt.Chart(_data([{"text": f"best {number(curve.best.value)}", **curve.best._asdict()}]))
    label = best.mark_text(align="left", baseline="top", dx=4, fontSize=11, color=INK)
    return [
        best.mark_rule(color=INK, strokeWidth=1).encode(x="value:Q"),
        best.mark_rule(color=INK, strokeWidth=4).encode(x="low:Q", x2="high:Q", y=alt.value(0)),
        label.encode(x="value:Q", y=alt.value(6), text="text:N"),
    ]


def shares(bars: Sequence[Share], floor: float, axis: str, title: str) -> Chart:
    """Shares of the variance per knob with their intervals; a line marks what a knob without effect shows."""
    knobs, kinds = (list(dict.fromkeys(names)) for names in ([b.knob for b in bars], [b.kind for b in bars]))
    rows = [{"knob": b.knob, "kind": b.kind, **b.estimate._asdict()} for b in bars]
    x = alt.X(
        "value:Q", title=axis, axis=alt.Axis(format=".0%", tickCount=5), scale=alt.Scale(domain=[0, 1], clamp=True)
    )
    base = alt.Chart(_data(rows)).encode(
        y=alt.Y("knob:N", sort=knobs, title=None, axis=alt.Axis(labelLimit=200, ticks=False)),
        yOffset=alt.YOffset("kind:N", sort=kinds, scale=alt.Scale(domain=kinds)),
        tooltip=["knob:N", "kind:N", *(alt.Tooltip(f"{k}:Q", format=".0%") for k in ("value", "low", "high"))],
    )
    colour = alt.Color(
        "kind:N",
        legend=alt.Legend(title=None) if len(kinds) > 1 else None,
        scale=_scale(kinds, [FIRST_ORDER, TOTAL][: len(kinds)]),
    )
    layers = [
        base.mark_bar(stroke="#1f6fa8", strokeWidth=0.8).encode(x=x, color=colour),
        base.mark_rule(color=INK, strokeWidth=1.6).encode(x="low:Q", x2="high:Q"),
        alt.Chart(_data([{"x": floor}])).mark_rule(color=FLOOR, strokeDash=[4, 3], strokeWidth=1.6).encode(x="x:Q"),
    ]
    return alt.layer(*layers).properties(height=alt.Step(30 / len(kinds)), title=title)


def dots(marks: Sequence[Mark], variants: Mapping[str, Look], axis: str, title: str, top: float) -> Chart:
    """A number with its interval per label, one row each, on an axis from zero to `top`."""
    return alt.layer(*_dots(marks, variants, axis, alt.Scale(domain=[0, top], nice=True))).properties(
        height=alt.Step(26), title=title
    )


def differences(marks: Sequence[Mark], margin: float, variants: Mapping[str, Look], axis: str) -> Chart:
    """Paired differences from the reference with their intervals, over the strip that counts as equal."""
    band = alt.Chart(_data([{"low": -margin, "high": margin}])).mark_rect(color=STRIP)
    zero = alt.Chart(_data([{"x": 0}])).mark_rule(color=FAINT).encode(x="x:Q")
    layers = [
        band.encode(x="low:Q", x2="high:Q"),
        zero,
        *_dots(marks, variants, axis, alt.Scale(zero=True, padding=12)),
    ]
    return alt.layer(*layers).properties(height=alt.Step(26))


def _dots(marks: Sequence[Mark], variants: Mapping[str, Look], axis: str, scale: alt.Scale) -> list[alt.Chart]:
    labels = [mark.label for mark in marks]
    colours = [variants[name].colour if name in variants else POOL for name in labels]
    base = alt.Chart(_data([{"label": mark.label, **mark.estimate._asdict()} for mark in marks])).encode(
        y=alt.Y("label:N", sort=labels, title=None, axis=alt.Axis(labelLimit=200, ticks=False)),
        color=alt.Color("label:N", legend=None, scale=_scale(labels, colours)),
        tooltip=["label:N", *(_number(field, field) for field in ("value", "low", "high"))],
    )
    x = alt.X("value:Q", title=axis, scale=scale, axis=alt.Axis(tickCount=5))
    # A number without an interval is a hollow circle: one must not read it as a certain one.
    filled = alt.condition("isValid(datum.low)", alt.value(1), alt.value(0))
    return [
        base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q"),
        base.mark_point(size=70, strokeWidth=2, fill="white").encode(x=x),
        base.mark_point(size=70, filled=True).encode(x=x, opacity=filled),
    ]


def document(chart: Chart) -> dict[str, Any]:
    """A chart's Vega-Lite document, still without width and theme."""
    return chart.to_dict(validate=False)  # checking against the schema takes most of a report's time; a test does it


def on_page(panel: Mapping[str, Any]) -> dict[str, Any]:
    """A panel's document, as wide as its container on a page."""
    return {**panel, "width": "container", "autosize": {"type": "fit-x", "contains": "padding"}, "config": CONFIG}


def in_picture(panels: Sequence[Mapping[str, Any]], columns: int) -> dict[str, Any]:
    """The document of a figure: its panels side by side, each with its own legend."""
    width = 640 if columns == 1 else 680 // columns
    kept = [
        {name: value for name, value in panel.items() if name not in ("$schema", "config", "datasets")}
        for panel in panels
    ]
    return {
        "$schema": panels[0]["$schema"],
        "concat": [panel | {"width": width} for panel in kept],
        "columns": columns,
        "spacing": 24,
        "resolve": {"scale": {"color": "independent", "shape": "independent"}},
        "datasets": {name: rows for panel in panels for name, rows in panel.get("datasets", {}).items()},
        "config": CONFIG,
    }
