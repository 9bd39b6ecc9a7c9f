"""The confirm phase of a study whose answers are known: selected settings on fresh seeds, every test example told.

A run gets an example right where its difficulty lies below what the run's expected score asks for. The difficulty is
normal, in part the example's own, shared by all variants and seeds, in part the variant's, in part the run's; so a
share of just the expected score is right on average, and both seeds and examples are crossed random effects.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from study.analysis.axis import Array
from study.analysis.conditional import selected
from study.analysis.known import Surface, expected, luck, rows, scores
from study.analysis.plan import Plan
from study.space import Value

FIRST_SEED = 100  # of the confirm phase: no seed of the design
SHARED, OF_VARIANT, OF_RUN = 0.6, 0.2, 0.2  # of the variance of an example's difficulty
SELECTED = "selected"  # the key of the confirmed setting


class Tuned(NamedTuple):
    """A study with its confirm phase, and what is true of the settings it selected."""

    table: pd.DataFrame
    score: dict[str, float]  # variant -> expected score of its selected setting
    explored: dict[str, float]  # variant -> the mean validation score that it was selected by


def confirm(
    surface: Surface, plan: Plan, table: pd.DataFrame, seeds: int, examples: int, generator: np.random.Generator
) -> Tuned:
    """The table with its selected settings confirmed; `table` holds one task."""
    task = str(table["task"].iloc[0])
    drift, shared = luck(surface, seeds, generator), generator.normal(0, SHARED**0.5, examples)
    frames, true, explored = [table.assign(test_correct=None)], {}, {}
    for variant in plan.knobs:
        values = arrays(selected(table, plan, task, variant))
        score = (
            scores(surface, variant, values, drift[:, 1]) + drift[:, 0] + surface.noise * generator.normal(size=seeds)
        )
        difficulty = shared + generator.normal(0, OF_VARIANT**0.5, examples)
        right = answers(score, difficulty, generator)
        frames += [
            fresh(task, variant, values, seed, y, each) for seed, (y, each) in enumerate(zip(score, right, strict=True))
        ]
        true[variant] = float(expected(surface, variant, values)[0])
        explored[variant] = float(table[table["variant"] == variant].groupby("key")["val_score"].mean().max())
    return Tuned(pd.concat(frames, ignore_index=True), true, explored)


def arrays(setting: dict[str, Value]) -> dict[str, np.ndarray]:
    """The setting as arrays of one value."""
    return {name: np.array([value]) for name, value in setting.items()}


def answers(score: Array, difficulty: Array, generator: np.random.Generator) -> np.ndarray:
    """S N, which examples every run gets right, given its expected score (S) and the examples' difficulty (N)."""
    of_run = generator.normal(0, OF_RUN**0.5, (len(score), len(difficulty)))
    return difficulty + of_run < stats.norm.ppf(score)[:, None]


def fresh(
    task: str, variant: str, values: dict[str, np.ndarray], seed: int, score: float, right: np.ndarray
) -> pd.DataFrame:
    """The row of one confirming run."""
    run = rows(task, variant, values, FIRST_SEED + seed, np.array([score]), np.zeros(1, dtype=bool))
    return run.assign(phase="confirm", key=SELECTED, test_score=right.mean(), test_correct=[right])
