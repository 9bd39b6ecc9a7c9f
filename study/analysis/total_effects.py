"""First-order, total and pairwise effects: Sobol indices of a surrogate, for designs with enough points.

The surrogate is judged on held-out points, not on held-out runs. What it leaves unexplained there, beyond run-to-run
noise, could belong to any factor, so every interval is widened by it: without that, posterior draws and resampled
points alike cover far less than they claim (measured in `benchmarks/calibrate.py`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import study.analysis.sobol as sobol
from study.analysis.axis import SEED, Array
from study.analysis.cells import Cells
from study.analysis.curves import LEVEL, central
from study.analysis.finding import Estimate
from study.analysis.main_effects import SHADOW, VARIANT, Shares, pair_name
from study.analysis.marginal import separable
from study.analysis.memo import remembered
from study.analysis.plan import Plan
from study.analysis.seeds import seed_draws
from study.analysis.surrogate import DRAWS, Data, Surrogate, better, forest, gaussian_process
from study.analysis.widths import Range, Width, places, ranges, squeezed
from study.space import Choice, Knob, Levels

BASE = 4096  # Saltelli's base sample for the surrogate's mean
BASE_OF_DRAWS = 128  # and for its draws, of which only the difference from the mean is used
BASE_OF_WIDTHS = 256  # the same for one factor, which needs fewer blocks
BLOCK = 4096  # points evaluated at once
SHADOWS = 3  # made-up knobs, for the noise floor


class Factor(NamedTuple):
    """One column of the unit cube: a knob, or the variant."""

    name: str
    knob: Knob
    has: Array  # V, 1 where the variant has the knob


class StandIn(NamedTuple):
    """The better surrogate of the cells, and how good it is."""

    factors: list[Factor]
    data: Data
    scale: float  # score units per unit of the standardised score
    surrogate: Surrogate
    explainable: float  # 1 - noise / variance of the cells: no surrogate can be better

    @property
    def missing(self) -> float:
        """The part of what could be explained that it does not predict at held-out points."""
        if self.explainable <= 0:
            return 1.0
        return min(max(1 - self.surrogate.q2 / self.explainable, 0.0), 1.0)


def explainable_part(cell: Cells) -> float:
    """The part of the cells' variance that is not run-to-run noise; 1 where one seed cannot tell."""
    return max(1 - cell.noise / float(np.nanvar(cell.good)), 0.0)


@remembered
def stand_in(cell: Cells) -> StandIn:
    """Of V n cells that are not all equal."""
    factors, explainable = factors_of(cell), explainable_part(cell)
    data, scale = data_of(cell, factors)
    return StandIn(factors, data, scale, better(data, explainable), explainable)


@remembered
def total_effects(cell: Cells, plan: Plan) -> Shares:
    """The Sobol indices of the cells' surrogate, if it predicts something."""
    stand = stand_in(cell)
    factors, surrogate, missing = stand.factors, stand.surrogate, stand.missing
    count, shift = len(factors), luck(stand, cell, plan)
    mean, error = sobol.estimates(predicted(surrogate.predict, decoded(factors, sobol.points(count, BASE)))[0], count)
    x = decoded(factors, sobol.points(count, BASE_OF_DRAWS))
    small = sobol.indices(predicted(surrogate.predict, x), count)
    draws = sobol.indices(surrogate.draws(x, shift), count)
    floor = noise_floor(stand)
    moved = sobol.Indices(*(m + d - s for m, d, s in zip(mean, draws, small, strict=True)))
    names = [factor.name for factor in factors]
    pairs = [pair_name(names[i], names[j]) for i, j in sobol.pairs_of(count)]
    spread = deviation(stand.scale * np.sqrt(np.maximum(moved.variance, 0)), missing)
    return Shares(
        dict(zip(names, widened(moved.first, missing + error.first[0]), strict=True)),
        dict(zip(names, widened(moved.total, missing + error.total[0] + floor), strict=True)),
        dict(zip(pairs, widened(moved.pairs, missing + error.pairs[0]), strict=True)),
        floor,
        spread,
        [in_range(stand, plan, shift, each, float(mean.variance[0])) for each in ranges(cell, plan)],
        f"Sobol indices (SALib) of a {surrogate.method}, widened by the held-out residual",
    )


def luck(stand: StandIn, cell: Cells, plan: Plan) -> Array | None:
    """S N, what other seeds would have added to the standardised score of every cell; None where no one can tell."""
    if plan.focus not in separable(cell):
        return None
    shift = seed_draws(cell, plan, DRAWS, np.random.default_rng(SEED))[:, stand.data.point] / stand.scale
    return shift if shift.any() else None


