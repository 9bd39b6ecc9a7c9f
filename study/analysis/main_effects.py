"""Main effects from few points: what each knob explains by itself, with the rest left together.

With 8 to 16 points no surrogate can tell combinations of knobs apart, but the crossed design (every variant at every
point, paired seeds) can divide the variance of the noise-free score into

    points (averaged over variants) + variants + variants x points,

as a two-way analysis of variance, and the first part into what a smooth of one knob explains and a rest: the other
knobs, alone and together. A knob's share is its part of the whole. No total effects, no pairs.
"""

from typing import NamedTuple

import numpy as np

from study.analysis.axis import SEED, Array
from study.analysis.cells import Cells, point_means
from study.analysis.curves import central
from study.analysis.finding import Estimate
from study.analysis.marginal import marginal, separable
from study.analysis.plan import Plan
from study.analysis.widths import Range, Width, ranges, values_of, within
from study.space import LogFloat

SHADOWS = 5  # made-up knobs, for the noise floor
SHADOW = LogFloat("shadow", 1, 10, 1)
VARIANT = "variant"  # the name of the variant as a factor
METHOD = "main effects: smooths of the point means, two-way analysis of variance of the cells"


class Shares(NamedTuple):
    """Of the variance of the noise-free score over the declared ranges."""

    first: dict[str, Estimate]  # of a factor by itself
    total: dict[str, Estimate] | None  # with all combinations it takes part in; None where they cannot be told apart
    pairs: dict[str, Estimate] | None  # "a x b": of what two factors do together beyond what each does alone
    floor: float  # what a knob without effect shows
    deviation: Estimate  # the standard deviation that these are shares of
    widths: list[Width]  # the focus knob's shares, were its range narrower
    method: str


def pair_name(one: str, other: str) -> str:
    """How a combination of two factors is called."""
    return f"{one} x {other}"


class Between(NamedTuple):
    """Draws (S) of the two-way analysis of variance of V n cells, noise removed."""

    variants: Array  # variance of the variants' means
    crossed: Array  # variants x points: what a knob does to one variant and not to another


def main_effects(cell: Cells, plan: Plan) -> Shares:
    """The shares of every separable knob and of the variant, of V n cells with replicates."""
    generator = np.random.default_rng(SEED)
    share = {name: knob_share(cell, plan, name, generator) for name in separable(cell)}
    first = {name: central(part / whole) for name, (part, whole) in share.items()}
    whole = share[plan.focus][1]
    if len(cell.variants) > 1:
        first[VARIANT] = central(between(cell, len(whole), generator).variants / whole)
    floor = shadow_share(cell._replace(knobs=cell.knobs | {SHADOW.name: SHADOW}), plan, generator)
    widths = [in_range(cell, plan, each, *share[plan.focus]) for each in ranges(cell, plan)]
    return Shares(first, None, None, floor, central(np.sqrt(whole)), widths, METHOD)


def knob_share(cell: Cells, plan: Plan, name: str, generator: np.random.Generator) -> tuple[Array, Array]:
    """Draws (S each) of one knob's part of the variance and of the whole."""
    found = marginal(cell, plan, name)
    others = between(cell, len(found.draws.noise), generator)
    rest = np.maximum(found.draws.noise - cell.noise / len(cell.variants), 0)
    part = spread(found.response, found.axis.weight)
    return part, sum(found.variances[:-1]) + part + rest + others.variants + others.crossed


def spread(response: Array, weight: Array) -> Array:
    """S variances of curves (S G) over places that are drawn with the given weights."""
    return (response - (response @ weight)[:, None]) ** 2 @ weight


def in_range(cell: Cells, plan: Plan, stretch: Range, part: Array, whole: Array) -> Width:
    """The focus knob's share, were it drawn from a part of its range; the rest of the variance is taken as it was."""
    found = marginal(cell, plan, plan.focus)
    inside = np.array([within(value, stretch) for value in values_of(found)]) * found.axis.weight
    narrow = spread(found.response, inside / inside.sum())
    whole = whole - part + narrow
    return Width(stretch, central(narrow / whole), None, central(np.sqrt(whole)))


def freedom(cell: Cells) -> int:
    """Degrees of freedom of variants x points; any number where there is one variant."""
    count, points = cell.good.shape
    return int(np.isfinite(cell.good).sum()) - points - count + 1 if count > 1 else 1


def between(cell: Cells, draws: int, generator: np.random.Generator) -> Between:
    """The variants' own part and their part together with the points; zero for one variant."""
    count, points = cell.good.shape
    if count == 1:
        return Between(np.zeros(draws), np.zeros(draws))
    centred = cell.good - point_means(cell.good)
    level = np.nanmean(centred, axis=1)
    square = float(np.nansum((centred - level[:, None]) ** 2)) / freedom(cell)
    shrink = (count - 1) / count  # these variants are all there are, not a sample of many
    crossed = shrink * (square * freedom(cell) / generator.chisquare(freedom(cell), draws) - cell.noise)
    levels = level + np.sqrt(square / points) * generator.normal(size=(draws, count))
    variants = levels.var(axis=1) - 2 * shrink * square / points  # the levels' own error, once measured and once drawn
    return Between(np.maximum(variants, 0), np.maximum(crossed, 0))


def shadow_share(cell: Cells, plan: Plan, generator: np.random.Generator) -> float:
    """The mean share that a made-up knob shows, whose values are dealt to the points at random."""
    found = []
    for _ in range(SHADOWS):
        places = cell.where | {SHADOW.name: np.asarray(generator.random(cell.good.shape[1]))}
        part, whole = knob_share(cell._replace(where=places), plan, SHADOW.name, generator)
        found.append(float(np.median(part / whole)))
    return float(np.mean(found))
