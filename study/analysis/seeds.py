"""The seed as a crossed random effect: what all settings of one seed share, beyond the noise of single runs.

    y_is = f(u_i) + a_s + b_s (u_i - mean u) + e_is

over points i of the design and seeds s, u the focus knob's unit coordinate. a_s is the seed's luck; b_s is its
interaction with the focus knob: a seed that moves the optimum tilts the response around it. Averages over the study's
seeds keep an error of both that no number of points makes smaller, so intervals that speak of new seeds must add it.
"""

from typing import NamedTuple

import numpy as np

from study.analysis.axis import Array
from study.analysis.cells import Cells, focus_places
from study.analysis.plan import Plan

LEAST_SEEDS = 3  # two differ by one number: no variance


class SeedEffects(NamedTuple):
    """Draws (D) of the error that the study's seeds leave in a mean over them."""

    level: Array  # D
    slope: Array  # D, per unit of the focus knob's log axis
    centre: float  # the focus coordinate where the slope adds nothing

    def at(self, u: Array) -> Array:
        """D G: what they add at the focus coordinates u (G)."""
        return self.level[:, None] + self.slope[:, None] * (u - self.centre)


def seed_errors(scores: Array) -> Array:
    """S L1 .. LF parts of the error that S seeds leave in their mean (scores: S L1 .. LF); none of too few seeds.

    Deviations from the mean, levels removed, over the root of S (S - 1): in any linear combination of cells their
    squares add up to an unbiased estimate of its variance, whatever a seed does to which cells.
    """
    seeds = len(scores)
    if seeds < LEAST_SEEDS:
        return scores[:0]
    rest = scores - scores.mean(axis=0)
    level = rest.mean(axis=tuple(range(1, rest.ndim)), keepdims=True)
    return np.asarray((rest - level) / np.sqrt(seeds * (seeds - 1)))


class PerSeed(NamedTuple):
    """Least-squares fits to every seed's deviations from the point means."""

    effects: Array  # S 2, level and slope
    error: Array  # 2, their variances from noise alone
    noise: float  # variance of a run around its seed's effects, averaged over variants; 0 without a degree of freedom
    freedom: int  # of the noise


def seed_draws(cell: Cells, plan: Plan, count: int, generator: np.random.Generator) -> Array:
    """D n draws of what other seeds would have added to the point means; zero with fewer than LEAST_SEEDS seeds."""
    return seed_effects(cell, plan, count, generator).at(focus_places(cell, plan))


def seed_effects(cell: Cells, plan: Plan, count: int, generator: np.random.Generator) -> SeedEffects:
    """Draws of both effects, each variance from its scaled inverse chi-square, in pairs of opposite sign."""
    found, centre = per_seed(cell, plan), float(focus_places(cell, plan).mean())
    seeds = len(found.effects)
    if seeds < LEAST_SEEDS:
        return SeedEffects(np.zeros(count), np.zeros(count), centre)
    half = (-(-count // 2), 2)
    square = found.effects.var(axis=0, ddof=1) * (seeds - 1) / generator.chisquare(seeds - 1, half)
    luck = np.sqrt(np.maximum(square - found.error, 0) / seeds) * generator.normal(size=half)
    luck = np.concatenate([luck, -luck])[:count]
    return SeedEffects(luck[:, 0], luck[:, 1], centre)


def per_seed(cell: Cells, plan: Plan) -> PerSeed:
    """Level and slope of every seed that shares settings with others."""
    u = focus_places(cell, plan)
    design = np.column_stack([np.ones(len(u)), u - u.mean()])
    deviations = cell.deviations[np.isfinite(cell.deviations).any(axis=1)]
    ran = np.isfinite(deviations)
    if not len(ran):
        return PerSeed(np.zeros((0, 2)), np.zeros(2), 0.0, 0)
    inverse = np.stack([np.linalg.pinv(design[some].T @ design[some]) for some in ran])  # S 2 2
    effects = np.einsum("sab,sb->sa", inverse, np.where(ran, deviations, 0) @ design)
    rest = np.where(ran, deviations - effects @ design.T, 0)
    freedom = max(int(ran.sum() - ran.any(axis=0).sum()) - 2 * (len(ran) - 1), 0)  # a mean per point is taken out
    noise = float((rest**2).sum()) / max(freedom, 1)
    return PerSeed(effects, noise * np.diagonal(inverse, axis1=1, axis2=2).mean(axis=0), noise, freedom)
