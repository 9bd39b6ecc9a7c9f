"""A balanced full factorial divides its variance exactly: an analysis of variance of the cell means, no surrogate.

Every combination of the observed levels ran once with every seed, so effects are differences of averages (Fisher 1925).
What S seeds add to the variance of a set of averages has an unbiased estimate, whatever a seed does to which cells: the
sum over seeds of the same variance of their deviations, over S (S - 1). It is taken off. Fewer than LEAST_SEEDS cannot
tell: the combination of all factors, the seed one of them, then is noise alike in all cells, and a set of L averages of
N cells holds (L - 1) / N of it. For the intervals both are drawn once more, with variances from their scaled inverse
chi-squares, and what the draws add is taken off too.
"""

from math import prod
from typing import NamedTuple

import numpy as np

from study.analysis.axis import ROUNDING, SEED, Array, unit
from study.analysis.cells import Cells, bounded
from study.analysis.curves import LEVEL
from study.analysis.finding import Estimate
from study.analysis.main_effects import VARIANT, Shares, pair_name
from study.analysis.marginal import separable
from study.analysis.memo import remembered
from study.analysis.plan import Plan
from study.analysis.seeds import seed_errors
from study.analysis.sobol import Indices, pairs_of
from study.analysis.widths import Range, Width, ranges, within
from study.space import Knob

DRAWS = 400
REPLICATED = "analysis of variance of a full factorial, replicate variance removed"
SINGLE = "analysis of variance of a full factorial, the combination of all factors taken as noise"


class Factorial(NamedTuple):
    """S seeds at L1 .. LF levels of F factors; the variant is the last factor where there are several."""

    names: tuple[str, ...]
    levels: tuple[Array, ...]  # per factor, sorted: unit coordinates, or places in the list of variants
    at: np.ndarray  # S L1 .. LF, which row of the cells' rows


class Noise(NamedTuple):
    """How much of each kind of noise D factorials hold."""

    white: Array  # D, variance of a cell mean
    seeds: Array  # D, in multiples of what the seeds' errors add up to


class Means(NamedTuple):
    """Cell means of a factorial with the noise that they hold, and draws of it."""

    of: Array  # 1 L1 .. LF, larger is better
    errors: Array  # S L1 .. LF of the seeds, see `seed_errors`
    noise: Noise  # 1
    white: Array  # D L1 .. LF, draws of white noise
    luck: Array  # D L1 .. LF, draws of what other seeds would have added
    drawn: Noise  # D, what they were drawn with


def factorial(cell: Cells) -> Factorial | None:
    """The cells as a full factorial of at least two factors, None where they are none."""
    knobs = separable(cell)
    several, rows = len(cell.variants) > 1, cell.rows
    if len(knobs) + several < 2 or not all(cell.has[name].all() for name in knobs) or rows["val_score"].isna().any():
        return None
    places = [np.round(unit(cell.knobs[name], rows[name]) / ROUNDING) for name in knobs]
    places += several * [rows["variant"].map(cell.variants.index).to_numpy(dtype=float)]
    split = [np.unique(place, return_inverse=True) for place in (rows["seed"].to_numpy(), *places)]
    shape = [len(known) for known, _ in split]
    flat = np.ravel_multi_index([at for _, at in split], shape)
    if not np.array_equal(np.sort(flat), np.arange(prod(shape))):
        return None
    levels = tuple(known * (ROUNDING if i < len(knobs) else 1) for i, (known, _) in enumerate(split[1:]))
    return Factorial((*knobs, *several * [VARIANT]), levels, np.argsort(flat).reshape(shape))


def runs(cell: Cells, plan: Plan, grid: Factorial) -> Array:
    """S L1 .. LF scores, oriented and bounded as the cells are."""
    rows = cell.rows
    return bounded(plan.sign(rows["task"].iloc[0]) * rows["val_score"], cell.floor).to_numpy(dtype=float)[grid.at]


def white_noise(scores: Array) -> tuple[float, int]:
    """Variance of a mean over seeds (scores: S L1 .. LF) by the combination of all factors; its degrees of freedom."""
    rest, axes = scores, [axis for axis, size in enumerate(scores.shape) if size > 1]
    for axis in axes:
        rest = rest - rest.mean(axis=axis, keepdims=True)
    freedom = prod(scores.shape[axis] - 1 for axis in axes)
    return float((rest**2).sum() / freedom / len(scores)), freedom


def means_of(scores: Array) -> Means:
    """Of S L1 .. LF scores, with the same draws for the same shape."""
    generator, errors, (variance, freedom) = np.random.default_rng(SEED), seed_errors(scores), white_noise(scores)
    held = Noise(np.zeros(1), np.ones(1)) if len(errors) else Noise(np.array([variance]), np.zeros(1))
    drawn = variance * freedom / generator.chisquare(freedom, DRAWS)
    white = np.sqrt(drawn)[:, None] * generator.normal(size=(DRAWS, scores[0].size))
    luck, often = seed_luck(errors, variance, generator)
    return Means(
        scores.mean(axis=0)[None], errors, held, white.reshape(DRAWS, *scores.shape[1:]), luck, Noise(drawn, often)
    )


