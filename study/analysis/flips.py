"""Sign flips: where is one curve above another by more than a margin, and elsewhere below it by more?"""

from typing import Any, NamedTuple

import numpy as np

from study.analysis.axis import Array
from study.analysis.finding import Estimate

LEVEL = 95  # percent of the draws of all differences lie inside the band everywhere


class Band(NamedTuple):
    """The mean of V differences over G places, and a band that holds 95 % of their draws everywhere at once."""

    mean: Array  # G V
    low: Array
    high: Array

    def at(self, place: int, one: int) -> Estimate:
        return Estimate(*(float(curve[place, one]) for curve in self))


def band(differences: Array) -> Band:
    """From draws (S G V): as many standard deviations to both sides as the farthest excursion of 95 % of the draws."""
    mean, deviation = differences.mean(axis=0), differences.std(axis=0)
    far = np.abs(differences - mean) / np.where(deviation > 0, deviation, 1)
    width = np.percentile(far.max(axis=(1, 2)), LEVEL) * deviation
    return Band(mean, mean - width, mean + width)


def flips(found: Band, margin: float) -> Array:
    """3 V, 1 where a difference goes beyond the margin both ways: in the mean, beyond doubt, and not excluded."""
    pairs = ((found.mean, found.mean), (found.low, found.high), (found.high, found.low))
    return np.array([(up.max(axis=0) > margin) & (down.min(axis=0) < -margin) for up, down in pairs], dtype=float)


def extremes(found: Band, one: int, x: list[float]) -> dict[str, Any]:
    """Where a difference is largest and smallest, and how large it is there."""
    most, least = int(found.mean[:, one].argmax()), int(found.mean[:, one].argmin())
    return {"most": found.at(most, one), "most_at": x[most], "least": found.at(least, one), "least_at": x[least]}