def in_range(stand: StandIn, plan: Plan, shift: Array | None, stretch: Range, whole: float) -> Width:
    """The focus knob's shares, were it drawn from a part of its range; `whole` is the variance over all of it.

    What the surrogate misses is a larger part of a smaller variance.
    """
    which = [factor.name for factor in stand.factors].index(plan.focus)
    part = places(stand.factors[which].knob, stretch)
    large, few = (
        decoded(stand.factors, squeezed(sobol.points_of_one(len(stand.factors), which, base), which, part))
        for base in (BASE, BASE_OF_WIDTHS)
    )
    mean = sobol.indices_of_one(predicted(stand.surrogate.predict, large))
    small = sobol.indices_of_one(predicted(stand.surrogate.predict, few))
    draws = sobol.indices_of_one(stand.surrogate.draws(few, shift))
    first, total, variance = (m + d - s for m, d, s in zip(mean, draws, small, strict=True))
    missing = min(stand.missing * whole / float(mean[2][0]), 1.0)
    alone, combined = widened(np.column_stack([first, total]), np.full(2, missing))
    return Width(stretch, alone, combined, deviation(stand.scale * np.sqrt(np.maximum(variance, 0)), missing))


def factors_of(cell: Cells) -> list[Factor]:
    """The separable knobs, and the variant where there are several."""
    knobs = [Factor(name, cell.knobs[name], cell.has[name]) for name in separable(cell)]
    if len(cell.variants) == 1:
        return knobs
    return [*knobs, Factor(VARIANT, Choice(VARIANT, cell.variants, cell.variants[0]), np.ones(len(cell.variants)))]


def data_of(cell: Cells, factors: list[Factor]) -> tuple[Data, float]:
    """The cells that ran, standardised, and the standard deviation taken out."""
    variant, point = np.nonzero(np.isfinite(cell.good))
    good = cell.good[variant, point]
    places = {
        f.name: (variant + 0.5) / len(cell.variants) if f.name == VARIANT else cell.where[f.name][point]
        for f in factors
    }
    x = np.column_stack([columns(f, places[f.name], f.has[variant]) for f in factors])
    return Data(x, (good - good.mean()) / good.std(), point), float(good.std())


def columns(factor: Factor, place: Array, has: Array) -> Array:
    """N C: a knob with an order is one column, one without is a column per level; neutral where there is no knob."""
    if not isinstance(factor.knob, Choice):
        return np.where(has > 0, place, 0.5)[:, None]
    count = len(factor.knob.values)
    return np.eye(count)[np.minimum((place * count).astype(int), count - 1)] * has[:, None]


def decoded(factors: list[Factor], cube: Array) -> Array:
    """Points of the unit cube (M F) as the surrogate sees them (M C): levels snapped, absent knobs neutral."""
    pairs = list(zip(factors, cube.T, strict=True))
    snapped = [snap(u, len(f.knob.values)) if isinstance(f.knob, Levels) else u for f, u in pairs]
    variant = (
        (snapped[-1] * len(factors[-1].has)).astype(int) if factors[-1].name == VARIANT else np.zeros(len(cube), int)
    )
    return np.column_stack([columns(f, u, f.has[variant]) for f, u in zip(factors, snapped, strict=True)])


def snap(u: Array, count: int) -> Array:
    """The middle of the level whose share of [0, 1) holds u, as `Levels.encode(Levels.decode(u))`."""
    return (np.minimum((u * count).astype(int), count - 1) + 0.5) / count


def predicted(predict: Callable[[Array], Array], x: Array) -> Array:
    """1 M, the surrogate's mean at x (M C), a block of rows at a time: its kernel holds a row per cell."""
    return np.concatenate([predict(block) for block in np.array_split(x, -(-len(x) // BLOCK))])[None]


def widened(draws: Array, missing: Array) -> list[Estimate]:
    """Estimates from draws (S F); `missing` (F) of the variance may belong to this factor or to any other."""
    low, value, high = np.percentile(draws, (LEVEL[0], 50, LEVEL[1]), axis=0)
    columns = (np.clip(column, 0, 1).tolist() for column in (value, low - missing, high + missing))
    return [Estimate(*triple) for triple in zip(*columns, strict=True)]


def deviation(draws: Array, missing: float) -> Estimate:
    """The standard deviation, were the missing part of the variance absent or added."""
    value, low, high = central(draws)
    return Estimate(value, float(low or 0) * math.sqrt(1 - missing), float(high or 0) * math.sqrt(1 + missing))


def noise_floor(stand: StandIn) -> float:
    """The mean total share that a made-up knob shows, whose values are dealt to the points at random.

    Dealing out the target instead would also take away the other knobs' effects: the surrogate then fits pure noise,
    and a "floor" of 20 to 50 % (measured at 64 points) says nothing about a knob beside a real effect.
    """
    generator = np.random.default_rng(SEED)
    data, refit = stand.data, gaussian_process if stand.surrogate.smooth else forest
    factors = [Factor(SHADOW.name, SHADOW, np.ones(len(stand.factors[-1].has))), *stand.factors]
    x, shares = decoded(factors, sobol.points_of_one(len(factors), 0, BASE_OF_WIDTHS)), []
    for _ in range(SHADOWS):
        shadow = generator.random(data.point.max() + 1)[data.point]
        chance = refit(data._replace(x=np.column_stack([shadow, data.x])))
        _, total, _ = sobol.indices_of_one(predicted(chance.predict, x))
        shares.append(float(total[0]))
    return float(np.mean(shares))
