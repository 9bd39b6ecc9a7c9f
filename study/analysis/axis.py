"""A knob's axis: where its curves are drawn, and how its declared range is averaged over."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.analysis.plan import has_logarithm
from study.errors import BadInput
from study.space import Choice, Knob, LogFloat, Value

Array = NDArray[np.float64]

POINTS = 121  # of a continuous axis: 0.03 decades apart on a range of four decades
SEED = 20260204  # of everything an analysis draws: the same table gives the same findings
ROUNDING = 1e-5  # of a unit coordinate: a value is stored with six digits


class Axis(NamedTuple):
    """G places on one knob's unit coordinate, and the uniform measure over its declared values."""

    knob: Knob
    at: Array  # G unit coordinates
    weight: Array  # G, sums to one
    ordered: bool  # False: levels without an order
    decades: Array | None  # G, log10 of the value; None where the values have no logarithm

    @property
    def values(self) -> list[Value]:
        """The knob's values at the G places."""
        return [self.knob.decode(float(u)) for u in self.at]


def axis_of(knob: Knob, points: int = POINTS) -> Axis:
    """A grid over a range, the levels themselves for levels."""
    if isinstance(knob, LogFloat):
        at, weight = np.linspace(0, 1, points), np.ones(points)
        weight[[0, -1]] = 0.5  # trapezoid rule
        decades = np.log10(knob.low) + at * np.log10(knob.high / knob.low) if has_logarithm(knob) else None
        return Axis(knob, at, weight / weight.sum(), True, decades)
    count = len(knob.values)
    decades = np.log10([float(value) for value in knob.values]) if has_logarithm(knob) else None
    return Axis(
        knob, (np.arange(count) + 0.5) / count, np.full(count, 1 / count), not isinstance(knob, Choice), decades
    )


def unit(knob: Knob, column: pd.Series) -> Array:
    """The unit coordinates of a column's values, NaN where it is empty; BadInput outside the declared values."""
    place = {value: _unit(knob, value) for value in column.dropna().unique()}
    return column.map(place).to_numpy(dtype=float)


def _unit(knob: Knob, value: Value) -> float:
    known = isinstance(knob, LogFloat) or value in knob.values
    u = knob.encode(value) if known else -1.0
    if not -ROUNDING <= u <= 1 + ROUNDING:
        allowed = f"{knob.low} to {knob.high}" if isinstance(knob, LogFloat) else ", ".join(map(str, knob.values))
        raise BadInput(f"table, column {knob.name}", f"{value} was not declared", allowed)
    return min(max(u, 0.0), 1.0)