def seed_luck(errors: Array, white: float, generator: np.random.Generator) -> tuple[Array, Array]:
    """D L1 .. LF draws of what other seeds would have added beyond white noise, and D multiples of the errors drawn."""
    seeds = len(errors)
    if not seeds:
        return np.zeros((DRAWS, *errors.shape[1:])), np.zeros(DRAWS)
    beyond = max(1 - white * (errors[0].size - 1) / float(positive((errors**2).sum())), 0.0)
    often = beyond * (seeds - 1) / generator.chisquare(seeds - 1, DRAWS)
    return np.tensordot(np.sqrt(often)[:, None] * generator.normal(size=(DRAWS, seeds)), errors, axes=1), often


def components(means: Array, errors: Array, noise: Noise) -> Indices:
    """Variance components of D factorials (means: D L1 .. LF), what noise adds to each on average taken off."""
    everything = range(means.ndim - 1)

    def closed(*kept: int) -> Array:
        others = tuple(1 + i for i in everything if i not in kept)
        averaged, seeds = means.mean(axis=others), errors.mean(axis=others)
        axes, white = tuple(range(1, averaged.ndim)), noise.white * (averaged[0].size - 1) / means[0].size
        return np.asarray(averaged.var(axis=axes) - white - noise.seeds * seeds.var(axis=axes).sum())

    whole = closed(*everything)
    first = [closed(i) for i in everything]
    total = [whole - closed(*(j for j in everything if j != i)) for i in everything]
    pairs = [closed(i, j) - first[i] - first[j] for i, j in pairs_of(len(everything))]
    return Indices(np.stack(first, axis=-1), np.stack(total, axis=-1), np.stack(pairs, axis=-1), whole)


@remembered
def factorial_effects(cell: Cells, plan: Plan, grid: Factorial) -> Shares:
    """The shares of every factor and pair of a factorial whose cells differ by more than noise."""
    scores = runs(cell, plan, grid)
    means = means_of(scores)
    (first, total, pairs), spread = parts(means)
    chance = components(means.white, means.errors[:0], means.drawn)
    null = np.maximum(chance.total, 0).mean(axis=0).max() / spread.value**2
    combinations = [pair_name(grid.names[i], grid.names[j]) for i, j in pairs_of(len(grid.names))]
    return Shares(
        dict(zip(grid.names, first, strict=True)),
        dict(zip(grid.names, total, strict=True)),
        dict(zip(combinations, pairs, strict=True)),
        float(min(null, 1.0)),
        spread,
        [in_range(means, grid, cell.knobs[plan.focus], each) for each in ranges(cell, plan)],
        REPLICATED if len(scores) > 1 else SINGLE,
    )


def parts(means: Means) -> tuple[list[list[Estimate]], Estimate]:
    """First, total and pairwise shares, and the standard deviation that they are shares of.

    How much the means hold is itself uncertain, with three seeds by a chi-square of two degrees of freedom. That moves
    the standard deviation, whose draws take off twice what was drawn; from shares most of it cancels.
    """
    moved, drawn, held = means.of + means.white + means.luck, means.drawn, means.noise
    point = components(means.of, means.errors, held)
    both = Noise(drawn.white + held.white, drawn.seeds + held.seeds)
    draws = components(moved, means.errors, both)
    shares = [
        estimates(p[0] / positive(point.variance), d / positive(draws.variance)[:, None])
        for p, d in zip(point[:3], draws[:3], strict=True)
    ]
    twice = Noise(2 * drawn.white, 2 * drawn.seeds)
    return shares, deviation(point.variance, components(moved, means.errors, twice).variance)


def in_range(means: Means, grid: Factorial, focus: Knob, stretch: Range) -> Width:
    """The focus knob's shares among the levels inside a range."""
    axis = grid.names.index(focus.name)
    inside = [within(float(focus.decode(float(u))), stretch) for u in grid.levels[axis]]
    of, errors, white, luck = (
        each.compress(inside, axis + 1) for each in (means.of, means.errors, means.white, means.luck)
    )
    (first, total, _), spread = parts(Means(of, errors, means.noise, white, luck, means.drawn))
    return Width(stretch, first[axis], total[axis], spread)


def positive(variance: Array) -> Array:
    """The variance, or next to nothing where what noise adds was more than all of it."""
    return np.maximum(variance, np.finfo(float).tiny)


def estimates(point: Array, draws: Array) -> list[Estimate]:
    """Shares (F) with the intervals of their draws (D F), inside [0, 1]."""
    low, high = np.percentile(draws, LEVEL, axis=0)
    ends = np.clip([point, np.minimum(low, point), np.maximum(high, point)], 0, 1)
    return [Estimate(*triple) for triple in ends.T.tolist()]


def deviation(point: Array, draws: Array) -> Estimate:
    """The standard deviation of the noise-free cells, score units, of their variance (1) and its draws (D)."""
    value = float(np.sqrt(max(point[0], 0)))
    low, high = np.sqrt(np.percentile(np.maximum(draws, 0), LEVEL)).tolist()
    return Estimate(value, min(low, value), max(high, value))
