"""What a response curve says: its best place, the window around it, and how much not tuning the knob costs.

A curve is G values on an axis, larger is better; every function works on one curve.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from study.analysis.axis import Array, Axis
from study.analysis.finding import Estimate

LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval


class Window(NamedTuple):
    """The contiguous stretch around the best place where the curve stays within a margin, in unit coordinates."""

    low: float
    high: float
    cut_low: bool  # it would go on beyond the range
    cut_high: bool

    @property
    def width(self) -> float:
        return self.high - self.low


def window(curve: Array, at: Array, margin: float) -> Window:
    """Edges are interpolated between the places of the axis."""
    best = int(curve.argmax())
    least = curve[best] - margin
    outside = np.flatnonzero(curve < least)
    below, above = outside[outside < best], outside[outside > best]
    low = at[0] if not below.size else _crossing(curve, at, int(below[-1]), int(below[-1]) + 1, least)
    high = at[-1] if not above.size else _crossing(curve, at, int(above[0]), int(above[0]) - 1, least)
    return Window(float(low), float(high), not below.size, not above.size)


def window_width(draws: Array, at: Array, margin: float) -> tuple[float, float, float]:
    """The width of the mean curve's window, and its 95 % interval over the draws (S G), in unit coordinates.

    Single draws are rougher than the truth may be: on a plateau their windows end at the first wiggle. So only the
    lower end is theirs; the upper one is the stretch around the best that the draws cannot tell from it.
    """
    value = window(draws.mean(axis=0), at, margin).width
    low = float(np.percentile([window(draw, at, margin).width for draw in draws], LEVEL[0]))
    reach = np.percentile(draws - draws.max(axis=1, keepdims=True), LEVEL[1], axis=0)
    high = window(reach, at, max(margin + float(reach.max()), 0.0)).width
    return value, min(low, value), max(high, value)


def _crossing(curve: Array, at: Array, outside: int, inside: int, least: float) -> float:
    part = (least - curve[outside]) / (curve[inside] - curve[outside])
    return float(at[outside] + part * (at[inside] - at[outside]))


def shortfall(curve: Array, weight: Array, floor: float) -> float:
    """What a value drawn from `weight` costs against the best one (Wortsman et al. 2023, arXiv:2309.14322).

    Nothing costs more than not training at all: the curve counts as `floor` where it is below.
    """
    censored = np.maximum(curve, floor)
    return max(float(censored.max() - censored @ weight), 0.0)


def one_decade(axis: Axis, best: int) -> Array | None:
    """The uniform measure over the decade around place `best`, moved inside the range.

    None where the axis has no logarithm or spans less than a decade.
    """
    if axis.decades is None:
        return None
    low, high = float(axis.decades.min()), float(axis.decades.max())
    if high - low < 1:
        return None
    start = min(max(float(axis.decades[best]) - 0.5, low), high - 1)
    inside = (axis.decades >= start - 1e-9) & (axis.decades <= start + 1 + 1e-9)
    return np.where(inside, axis.weight, 0) / axis.weight[inside].sum()


def interval(functional: Callable[[Array], float], draws: Array) -> tuple[float, float, float]:
    """The functional of the mean curve, and the ends of its 95 % interval over the draws (S G)."""
    value = functional(draws.mean(axis=0))
    low, high = np.percentile([functional(draw) for draw in draws], LEVEL)
    return value, min(float(low), value), max(float(high), value)


def estimate(functional: Callable[[Array], float], draws: Array) -> Estimate:
    """The same as an estimate."""
    return Estimate(*interval(functional, draws))


def central(draws: Array) -> Estimate:
    """The median of draws of a number, and its 95 % interval."""
    low, middle, high = np.percentile(draws, (LEVEL[0], 50, LEVEL[1]))
    return Estimate(float(middle), float(low), float(high))
