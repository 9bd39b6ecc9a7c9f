"""What a response curve says: its best place, the window around it, and how much not tuning the knob costs.

A curve is G values on an axis, larger is better. The top of a mean curve is a poor guide to its best place: on a
plateau it is any wiggle, before a cliff the smooth overshoots. So the best place is the middle of those that the draws
cannot tell from the top, and best score, window and costs are all told against the curve's value there.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from study.analysis.axis import Array, Axis
from study.analysis.finding import Estimate

LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval
LOOSE = 0.25  # makes the window's interval before a cliff cover (`benchmarks/calibrate.py`)


class Best(NamedTuple):
    """The best place of a curve and its 95 % interval, as indices into the axis."""

    place: int
    low: int
    high: int


class Window(NamedTuple):
    """The contiguous stretch around the best place where the curve stays within a margin, in unit coordinates."""

    low: float
    high: float
    cut_low: bool  # it would go on beyond the range
    cut_high: bool

    @property
    def width(self) -> float:
        return self.high - self.low


def locate(draws: Array, middle: Array, axis: Axis) -> Best:
    """The best place of the curve `middle` (G) with draws S G around it.

    A top at an end of the axis, or of levels without an order, is the best place itself.
    """
    low, high = np.percentile(draws.argmax(axis=1), LEVEL)
    place = top = int(middle.argmax())
    if axis.ordered and 0 < top < len(middle) - 1:
        alike = stretch(reach(draws, top), axis.at, top, 0.0)
        place = int(np.abs(axis.at - (alike.low + alike.high) / 2).argmin())
    return Best(place, min(math.floor(low), place), max(math.ceil(high), place))


def reach(draws: Array, place: int) -> Array:
    """G: how far above the value at `place` the draws (S G) would let the curve be elsewhere."""
    return np.asarray(np.percentile(draws - draws[:, [place]], LEVEL[1], axis=0))


def window(curve: Array, at: Array, margin: float) -> Window:
    """Edges are interpolated between the places of the axis."""
    best = int(curve.argmax())
    return stretch(curve, at, best, float(curve[best]) - margin)


def stretch(curve: Array, at: Array, best: int, least: float) -> Window:
    """The contiguous places around place `best` where the curve is at least `least`, as it is at `best`."""
    outside = np.flatnonzero(curve < least)
    below, above = outside[outside < best], outside[outside > best]
    low = at[0] if not below.size else _crossing(curve, at, int(below[-1]), int(below[-1]) + 1, least)
    high = at[-1] if not above.size else _crossing(curve, at, int(above[0]), int(above[0]) - 1, least)
    return Window(float(low), float(high), not below.size, not above.size)


def window_width(draws: Array, at: Array, best: int, margin: float, settings: Array) -> tuple[float, float, float]:
    """Width of the mean curve's window around place `best` in unit coordinates, and its 95 % interval over draws (S G).

    Single draws are rougher than the truth may be: on a plateau their windows end at the first wiggle, and their tops
    stand above it. So only the lower end is theirs; the upper one is the stretch that the draws cannot tell from the
    best place, loosened towards the next of the `settings` (n): a smooth rounds off what lies between.
    """
    mean = draws.mean(axis=0)
    value = stretch(mean, at, best, float(mean[best]) - margin).width
    low = float(np.percentile([window(draw, at, margin).width for draw in draws], LEVEL[0]))
    high = loosened(stretch(reach(draws, best), at, best, -margin), settings)
    return value, min(low, value), max(high, value)


def loosened(inside: Window, settings: Array) -> float:
    """The width with each edge moved LOOSE of the way to the next setting outside."""
    low = max(settings[settings <= inside.low], default=inside.low)
    high = min(settings[settings >= inside.high], default=inside.high)
    return inside.width + LOOSE * float(inside.low - low + high - inside.high)


def _crossing(curve: Array, at: Array, outside: int, inside: int, least: float) -> float:
    part = (least - curve[outside]) / (curve[inside] - curve[outside])
    return float(at[outside] + part * (at[inside] - at[outside]))


def shortfall(curve: Array, weight: Array, floor: float, best: int | None = None) -> float:
    """What a value drawn from `weight` costs against that at place `best`, by default the top.

    The learning-rate sensitivity of Wortsman et al. 2023 (arXiv:2309.14322), for a score.
    Nothing costs more than not training at all: the curve counts as `floor` where it is below.
    """
    censored = np.maximum(curve, floor)
    return max(float(censored[censored.argmax() if best is None else best] - censored @ weight), 0.0)


def one_decade(axis: Axis, best: int) -> Array | None:
    """The uniform measure over the decade around place `best`, moved inside the range; all of a narrower range.

    None where the axis has no logarithm.
    """
    if axis.decades is None:
        return None
    low, high = float(axis.decades.min()), float(axis.decades.max())
    if high - low < 1:
        return axis.weight
    start = min(max(float(axis.decades[best]) - 0.5, low), high - 1)
    inside = (axis.decades >= start - 1e-9) & (axis.decades <= start + 1 + 1e-9)
    return np.where(inside, axis.weight, 0) / axis.weight[inside].sum()


def estimate(value: float, draws: Array, others: Sequence[float] = ()) -> Estimate:
    """A number and the 95 % interval over its draws, widened to hold the number and the `others`."""
    low, high = np.percentile(draws, LEVEL)
    return Estimate(value, min(float(low), value, *others), max(float(high), value, *others))


def central(draws: Array) -> Estimate:
    """The median of draws of a number, and its 95 % interval."""
    low, middle, high = np.percentile(draws, (LEVEL[0], 50, LEVEL[1]))
    return Estimate(float(middle), float(low), float(high))
