"""What a response curve says: its best place, the window around it, and how much not tuning the knob costs.

A curve is G values on an axis, larger is better; every function works on one curve.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from study.analysis.axis import Array, Axis
from study.analysis.finding import Estimate

LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval
LOOSE = 0.25  # this and the next make intervals on plateaus and cliffs cover (`benchmarks/calibrate.py`)
OVERSHOOT = 0.5


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
    return stretch(curve, at, best, float(curve[best]) - margin)


def stretch(curve: Array, at: Array, best: int, least: float) -> Window:
    """The contiguous places around place `best` where the curve is at least `least`, as it is at `best`."""
    outside = np.flatnonzero(curve < least)
    below, above = outside[outside < best], outside[outside > best]
    low = at[0] if not below.size else _crossing(curve, at, int(below[-1]), int(below[-1]) + 1, least)
    high = at[-1] if not above.size else _crossing(curve, at, int(above[0]), int(above[0]) - 1, least)
    return Window(float(low), float(high), not below.size, not above.size)


def window_width(draws: Array, at: Array, margin: float, settings: Array) -> tuple[float, float, float]:
    """The width of the mean curve's window, and its 95 % interval over the draws (S G), in unit coordinates.

    Single draws are rougher than the truth may be: on a plateau their windows end at the first wiggle, and their tops
    stand above it. So only the lower end is theirs; the upper one is the stretch that the draws cannot tell from the
    mean curve's best place, loosened towards the next of the `settings` (n): a smooth rounds off what lies between.
    """
    mean = draws.mean(axis=0)
    value, best = window(mean, at, margin).width, int(mean.argmax())
    low = float(np.percentile([window(draw, at, margin).width for draw in draws], LEVEL[0]))
    reach = np.percentile(draws - draws[:, [best]], LEVEL[1], axis=0)
    high = loosened(stretch(reach, at, best, -margin), settings)
    return value, min(low, value), max(high, value)


def loosened(inside: Window, settings: Array) -> float:
    """The width with each edge moved LOOSE of the way to the next setting outside."""
    low = max(settings[settings <= inside.low], default=inside.low)
    high = min(settings[settings >= inside.high], default=inside.high)
    return inside.width + LOOSE * float(inside.low - low + high - inside.high)


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


def estimate_of_top(functional: Callable[[Array], float], draws: Array, middle: Array) -> Estimate:
    """A functional of the curve `middle` (G) that rises with its maximum, and its 95 % interval over the draws (S G).

    The maximum of a draw overshoots that of the middle, which overshoots the truth's by OVERSHOOT of as much.
    """
    value, found = functional(middle), np.array([functional(draw) for draw in draws])
    low, high = np.percentile(found, LEVEL) - (1 + OVERSHOOT) * (found.mean() - value)
    return Estimate(value, min(float(low), value), max(float(high), value))


def central(draws: Array) -> Estimate:
    """The median of draws of a number, and its 95 % interval."""
    low, middle, high = np.percentile(draws, (LEVEL[0], 50, LEVEL[1]))
    return Estimate(float(middle), float(low), float(high))
