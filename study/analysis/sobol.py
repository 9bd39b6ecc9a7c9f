"""First-order, total and pairwise Sobol indices of a function on the unit cube, by Saltelli's estimators (SALib)."""

from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from SALib.analyze import sobol
from SALib.sample import sobol as saltelli
from scipy import stats

from study.analysis.axis import SEED, Array

REPLICATES = 8  # parts of the base sample, whose spread is the error of the whole


class Indices(NamedTuple):
    """Of F factors, for each of S functions."""

    first: Array  # S F
    total: Array  # S F
    pairs: Array  # S P, of what two factors do together beyond what each does alone; in the order of `pairs_of`
    variance: Array  # S


def pairs_of(factors: int) -> list[tuple[int, int]]:
    """The P pairs."""
    return list(combinations(range(factors), 2))


@cache
def points(factors: int, base: int) -> Array:
    """base (2F+2) x F: Saltelli's points in the unit cube, `base` a power of two; slow to make, so kept."""
    problem: dict[str, Any] = {"num_vars": factors, "names": list(map(str, range(factors)))}
    return saltelli.sample(problem | {"bounds": [[0.0, 1.0]] * factors}, base, calc_second_order=True, seed=SEED)


def points_of_one(factors: int, which: int, base: int) -> Array:
    """base 3 x F: those of them that the first and total index of one factor need."""
    return points(factors, base).reshape(base, -1, factors)[:, [0, 1 + which, -1]].reshape(-1, factors)


def indices(values: Array, factors: int) -> Indices:
    """The indices of S functions from their values (S, base (2F+2)) at `points`, without an error."""
    blocks = values.reshape(len(values), -1, 2 * factors + 2)
    blocks = blocks - blocks.mean(axis=(1, 2), keepdims=True)  # the estimators are biased for values far from zero
    a, b = blocks[..., 0].T, blocks[..., -1].T  # base S
    mixed, back = blocks[..., 1 : factors + 1].T, blocks[..., factors + 1 : -1].T  # F base S
    first = [sobol.first_order(a, mixed[i], b) for i in range(factors)]
    total = [sobol.total_order(a, mixed[i], b) for i in range(factors)]
    pairs = [sobol.second_order(a, mixed[i], mixed[j], back[i], b) for i, j in pairs_of(factors)]
    variance = np.var(np.concatenate([a, b]), axis=0)
    return Indices(np.stack(first, axis=-1), np.stack(total, axis=-1), np.stack(pairs, axis=-1), variance)


def indices_of_one(values: Array) -> tuple[Array, Array, Array]:
    """First index, total index and variance (S each) from values (S, base 3) at `points_of_one`."""
    blocks = values.reshape(len(values), -1, 3)
    a, mixed, b = (blocks - blocks.mean(axis=(1, 2), keepdims=True)).T
    return sobol.first_order(a, mixed, b), sobol.total_order(a, mixed, b), np.var(np.concatenate([a, b]), axis=0)


def estimates(values: Array, factors: int) -> tuple[Indices, Indices]:
    """The indices of one function that is not constant, and half-widths of their 95 % intervals.

    The half-width is the error of a finite base sample. A scrambled Sobol sequence is more even than the independent
    points that SALib's bootstrap assumes, so the error comes from parts of the sequence instead.
    """
    parts = indices(values.reshape(REPLICATES, -1), factors)
    factor = stats.t.ppf(0.975, REPLICATES - 1) / np.sqrt(REPLICATES)
    errors = (factor * part.std(axis=0, ddof=1, keepdims=True) for part in parts)
    return indices(values[None], factors), Indices(*errors)
