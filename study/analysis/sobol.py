"""First-order and total Sobol indices of a function on the unit cube, by Saltelli's estimators (SALib)."""

from typing import NamedTuple

import numpy as np
from SALib.analyze.sobol import first_order, total_order
from SALib.sample import sobol as saltelli

from study.analysis.axis import Array

SEED = 20260204


class Indices(NamedTuple):
    """Of F factors, for each of S functions."""

    first: Array  # S F
    total: Array  # S F
    variance: Array  # S


def points(factors: int, base: int) -> Array:
    """base (F+2) x F: Saltelli's points in the unit cube; `base` a power of two."""
    names = [str(i) for i in range(factors)]
    problem = {"num_vars": factors, "names": names, "bounds": [[0.0, 1.0]] * factors}
    return saltelli.sample(problem, base, calc_second_order=False, seed=SEED)


def indices(values: Array, factors: int) -> Indices:
    """The indices of S functions from their values (S, base (F+2)) at `points`."""
    blocks = values.reshape(len(values), -1, factors + 2)
    blocks = blocks - blocks.mean(axis=(1, 2), keepdims=True)  # the estimators are biased for values far from zero
    a, b, mixed = blocks[..., 0].T, blocks[..., -1].T, blocks[..., 1:-1].T  # base S, base S, F base S
    first = np.stack([first_order(a, mixed[i], b) for i in range(factors)], axis=-1)
    total = np.stack([total_order(a, mixed[i], b) for i in range(factors)], axis=-1)
    return Indices(first, total, np.var(np.concatenate([a, b]), axis=0))
