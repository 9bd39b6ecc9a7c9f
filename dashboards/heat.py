"""Heat maps: plain rows in, an Altair chart out; no statistic is computed here."""

from collections.abc import Sequence
from typing import NamedTuple

import altair as alt

from dashboards.charts import Chart, data

LIGHT, DEEP, EMPTY = "#eef4fb", "#084a91", "#f2f2f2"
DARK = 0.55  # of the largest value: from here on white text reads better


class Field(NamedTuple):
    """One field of the map; a field without a value says why in its text."""

    row: str
    column: str
    value: float | None
    text: str


def heat(fields: Sequence[Field], title: str, top: float) -> Chart:
    """A number per row and column as colour from zero to `top`, and in words on top."""
    rows, columns = (list(dict.fromkeys(names)) for names in ([f.row for f in fields], [f.column for f in fields]))
    base = alt.Chart(data([field._asdict() for field in fields])).encode(
        x=alt.X("column:N", sort=columns, title=None, axis=alt.Axis(labelAngle=-35, labelLimit=130, ticks=False)),
        y=alt.Y("row:N", sort=rows, title=None, axis=alt.Axis(labelLimit=160, ticks=False)),
        tooltip=["row:N", "column:N", "text:N"],
    )
    colour = alt.Color("value:Q", legend=None, scale=alt.Scale(domain=[0, top], range=[LIGHT, DEEP]))
    known = alt.condition("isValid(datum.value)", colour, alt.value(EMPTY))
    ink = alt.condition(f"datum.value > {DARK * top}", alt.value("white"), alt.value("#222222"))
    layers = [
        base.mark_rect(stroke="white").encode(color=known),
        base.mark_text(fontSize=10).encode(text="text:N", color=ink),
    ]
    return alt.layer(*layers).properties(height=alt.Step(22), title=title)
