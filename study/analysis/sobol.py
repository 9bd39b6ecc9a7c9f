"""First-order and total Sobol indices of a function on the unit cube, by Saltelli's estimators (SALib)."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from SALib.analyze import sobol
from SALib.sample import sobol as saltelli

from study.analysis.axis import SEED, Array


class Indices(NamedTuple):
    """Of F factors, for each of S functions."""

    first: Array  # S F
    total: Array  # S F
    variance: Array  # S


class Estimates(NamedTuple):
    """Of F factors, for one function, with the half-widths of 95 % intervals: the error of a finite sample."""

    first: Array
    total: Array
    first_error: Array
    total_error: Array
    variance: float


def problem(factors: int) -> dict[str, Any]:
    """SALib's noun."""
    names = [str(i) for i in range(factors)]
    return {"num_vars": factors, "names": names, "bounds": [[0.0, 1.0]] * factors}


@cache
def points(factors: int, base: int) -> Array:
    """base (F+2) x F: Saltelli's points in the unit cube, `base` a power of two; slow to make, so kept."""
    return saltelli.sample(problem(factors), base, calc_second_order=False, seed=SEED)


def estimates(values: Array, factors: int) -> Estimates:
    """The indices of one function that is not constant, from its values at `points`."""
    found = sobol.analyze(problem(factors), values, calc_second_order=False, seed=SEED)
    variance = float(indices(values[None], factors).variance[0])
    return Estimates(found["S1"], found["ST"], found["S1_conf"], found["ST_conf"], variance)


def indices(values: Array, factors: int) -> Indices:
    """The indices of S functions from their values (S, base (F+2)) at `points`, without an error."""
    blocks = values.reshape(len(values), -1, factors + 2)
    blocks = blocks - blocks.mean(axis=(1, 2), keepdims=True)  # the estimators are biased for values far from zero
    a, b, mixed = blocks[..., 0].T, blocks[..., -1].T, blocks[..., 1:-1].T  # base S, base S, F base S
    first = np.stack([sobol.first_order(a, mixed[i], b) for i in range(factors)], axis=-1)
    total = np.stack([sobol.total_order(a, mixed[i], b) for i in range(factors)], axis=-1)
    return Indices(first, total, np.var(np.concatenate([a, b]), axis=0))
