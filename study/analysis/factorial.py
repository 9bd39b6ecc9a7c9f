"""A balanced full factorial divides its variance exactly: an analysis of variance of the cell means, no surrogate.

Every combination of the observed levels ran equally often, so effects are differences of averages (Fisher 1925). The
noise of a cell mean adds to the variance of a set of L averages over N cells (L - 1) / N of its own variance on
average, which is taken off: components are unbiased. For the intervals the noise is drawn once more, with a variance
from its scaled inverse chi-square, so that what it adds is taken off twice; other seeds' luck is added likewise.
"""

from math import prod
from typing import NamedTuple

import numpy as np

from study.analysis.axis import ROUNDING, SEED, Array
from study.analysis.cells import Cells
from study.analysis.curves import LEVEL
from study.analysis.finding import Estimate
from study.analysis.main_effects import VARIANT, Shares, pair_name
from study.analysis.marginal import separable
from study.analysis.memo import remembered
from study.analysis.plan import Plan
from study.analysis.seeds import seed_draws
from study.analysis.sobol import Indices, pairs_of
from study.analysis.widths import Range, Width, ranges, within

DRAWS = 400
REPLICATED = "analysis of variance of a full factorial, replicate variance removed"
SINGLE = "analysis of variance of a full factorial, the combination of all factors taken as noise"


class Factorial(NamedTuple):
    """Cell means of F factors at L1 .. LF levels; the variant is the last factor where there are several."""

    names: tuple[str, ...]
    levels: tuple[Array, ...]  # per factor, sorted: unit coordinates, or places in the list of variants
    means: Array  # L1 .. LF, larger is better
    flat: np.ndarray  # V n, where a cell lies in the flattened means
    noise: float  # variance of a cell mean
    freedom: int  # that the noise was estimated with


def factorial(cell: Cells) -> Factorial | None:
    """The cells as a full factorial of at least two factors, None where they are none."""
    knobs = separable(cell)
    several = len(cell.variants) > 1
    if len(knobs) + several < 2 or not all(cell.has[name].all() for name in knobs) or not balanced(cell, knobs):
        return None
    places = [np.round(cell.where[name] / ROUNDING)[None] for name in knobs] + several * [variant_places(cell)]
    split = [np.unique(np.broadcast_to(place, cell.good.shape), return_inverse=True) for place in places]
    levels = tuple(known * (ROUNDING if i < len(knobs) else 1) for i, (known, _) in enumerate(split))
    flat = np.ravel_multi_index([at.ravel() for _, at in split], [len(known) for known in levels])
    if not len(np.unique(flat)) == flat.size == prod(len(known) for known in levels) or np.isnan(cell.good).any():
        return None
    means = cell.good.ravel()[np.argsort(flat)].reshape([len(known) for known in levels])
    names = (*knobs, *several * [VARIANT])
    return Factorial(names, levels, means, flat.reshape(cell.good.shape), *noise(cell, means))


def variant_places(cell: Cells) -> Array:
    """V 1: every variant's place in the list of variants."""
    return np.arange(len(cell.variants), dtype=float)[:, None]


def balanced(cell: Cells, names: list[str]) -> bool:
    """Every cell ran with every seed once."""
    runs = cell.rows.groupby(["variant", *names])["seed"].agg(["size", "nunique"]).to_numpy()
    return bool((runs == cell.rows["seed"].nunique()).all())


def noise(cell: Cells, means: Array) -> tuple[float, int]:
    """Variance of a cell mean and its degrees of freedom: of replicates, else of the combination of all factors."""
    if cell.replicate is not None:
        seeds = cell.rows["seed"].nunique()
        return cell.noise, (cell.good.size - len(cell.variants)) * (seeds - 1)
    rest = means
    for axis in range(means.ndim):
        rest = rest - rest.mean(axis=axis, keepdims=True)
    freedom = prod(size - 1 for size in means.shape)
    return float((rest**2).sum() / freedom), freedom


