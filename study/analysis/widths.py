"""Narrower ranges of the focus knob: a wide declared range makes any knob's share of the variance large by itself."""

import math
from typing import NamedTuple

from study.analysis.axis import ROUNDING, Array
from study.analysis.cells import Cells
from study.analysis.curves import locate
from study.analysis.finding import Estimate
from study.analysis.marginal import Marginal, marginal, separable
from study.analysis.plan import Plan
from study.space import Knob, Levels

WIDTHS = (2.0, 1.0)  # decades, besides the whole range


class Range(NamedTuple):
    """A stretch of the focus knob's values."""

    low: float
    high: float

    @property
    def decades(self) -> float:
        return math.log10(self.high / self.low)


class Width(NamedTuple):
    """The focus knob's shares of the variance of the score, were it drawn from this range."""

    range: Range
    first: Estimate  # by itself
    total: Estimate | None  # with its combinations; None where they cannot be told apart
    deviation: Estimate  # score units, of what these are shares of


def ranges(cell: Cells, plan: Plan) -> list[Range]:
    """The whole range, then those of WIDTHS around the best value, moved inside it; none if the focus is no factor.

    Of a knob declared as levels, the levels inside.
    """
    if plan.focus not in separable(cell):
        return []
    found = marginal(cell, plan, plan.focus)
    low, high = math.log10(values_of(found)[0]), math.log10(values_of(found)[-1])
    best = math.log10(values_of(found)[locate(found.response, found.response.mean(axis=0), found.axis).place])
    starts = [(min(max(best - w / 2, low), high - w), w) for w in WIDTHS if w < high - low - ROUNDING]
    inside = [Range(10**start, 10 ** (start + width)) for start, width in starts]
    narrower = [_levels_inside(cell.knobs[plan.focus], each) for each in inside]
    return [Range(10**low, 10**high), *(each for each in narrower if each)]


def values_of(found: Marginal) -> list[float]:
    """The focus knob's values at the places of its axis."""
    return [float(value) for value in found.axis.values]


def _levels_inside(knob: Knob, stretch: Range) -> Range | None:
    if not isinstance(knob, Levels):
        return stretch
    inside = [float(v) for v in knob.values if within(float(v), stretch)]
    return Range(min(inside), max(inside)) if len(inside) > 1 else None


def within(value: float, stretch: Range) -> bool:
    """The value lies in the range, up to the digits that a table keeps."""
    return stretch.low * (1 - ROUNDING) <= value <= stretch.high * (1 + ROUNDING)


def places(knob: Knob, stretch: Range) -> tuple[float, float]:
    """The part of the knob's unit coordinate that decodes into the range."""
    if not isinstance(knob, Levels):
        return knob.encode(stretch.low), knob.encode(stretch.high)
    inside = [i for i, value in enumerate(knob.values) if within(float(value), stretch)]
    return min(inside) / len(knob.values), (max(inside) + 1) / len(knob.values)


def squeezed(cube: Array, factor: int, part: tuple[float, float]) -> Array:
    """Points of the unit cube (M F) with one coordinate drawn from a part of it."""
    narrow = cube.copy()
    narrow[:, factor] = part[0] + (part[1] - part[0]) * cube[:, factor]
    return narrow
