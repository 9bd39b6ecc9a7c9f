"""A LoRA-shaped study whose answers are known, to test every analysis against.

    score = level_v - curvature (u - best_v - shift_s)^2 - rank_cost (log2 rank - rank_best)^2
            - alpha_cost (log10 alpha - alpha_best)^2 + init + level_s
    u     = log10 learning_rate + coupling log10(alpha / rank)

An inverted U over the learning rate whose top moves with the effective scale, with the variant and with the seed s,
never below START, the score of the untouched model; beyond `cliff` a run diverges. Without floor and cliff everything
has a closed form: the marginal optimum is best_v - coupling E[log10(alpha / rank)], the window
2 sqrt(margin / curvature). In general the truth is the average over seeds and over a full grid of the declared space.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import qmc

from study.analysis.axis import Array, Axis
from study.analysis.curves import one_decade, shortfall, window
from study.analysis.main_effects import VARIANT
from study.analysis.plan import Plan, continuous
from study.space import Knob, LogFloat

COLUMNS = 32  # of the Sobol sequence; a knob owns one by order of first use
GRID, GRID_OF_OTHERS = 241, 41  # midpoints of the exact average: of the focus knob, of other ranges
SHIFTS = 9  # Gauss-Hermite nodes of the average over seeds


@dataclass(frozen=True)
class Surface:
    """The true response, and the noise around it (standard deviations in score units, shift in decades)."""

    best: Mapping[str, float]  # variant -> optimal u
    level: Mapping[str, float] = field(default_factory=dict)  # variant -> score at the optimum, TOP where absent
    init: Mapping[str, float] = field(default_factory=dict)  # level of the knob -> what it adds
    curvature: float = 0.06  # score per square decade
    coupling: float = 0.5
    flat: float = 0.0  # how much of the parabola's top is cut off, in score units: a plateau
    rank_cost: float = 0.004  # score per square doubling
    rank_best: float = 2.5  # log2
    alpha_cost: float = 0.0  # score per square decade
    alpha_best: float = 1.2  # log10
    floor: bool = True  # no score below start
    cliff: float = float("inf")  # u beyond which a run diverges
    noise: float = 0.01  # of a run
    seed_level: float = 0.005  # shared by all settings of a seed
    seed_shift: float = 0.0  # of the optimum, shared by all settings of a seed


TOP, START, LOSS_START = 0.80, 0.48, 0.70


class Truth(NamedTuple):
    """What an analysis of the surface over the declared space would find, given all seeds there are and no noise."""

    best: float  # log10 of the focus knob at the top of the marginal response
    window: float  # decades
    sensitivity: float  # score units
    decade: float  # the same over the decade around the best
    first: dict[str, float]
    total: dict[str, float]
    deviation: float


def scores(surface: Surface, variant: str, values: Mapping[str, Any], shift: float | Array = 0.0) -> Array:
    """The expected score of settings given as arrays per knob; START where they diverge."""
    u = effective_rate(surface, values)
    fall = surface.curvature * (u - surface.best[variant] - shift) ** 2
    score = surface.level.get(variant, TOP) - np.maximum(fall, surface.flat)
    if "rank" in values:
        score = score - surface.rank_cost * (np.log2(values["rank"]) - surface.rank_best) ** 2
    if "alpha" in values:
        score = score - surface.alpha_cost * (np.log10(values["alpha"]) - surface.alpha_best) ** 2
    if "init" in values:
        score = score + np.vectorize(lambda name: surface.init.get(name, 0.0), otypes=[float])(values["init"])
    score = np.where(u > surface.cliff, START, score)
    return np.maximum(score, START) if surface.floor else score


def expected(surface: Surface, variant: str, values: Mapping[str, Any]) -> Array:
    """The score of settings averaged over all seeds."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(SHIFTS if surface.seed_shift else 1)
    moved = np.stack([scores(surface, variant, values, surface.seed_shift * float(node)) for node in nodes])
    return np.asarray(np.tensordot(weights / weights.sum(), moved, axes=1))


def simulate(
    surface: Surface, plan: Plan, points: int, seeds: int, generator: np.random.Generator, task: str = "task"
) -> pd.DataFrame:
    """The explore phase of a study with paired seeds: one scrambled Sobol sequence for all variants, or a grid.

    Of a grid, `points` is how many values a range takes.
    """
    chosen = crossed(plan, points) if plan.design == "grid" else sampled(plan, points, generator)
    drift = luck(surface, seeds, generator)
    frames = []
    for variant, values in chosen.items():
        for seed in range(seeds):
            score = scores(surface, variant, values, drift[seed, 1]) + drift[seed, 0]
            score = score + surface.noise * generator.normal(size=score.shape)
            diverged = diverges(surface, values)
            frames.append(rows(task, variant, values, seed, np.where(diverged, START, score), diverged))
    return pd.concat(frames, ignore_index=True)


