"""A LoRA-shaped study whose answers are known, to test every analysis against.

    score = level_v - curvature (u - best_v)^2 - rank_cost (log2 rank - rank_best)^2 + init
    u     = log10 learning_rate + coupling log10(alpha / rank)

An inverted U over the learning rate whose top moves with the effective scale and with the variant, never below
`start`, the score of the untouched model; beyond `cliff` a run diverges. Without floor and cliff everything has a
closed form: the marginal optimum is best_v - coupling E[log10(alpha / rank)], the window 2 sqrt(margin / curvature).
In general the truth is the average over a full grid of the declared space.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import qmc

from study.analysis.axis import Array
from study.analysis.curves import shortfall, window
from study.analysis.main_effects import VARIANT
from study.analysis.plan import Plan, continuous
from study.space import Knob, LogFloat

COLUMNS = 32  # of the Sobol sequence; a knob owns one by order of first use
GRID, GRID_OF_OTHERS = 241, 41  # midpoints of the exact average: of the focus knob, of other ranges


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
    floor: bool = True  # no score below start
    cliff: float = float("inf")  # u beyond which a run diverges
    noise: float = 0.01  # of a run
    seed_level: float = 0.005  # shared by all settings of a seed
    seed_shift: float = 0.0  # of the optimum, shared by all settings of a seed


TOP, START, LOSS_START = 0.80, 0.48, 0.70


class Truth(NamedTuple):
    """What an analysis of the noise-free surface over the declared space would find."""

    best: float  # log10 of the focus knob at the top of the marginal response
    window: float  # decades
    sensitivity: float  # score units
    first: dict[str, float]
    total: dict[str, float]
    deviation: float


def scores(surface: Surface, variant: str, values: Mapping[str, Any], shift: float = 0.0) -> Array:
    """The expected score of settings given as arrays per knob; START where they diverge."""
    scale = np.log10(values["alpha"] / values["rank"]) if "alpha" in values else 0.0
    u = np.log10(values["learning_rate"]) + surface.coupling * scale
    fall = surface.curvature * (u - surface.best[variant] - shift) ** 2
    score = surface.level.get(variant, TOP) - np.maximum(fall, surface.flat)
    if "rank" in values:
        score = score - surface.rank_cost * (np.log2(values["rank"]) - surface.rank_best) ** 2
    if "init" in values:
        score = score + np.vectorize(lambda name: surface.init.get(name, 0.0), otypes=[float])(values["init"])
    score = np.where(u > surface.cliff, START, score)
    return np.maximum(score, START) if surface.floor else score


def simulate(
    surface: Surface, plan: Plan, points: int, seeds: int, generator: np.random.Generator, task: str = "task"
) -> pd.DataFrame:
    """The explore phase of a study: one scrambled Sobol sequence for all variants, paired seeds."""
    cube = qmc.Sobol(COLUMNS, rng=generator).random_base2(int(np.ceil(np.log2(max(points, 2)))))[:points]
    columns = list(dict.fromkeys(knob.name for knobs in plan.knobs.values() for knob in knobs))
    drift = generator.normal(size=(seeds, 2)) * (surface.seed_level, surface.seed_shift)
    frames = []
    for variant, knobs in plan.knobs.items():
        values = {k.name: np.array([k.decode(u) for u in cube[:, columns.index(k.name)]]) for k in knobs}
        for seed in range(seeds):
            score = scores(surface, variant, values, drift[seed, 1]) + drift[seed, 0]
            score = score + surface.noise * generator.normal(size=points)
            diverged = diverges(surface, values)
            frames.append(rows(task, variant, values, seed, np.where(diverged, START, score), diverged))
    return pd.concat(frames, ignore_index=True)


def diverges(surface: Surface, values: Mapping[str, Any]) -> np.ndarray:
    """Which settings are beyond the cliff."""
    scale = np.log10(values["alpha"] / values["rank"]) if "alpha" in values else 0.0
    return np.log10(values["learning_rate"]) + surface.coupling * scale > surface.cliff


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
    mesh = np.meshgrid(*(exact_grid(knob, plan.focus) for knob in knobs), indexing="ij")
    values = {knob.name: grid for knob, grid in zip(knobs, mesh, strict=True)}
    absent = [{k.name for k in knobs} - {k.name for k in plan.knobs[v]} for v in variants]
    surfaces = [
        scores(surface, v, {name: g for name, g in values.items() if name not in gone})
        for v, gone in zip(variants, absent, strict=True)
    ]
    full = np.stack([np.broadcast_to(s, mesh[0].shape) for s in surfaces])
    names = [VARIANT, *(knob.name for knob in knobs)]
    others = [tuple(i for i in range(full.ndim) if i != axis) for axis in range(full.ndim)]
    first = {name: float(full.mean(axis=o).var() / full.var()) for name, o in zip(names, others, strict=True)}
    total = {name: float(full.var(axis=i).mean() / full.var()) for i, name in enumerate(names)}
    marginal = full.mean(axis=others[1 + [knob.name for knob in knobs].index(plan.focus)])
    focus = continuous(next(knob for knob in knobs if knob.name == plan.focus))
    decades, at = np.log10(focus.high / focus.low), (np.arange(len(marginal)) + 0.5) / len(marginal)
    return Truth(
        float(
            np.log10(focus.low) + decades * at[np.isclose(marginal, marginal.max())].mean()
        ),  # the middle of a plateau
        float(decades * window(marginal, at, plan.margin).width),
        shortfall(marginal, np.full(len(at), 1 / len(at)), START),
        first,
        total,
        float(full.std()),
    )


def exact_grid(knob: Knob, focus: str) -> list[Any]:
    """Midpoints of equal shares of a range, or the levels."""
    if not isinstance(knob, LogFloat):
        return list(knob.values)
    count = GRID if knob.name == focus else GRID_OF_OTHERS
    return [knob.decode((i + 0.5) / count) for i in range(count)]
