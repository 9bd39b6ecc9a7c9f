"""What all charts share: palette, theme, encodings, and the way to a page and a picture.

`curves.py`, `intervals.py` and `heat.py` draw: plain rows in, an Altair chart out; no statistic is computed there.
A chart leaves them without width and theme. `on_page` and `in_picture` give it both, because a page wants the width of
its container and a picture a fixed one, and because Altair cannot put themed charts side by side.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

Chart = alt.LayerChart | alt.FacetChart

PHONE, SYMBOL, LETTER = 330, 30, 7  # pixels of a legend on a phone, of its symbols with their room, of a letter
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
    "title": {"fontSize": 13, "anchor": "start", "frame": "bounds", "color": INK, "subtitleColor": INK},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "labelColor": INK, "orient": "top", "symbolSize": 60},
}


class Look(NamedTuple):
    """How one variant is drawn, everywhere."""

    colour: str
    shape: str


def looks(variants: Sequence[str]) -> dict[str, Look]:
    """One look per variant, by its place in the list: the first (the reference) is black."""
    return {name: _look(i) for i, name in enumerate(variants)}


def _look(i: int) -> Look:
    # The shape steps once more after each lap of colours, so that no pair repeats within 49 variants.
    return Look(PALETTE[i % len(PALETTE)], SHAPES[(i + i // len(PALETTE)) % len(SHAPES)])


def legend(names: Sequence[str]) -> alt.Legend | None:
    """Every name, as many side by side as a phone shows; none for a single name.

    Vega drops what is beyond 30 unless told not to.
    """
    columns = max(PHONE // (SYMBOL + LETTER * max(map(len, names), default=0)), 1)
    return alt.Legend(title=None, columns=columns, symbolLimit=0) if len(names) > 1 else None


def data(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table: Altair copies and checks lists of rows value by value, at every step."""
    return pd.DataFrame(rows)


def scale(names: Sequence[str], values: Sequence[Any]) -> alt.Scale:
    """One look per name."""
    return alt.Scale(domain=list(names), range=list(values))


def told(field: str, title: str) -> alt.Tooltip:
    """A number in a tooltip."""
    return alt.Tooltip(f"{field}:Q", format=".3~g", title=title)


def document(chart: Chart) -> dict[str, Any]:
    """A chart's Vega-Lite document, still without width and theme."""
    with alt.data_transformers.disable_max_rows():
        return chart.to_dict(validate=False)  # checking against the schema takes long; a test does it


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
        "resolve": {"scale": dict.fromkeys(("color", "shape", "strokeDash"), "independent")},
        "datasets": {name: rows for panel in panels for name, rows in panel.get("datasets", {}).items()},
        "config": CONFIG,
    }
