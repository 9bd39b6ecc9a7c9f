"""The response curves of single variants, as draws that may be compared with each other's."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from study.analysis.axis import SEED, Array, Axis
from study.analysis.cells import cells, explored
from study.analysis.curves import locate
from study.analysis.marginal import focus_refusal, marginal
from study.analysis.memo import remembered
from study.analysis.plan import Plan


class Curve(NamedTuple):
    """One variant's marginal response to the focus knob; larger is better."""

    axis: Axis
    draws: Array  # S G, none below the untouched model

    @property
    def mean(self) -> Array:
        """G."""
        return self.draws.mean(axis=0)

    @property
    def best(self) -> int:
        """The place of the optimum."""
        return locate(self.draws, self.mean, self.axis).place

    @property
    def edge(self) -> bool:
        """The optimum is at an end of the range, and may lie outside."""
        return self.best in (0, len(self.axis.at) - 1)


@remembered
def variant_curves(table: pd.DataFrame, plan: Plan, task: str) -> tuple[dict[str, Curve], dict[str, str]]:
    """Every variant's curve, or why it has none.

    All fits draw with the same random numbers; shuffled, the draws of two variants are independent, as if they had no
    luck in common. Where they share points and seeds, their true difference is known better than that.
    """
    curves: dict[str, Curve] = {}
    refused: dict[str, str] = {}
    for number, variant in enumerate(plan.knobs):
        rows = explored(table, task, (variant,))
        reason = focus_refusal(rows, plan)
        if reason:
            refused[variant] = reason
            continue
        cell = cells(rows, plan, task, "score")
        found = marginal(cell, plan, plan.focus)
        draws = np.random.default_rng((SEED, number)).permutation(found.response)
        curves[variant] = Curve(found.axis, np.maximum(draws, cell.floor))
    return curves, refused
