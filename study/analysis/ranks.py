"""Kendall's tau-b between rankings, of many pairs of rankings at once."""

import numpy as np

from study.analysis.axis import Array
from study.analysis.curves import LEVEL
from study.analysis.finding import Estimate

ROUNDING = 9  # digits: means of equal numbers differ in the last


def tau(x: Array, y: Array) -> Array:
    """Between scores x and y (... V, broadcast together); 0 where one of them orders nothing."""
    i, j = np.triu_indices(x.shape[-1], 1)
    one, other = (np.sign(np.round(z[..., i] - z[..., j], ROUNDING)) for z in (x, y))
    scale = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    return (one * other).sum(axis=-1) / np.where(scale > 0, scale, 1)


def mean_of(draws: Array) -> Estimate:
    """The mean of draws of a tau, and the 95 % of them in the middle."""
    low, high = np.percentile(draws, LEVEL)
    value = float(draws.mean())
    return Estimate(value, min(float(low), value), max(float(high), value))


def first_place(scores: Array) -> Array:
    """V, how often each of them is best among draws of their scores (B V); a tie is shared."""
    best = np.round(scores, ROUNDING) == np.round(scores.max(axis=1, keepdims=True), ROUNDING)
    return (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
