"""Marginal responses: what one knob does to the mean over the design of everything else.

The focus knob is smoothed alone: with few points, knobs that compete for the same variance would hide it. Every other
knob is fitted beside the focus knob, whose large effect would drown it otherwise, and may turn out to do nothing.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from study.analysis.additive import Draws, Effect, fit
from study.analysis.axis import Array, Axis, axis_of, unit
from study.analysis.cells import Cells, point_means, refusal
from study.analysis.plan import Plan, continuous, declared

LEAST = 5  # settings, and values of the focus knob, for a curve with a band


class Marginal(NamedTuple):
    """One knob's marginal response, as draws; the knob is the last of the fitted effects."""

    axes: tuple[Axis, ...]
    draws: Draws

    @property
    def axis(self) -> Axis:
        return self.axes[-1]

    @property
    def response(self) -> Array:
        """S G, oriented: larger is better."""
        return self.draws.mean[:, None] + self.draws.curves[-1]

    @property
    def variances(self) -> list[Array]:
        """S per fitted effect: its variance over the declared range."""
        return [curve**2 @ axis.weight for curve, axis in zip(self.draws.curves, self.axes, strict=True)]


def focus_refusal(rows: pd.DataFrame, plan: Plan) -> str | None:
    """Why these rows show no response to the focus knob, or None."""
    reason = refusal(rows, LEAST)
    if reason:
        return reason
    present = set(rows["variant"])
    if not present <= set(plan.responsive):
        return f"{plan.focus} did not vary"
    if plan.focus not in declared(plan, tuple(present)):
        return f"the variants were given different ranges of {plan.focus}"
    values = rows[plan.focus].nunique()
    return f"{plan.focus} took {values} values, {LEAST} are needed" if values < LEAST else None


def separable(cell: Cells) -> list[str]:
    """The knobs whose value is known, and not always the same, at every point."""
    return [name for name, u in cell.where.items() if not np.isnan(u).any() and np.ptp(u) > 0]


def marginal(cell: Cells, plan: Plan, name: str) -> Marginal:
    """The marginal response to a separable knob, of point means that are not all equal."""
    effects = [focus_effect(cell, plan)]
    if name != plan.focus:
        effects.append(Effect(axis_of(cell.knobs[name]), cell.where[name], optional=True))
    return Marginal(tuple(effect.axis for effect in effects), fit(effects, point_means(cell.good)))


def focus_effect(cell: Cells, plan: Plan) -> Effect:
    """The focus knob on one log axis, whether it was declared as a range or as levels."""
    knob = cell.knobs[plan.focus]
    values = pd.Series([knob.decode(float(u)) for u in cell.where[plan.focus]])
    return Effect(axis_of(continuous(knob)), unit(continuous(knob), values))