def sampled(plan: Plan, points: int, generator: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Per variant the values of its knobs at the points of one sequence that all variants share."""
    cube = qmc.Sobol(COLUMNS, rng=generator).random_base2(int(np.ceil(np.log2(max(points, 2)))))[:points]
    columns = list(dict.fromkeys(knob.name for knobs in plan.knobs.values() for knob in knobs))
    return {
        variant: {knob.name: np.array([knob.decode(u) for u in cube[:, columns.index(knob.name)]]) for knob in knobs}
        for variant, knobs in plan.knobs.items()
    }


def crossed(plan: Plan, points: int) -> dict[str, dict[str, np.ndarray]]:
    """Per variant every combination of its knobs' values."""
    mesh = {v: np.meshgrid(*(k.grid(points) for k in knobs), indexing="ij") for v, knobs in plan.knobs.items()}
    return {v: {k.name: g.ravel() for k, g in zip(plan.knobs[v], grids, strict=True)} for v, grids in mesh.items()}


def luck(surface: Surface, seeds: int, generator: np.random.Generator) -> Array:
    """S 2, the level and the shift that all settings of a seed share."""
    return generator.normal(size=(seeds, 2)) * (surface.seed_level, surface.seed_shift)


def diverges(surface: Surface, values: Mapping[str, Any]) -> np.ndarray:
    """Which settings are beyond the cliff."""
    return effective_rate(surface, values) > surface.cliff


def effective_rate(surface: Surface, values: Mapping[str, Any]) -> Array:
    """u; a study whose rank or alpha did not vary has no scale."""
    scale = np.log10(values["alpha"] / values["rank"]) if {"alpha", "rank"} <= set(values) else 0.0
    return np.asarray(np.log10(values["learning_rate"]) + surface.coupling * scale)


def rows(
    task: str, variant: str, values: Mapping[str, Any], seed: int, score: Array, diverged: np.ndarray
) -> pd.DataFrame:
    """A table's rows of one variant and seed; the loss is the score turned round."""
    return pd.DataFrame(
        {
            "task": task,
            "variant": variant,
            "phase": "explore",
            **values,
            "seed": seed,
            "state": np.where(diverged, "diverged", "finished"),
            "val_score": score,
            "val_loss": LOSS_START + START - score,
            "test_score": np.nan,
            "loss0": LOSS_START,
            "score0": START,
            "diverged": diverged,
            "steps": 100,
            "cpu_seconds": 1.0,
            "key": [f"{variant}-{i}" for i in range(len(score))],
        }
    )


def truth(surface: Surface, plan: Plan, variants: tuple[str, ...]) -> Truth:
    """By averaging over a full grid: axes are the variants, then the knobs of the first of them."""
    knobs = plan.knobs[variants[0]]
    full = exact(surface, plan, variants)
    names = [VARIANT, *(knob.name for knob in knobs)]
    others = [tuple(i for i in range(full.ndim) if i != axis) for axis in range(full.ndim)]
    first = {name: float(full.mean(axis=o).var() / full.var()) for name, o in zip(names, others, strict=True)}
    total = {name: float(full.var(axis=i).mean() / full.var()) for i, name in enumerate(names)}
    focus = next(knob for knob in knobs if knob.name == plan.focus)
    marginal = full.mean(axis=others[names.index(plan.focus)])
    axis = midpoints(focus, len(marginal))
    top = axis.at[np.isclose(marginal, marginal.max())].mean()  # the middle of a plateau
    near = one_decade(axis, int(np.abs(axis.at - top).argmin()))
    decades = float(np.log10(continuous(focus).high / continuous(focus).low))
    return Truth(
        float(np.log10(continuous(focus).low) + decades * top),
        float(decades * window(marginal, axis.at, plan.margin).width),
        shortfall(marginal, axis.weight, START),
        shortfall(marginal, axis.weight if near is None else near, START),
        first,
        total,
        float(full.std()),
    )


def exact(surface: Surface, plan: Plan, variants: tuple[str, ...]) -> Array:
    """V L1 .. LF, the mean over seeds at a full grid of the first variant's knobs; one that a variant lacks is idle."""
    knobs = plan.knobs[variants[0]]
    mesh = np.meshgrid(*(exact_grid(knob, plan.focus) for knob in knobs), indexing="ij")
    values = {knob.name: grid for knob, grid in zip(knobs, mesh, strict=True)}
    own = [{knob.name for knob in plan.knobs[variant]} for variant in variants]
    found = [
        expected(surface, variant, {name: grid for name, grid in values.items() if name in names})
        for variant, names in zip(variants, own, strict=True)
    ]
    return np.stack([np.broadcast_to(score, mesh[0].shape) for score in found])


def midpoints(knob: Knob, count: int) -> Axis:
    """The axis of a positive knob whose range is cut into equal shares."""
    at, whole = (np.arange(count) + 0.5) / count, continuous(knob)
    decades = np.log10(whole.low) + at * np.log10(whole.high / whole.low)
    return Axis(whole, at, np.full(count, 1 / count), True, decades)


def exact_grid(knob: Knob, focus: str) -> list[Any]:
    """Midpoints of equal shares of a range, or the levels."""
    if not isinstance(knob, LogFloat):
        return list(knob.values)
    count = GRID if knob.name == focus else GRID_OF_OTHERS
    return [knob.decode((i + 0.5) / count) for i in range(count)]
