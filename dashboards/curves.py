"""Charts of curves over a knob: plain rows in, an Altair chart out; no statistic is computed here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import altair as alt

from dashboards.charts import FAINT, INK, LOST, PALETTE, POOL, STRIP, Chart, Look, data, legend, scale, told
from study.analysis.finding import Estimate
from study.analysis.words import number

# A second mark of identity beside the colour, for grey print.
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (5, 2, 2, 2, 2, 2), (3, 5), (12, 4))


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


class Line(NamedTuple):
    """A labelled smooth among others."""

    label: str
    smooth: Sequence[Smooth]


class Place(NamedTuple):
    """A value on the x axis that a vertical line marks."""

    x: float
    label: str


def response(curve: Curve, variants: Mapping[str, Look], axes: Axes, behind: Curve | None = None) -> Chart:
    """Score over the focus knob; `behind` is a second smooth drawn thin and grey, to compare with."""
    colour = variants[curve.subject].colour if curve.subject in variants else POOL
    layers = [
        *_window(curve),
        *_base(curve, named=behind is None),
        *([_line(behind, FAINT, axes, 1.2)] if behind else []),
        *([_band(curve.smooth, colour, axes), _line(curve, colour, axes, 2.4)] if curve.smooth else []),
        *_trials(curve, variants, axes),
        *_best(curve),
    ]
    return alt.layer(*layers).properties(height=250, title=curve.subject)


def _x(axes: Axes) -> alt.X:
    scale = alt.Scale(type="log", domain=list(axes.x_domain), nice=False)
    labels = ".0e" if axes.x_domain[0] < 1e-3 else "~g"
    return alt.X("x:Q", title=axes.x, scale=scale, axis=alt.Axis(format=labels, tickCount=5, grid=False))


def _y(axes: Axes, field: str) -> alt.Y:
    scale = alt.Scale(domain=list(axes.y_domain), nice=True, zero=False)
    return alt.Y(f"{field}:Q", title=axes.y, scale=scale, axis=alt.Axis(tickCount=6))


def _band(smooth: Sequence[Smooth], colour: str, axes: Axes, opacity: float = 0.16) -> alt.Chart:
    band = alt.Chart(data([row._asdict() for row in smooth])).mark_area(color=colour, opacity=opacity, clip=True)
    return band.encode(x=_x(axes), y=_y(axes, "low"), y2="high:Q")


def _line(curve: Curve, colour: str, axes: Axes, width: float) -> alt.Chart:
    line = alt.Chart(data([row._asdict() for row in curve.smooth])).mark_line(
        color=colour, strokeWidth=width, clip=True
    )
    return line.encode(x=_x(axes), y=_y(axes, "mean"), tooltip=[told("x", axes.x), told("mean", "smooth")])


def _trials(curve: Curve, variants: Mapping[str, Look], axes: Axes) -> list[alt.Chart]:
    here = [name for name in variants if any(point.variant == name for point in curve.points)]
    colour = alt.Color("variant:N", legend=legend(here), scale=scale(here, [variants[name].colour for name in here]))
    shape = alt.Shape("variant:N", legend=legend(here), scale=scale(here, [variants[name].shape for name in here]))
    tooltip = ["variant:N", "seed:O", told("x", axes.x), told("y", axes.y), "diverged:N"]
    kept, lost = ([p._asdict() for p in curve.points if p.diverged is gone] for gone in (False, True))
    dots = alt.Chart(data(kept)).mark_point(filled=True, size=44, opacity=0.65, clip=True)
    crosses = alt.Chart(data(lost)).mark_point(shape=LOST, size=60, strokeWidth=1.8)
    return [
        dots.encode(x=_x(axes), y=_y(axes, "y"), color=colour, shape=shape, tooltip=tooltip),
        *([crosses.encode(x=_x(axes), y=_y(axes, "y"), color=colour, tooltip=tooltip)] if lost else []),
    ]


def _window(curve: Curve) -> list[alt.Chart]:
    if curve.window is None:
        return []
    strip = alt.Chart(data([{"x": curve.window[0], "x2": curve.window[1]}])).mark_rect(color=STRIP)
    return [strip.encode(x="x:Q", x2="x2:Q")]


def _base(curve: Curve, named: bool) -> list[alt.Chart]:
    if curve.base is None:
        return []
    level = alt.Chart(data([{"y": curve.base}])).encode(y="y:Q")
    label = level.mark_text(text=["base", "model"], align="left", dx=4, dy=-5, fontSize=11, color=FAINT)
    rule = level.mark_rule(color=FAINT, strokeDash=[5, 4])
    return [rule, label.encode(x=alt.value("width"))] if named else [rule]


def _best(curve: Curve) -> list[alt.Chart]:
    if curve.best is None:
        return []
    best = alt.Chart(data([{"text": f"best {number(curve.best.value)}", **curve.best._asdict()}]))
    label = best.mark_text(align="left", baseline="top", dx=4, fontSize=11, color=INK)
    return [
        best.mark_rule(color=INK, strokeWidth=1).encode(x="value:Q"),
        best.mark_rule(color=INK, strokeWidth=4).encode(x="low:Q", x2="high:Q", y=alt.value(0)),
        label.encode(x="value:Q", y=alt.value(6), text="text:N"),
    ]


def lines(found: Sequence[Line], axes: Axes, title: str = "", mark: Place | None = None) -> Chart:
    """Several smooths with their bands on one pair of axes."""
    names = [line.label for line in found]
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    dashes = [DASHES[i % len(DASHES)] for i in range(len(names))]
    rows = [{"line": line.label, **place._asdict()} for line in found for place in line.smooth]
    tooltip = ["line:N", *(told(field, field) for field in ("x", "mean", "low", "high"))]
    drawn = alt.Chart(data(rows)).mark_line(strokeWidth=2.2, clip=True)
    layers = [
        *([_marked(mark)] if mark else []),
        *(_band(line.smooth, colour, axes, 0.1) for line, colour in zip(found, colours, strict=True)),
        drawn.encode(
            x=_x(axes),
            y=_y(axes, "mean"),
            color=alt.Color("line:N", legend=legend(names), scale=scale(names, colours)),
            strokeDash=alt.StrokeDash("line:N", legend=legend(names), scale=scale(names, dashes)),
            tooltip=tooltip,
        ),
    ]
    return alt.layer(*layers).properties(height=250, title=title)


def _marked(mark: Place) -> alt.LayerChart:
    place = alt.Chart(data([mark._asdict()])).encode(x="x:Q")
    label = place.mark_text(align="left", baseline="top", dx=4, fontSize=11, color=INK)
    return place.mark_rule(color=INK) + label.encode(y=alt.value(6), text="label:N")