def components(means: Array, noise: Array) -> Indices:
    """Variance components of S factorials (S L1 .. LF), what noise (S) adds to each on average taken off."""
    factors, size = means.ndim - 1, means[0].size

    def closed(*kept: int) -> Array:
        averaged = means.mean(axis=tuple(1 + i for i in range(factors) if i not in kept)).reshape(len(means), -1)
        return averaged.var(axis=1) - noise * (averaged.shape[1] - 1) / size

    everything = range(factors)
    whole = closed(*everything)
    first = [closed(i) for i in everything]
    total = [whole - closed(*(j for j in everything if j != i)) for i in everything]
    pairs = [closed(i, j) - first[i] - first[j] for i, j in pairs_of(factors)]
    return Indices(np.stack(first, axis=-1), np.stack(total, axis=-1), np.stack(pairs, axis=-1), whole)


@remembered
def factorial_effects(cell: Cells, plan: Plan, grid: Factorial) -> Shares:
    """The shares of every factor and pair of a factorial whose cells differ by more than noise."""
    error, spread = errors(cell, plan, grid)
    point = components(grid.means[None], np.array([grid.noise]))
    draws = components(grid.means + error, 2 * spread)
    first, total, pairs = (
        estimates(p[0] / point.variance, d / positive(draws.variance)[:, None])
        for p, d in zip(point[:3], draws[:3], strict=True)
    )
    null = np.maximum(components(error, spread).total, 0).mean(axis=0).max()
    combinations = [pair_name(grid.names[i], grid.names[j]) for i, j in pairs_of(len(grid.names))]
    return Shares(
        dict(zip(grid.names, first, strict=True)),
        dict(zip(grid.names, total, strict=True)),
        dict(zip(combinations, pairs, strict=True)),
        float(min(null / point.variance[0], 1.0)),
        deviation(point, draws),
        [in_range(cell, plan, grid, error, spread, each) for each in ranges(cell, plan)],
        REPLICATED if cell.replicate is not None else SINGLE,
    )


def errors(cell: Cells, plan: Plan, grid: Factorial) -> tuple[Array, Array]:
    """S L1 .. LF draws of noise and of other seeds' luck, and S draws of the noise's variance."""
    generator = np.random.default_rng(SEED)
    spread = grid.noise * grid.freedom / generator.chisquare(grid.freedom, DRAWS)
    error = np.sqrt(spread)[:, None] * generator.normal(size=(DRAWS, grid.means.size))
    if plan.focus in grid.names:
        luck = seed_draws(cell, plan, DRAWS, generator)
        for row in grid.flat:
            error[:, row] += luck
    return error.reshape(DRAWS, *grid.means.shape), spread


def in_range(cell: Cells, plan: Plan, grid: Factorial, error: Array, spread: Array, stretch: Range) -> Width:
    """The focus knob's shares among the levels inside a range."""
    axis, knob = grid.names.index(plan.focus), cell.knobs[plan.focus]
    inside = [within(float(knob.decode(float(u))), stretch) for u in grid.levels[axis]]
    means = grid.means.compress(inside, axis)
    point = components(means[None], np.array([grid.noise]))
    draws = components(means + error.compress(inside, axis + 1), 2 * spread)
    first, total = (
        estimates(
            p[0, axis : axis + 1] / positive(point.variance), d[:, axis : axis + 1] / positive(draws.variance)[:, None]
        )
        for p, d in zip(point[:2], draws[:2], strict=True)
    )
    return Width(stretch, first[0], total[0], deviation(point, draws))


def positive(variance: Array) -> Array:
    """The variance, or next to nothing where what noise adds was more than all of it."""
    return np.maximum(variance, np.finfo(float).tiny)


def estimates(point: Array, draws: Array) -> list[Estimate]:
    """Shares (F) with the intervals of their draws (S F), inside [0, 1]."""
    low, high = np.percentile(draws, LEVEL, axis=0)
    ends = np.clip([point, np.minimum(low, point), np.maximum(high, point)], 0, 1)
    return [Estimate(*triple) for triple in ends.T.tolist()]


def deviation(point: Indices, draws: Indices) -> Estimate:
    """The standard deviation of the noise-free cells, score units."""
    value = float(np.sqrt(max(point.variance[0], 0)))
    low, high = np.sqrt(np.percentile(np.maximum(draws.variance, 0), LEVEL)).tolist()
    return Estimate(value, min(low, value), max(high, value))
