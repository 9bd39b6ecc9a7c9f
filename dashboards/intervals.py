"""Charts of numbers with their intervals: plain rows in, an Altair chart out; no statistic is computed here."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import altair as alt

from dashboards.charts import FAINT, FIRST_ORDER, FLOOR, INK, POOL, STRIP, TOTAL, Chart, Look, data, legend, scale, told
from study.analysis.finding import Estimate

ROW = 26  # points a row of dots takes


class Share(NamedTuple):
    """One bar: a knob's share of the variance, in [0, 1]."""

    knob: str
    kind: str  # "by itself" | "with its combinations"
    estimate: Estimate


class Mark(NamedTuple):
    """A labelled number with its interval, for a dot plot."""

    label: str
    estimate: Estimate


class Spot(NamedTuple):
    """A variant's place in a scatter chart; the estimate is the height."""

    label: str
    x: float
    estimate: Estimate


def shares(bars: Sequence[Share], floor: float, title: str, subtitle: str, named: bool) -> Chart:
    """Shares of the variance per knob with their intervals; a line marks what a knob without effect shows.

    `named`: with a legend of the kinds.
    """
    knobs, kinds = (list(dict.fromkeys(names)) for names in ([b.knob for b in bars], [b.kind for b in bars]))
    rows = [{"knob": b.knob, "kind": b.kind, **b.estimate._asdict()} for b in bars]
    x = alt.X(
        "value:Q",
        title="share of the variance",
        axis=alt.Axis(format=".0%", tickCount=5),
        scale=alt.Scale(domain=[0, 1], clamp=True),
    )
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("knob:N", sort=knobs, title=None, axis=alt.Axis(labelLimit=200, ticks=False)),
        yOffset=alt.YOffset("kind:N", sort=kinds, scale=alt.Scale(domain=kinds)),
        tooltip=["knob:N", "kind:N", *(alt.Tooltip(f"{k}:Q", format=".0%") for k in ("value", "low", "high"))],
    )
    colour = alt.Color(
        "kind:N",
        legend=legend(kinds) if named else None,
        scale=scale(kinds, [FIRST_ORDER, TOTAL][: len(kinds)]),
    )
    layers = [
        base.mark_bar(stroke="#1f6fa8", strokeWidth=0.8).encode(x=x, color=colour),
        base.mark_rule(color=INK, strokeWidth=1.6).encode(x="low:Q", x2="high:Q"),
        alt.Chart(data([{"x": floor}])).mark_rule(color=FLOOR, strokeDash=[4, 3], strokeWidth=1.6).encode(x="x:Q"),
    ]
    return alt.layer(*layers).properties(height=alt.Step(30 / len(kinds)), title=alt.Title(title, subtitle=subtitle))


def dots(
    marks: Sequence[Mark], variants: Mapping[str, Look], axis: str, title: str, top: float, level: float | None = None
) -> Chart:
    """A number with its interval per label, one row each, on an axis from zero to `top`; a line at `level`."""
    line = [] if level is None else [_rule(level)]
    layers = [*line, *_dots(marks, variants, axis, alt.Scale(domain=[0, top], nice=True))]
    return alt.layer(*layers).properties(height=alt.Step(ROW), title=title)


def _rule(x: float) -> alt.Chart:
    return alt.Chart(data([{"x": x}])).mark_rule(color=FAINT).encode(x="x:Q")


def differences(marks: Sequence[Mark], margin: float, variants: Mapping[str, Look], axis: str) -> Chart:
    """Differences from the reference with their intervals, over the strip that counts as equal; no margin, no strip."""
    band = alt.Chart(data([{"low": -margin, "high": margin}])).mark_rect(color=STRIP).encode(x="low:Q", x2="high:Q")
    layers = [
        *([band] if margin else []),
        _rule(0),
        *_dots(marks, variants, axis, alt.Scale(zero=True, padding=12)),
    ]
    return alt.layer(*layers).properties(height=alt.Step(ROW))


def _dots(marks: Sequence[Mark], variants: Mapping[str, Look], axis: str, along: alt.Scale) -> list[alt.Chart]:
    labels = [mark.label for mark in marks]
    colours = [variants[name].colour if name in variants else POOL for name in labels]
    base = alt.Chart(data([{"label": mark.label, **mark.estimate._asdict()} for mark in marks])).encode(
        y=alt.Y("label:N", sort=labels, title=None, axis=alt.Axis(labelLimit=200, ticks=False)),
        color=alt.Color("label:N", legend=None, scale=scale(labels, colours)),
        tooltip=["label:N", *(told(field, field) for field in ("value", "low", "high"))],
    )
    x = alt.X("value:Q", title=axis, scale=along, axis=alt.Axis(tickCount=5))
    # A number without an interval is a hollow circle: one must not read it as a certain one.
    filled = alt.condition("isValid(datum.low)", alt.value(1), alt.value(0))
    return [
        base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q"),
        base.mark_point(size=70, strokeWidth=2, fill="white").encode(x=x),
        base.mark_point(size=70, filled=True).encode(x=x, opacity=filled),
    ]


def scatter(spots: Sequence[Spot], variants: Mapping[str, Look], x: str, y: str) -> Chart:
    """A number with its interval over another on a log axis, a mark per variant."""
    names = [spot.label for spot in spots]
    look = [variants[name] for name in names]
    rows = [{"variant": s.label, "x": s.x, **s.estimate._asdict()} for s in spots]
    across = alt.X("x:Q", title=x, scale=alt.Scale(type="log", padding=16), axis=alt.Axis(format="~g", tickCount=5))
    base = alt.Chart(data(rows)).encode(
        x=across,
        color=alt.Color("variant:N", legend=legend(names), scale=scale(names, [one.colour for one in look])),
        tooltip=["variant:N", *(told(field, field) for field in ("x", "value", "low", "high"))],
    )
    shape = alt.Shape("variant:N", legend=legend(names), scale=scale(names, [one.shape for one in look]))
    layers = [
        alt.Chart(data([{"y": 0}])).mark_rule(color=FAINT).encode(y="y:Q"),
        base.mark_rule(strokeWidth=1.6).encode(y=alt.Y("low:Q", title=y), y2="high:Q"),
        base.mark_point(size=80, filled=True).encode(y="value:Q", shape=shape),
    ]
    return alt.layer(*layers).properties(height=280)
