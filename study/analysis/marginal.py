"""Marginal responses: what one knob does to the mean over the design of everything else.

The focus knob is smoothed alone: with few points, knobs that compete for the same variance would hide it. Every other
knob is fitted beside the focus knob, whose large effect would drown it otherwise, and may turn out to do nothing.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from study.analysis.additive import UNKNOWN, Draws, Effect, Replicates, fit
from study.analysis.axis import SEED, Array, Axis, axis_of
from study.analysis.cells import Cells, focus_places, point_means, refusal
from study.analysis.plan import Plan, continuous, declared, varies
from study.analysis.seeds import per_seed, seed_effects

LEAST = 5  # settings, and values of the focus knob, for a curve with a band


class Marginal(NamedTuple):
    """One knob's marginal response, as draws; the knob is the last of the fitted effects."""

    axes: tuple[Axis, ...]
    draws: Draws
    places: Array  # n, the points' coordinates on the last axis
    luck: Array  # S G, the error that the study's seeds leave in the response; zero where there are too few to tell

    @property
    def axis(self) -> Axis:
        return self.axes[-1]

    @property
    def response(self) -> Array:
        """S G, oriented: larger is better."""
        return self.draws.mean[:, None] + self.draws.curves[-1] + self.luck

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
    draws, axes = fit(effects, point_means(cell.good), replicates(cell, plan)), tuple(effect.axis for effect in effects)
    return Marginal(axes, draws, effects[-1].at, luck(cell, plan, axes, len(draws.mean)))


def replicates(cell: Cells, plan: Plan) -> Replicates:
    """What repeated runs say of the noise, on a line: elsewhere the other knobs are in it."""
    if not on_a_line(cell, plan):
        return UNKNOWN
    found = per_seed(cell, plan)
    return Replicates(found.noise / cell.seeds, found.freedom)


def on_a_line(cell: Cells, plan: Plan) -> bool:
    """Nothing but the focus knob varies between the points, or between the variants at one point."""
    names = {knob.name for variant in cell.variants for knob in plan.knobs[variant] if varies(knob)} - {plan.focus}
    return all(name in cell.where and np.ptp(cell.where[name]) == 0 for name in names)


def luck(cell: Cells, plan: Plan, axes: tuple[Axis, ...], count: int) -> Array:
    """S G: of a seed, over the last axis; beside the focus knob's only its level, for the design averages the rest."""
    effects = seed_effects(cell, plan, count, np.random.default_rng(SEED + 1))
    at = axes[-1].at if len(axes) == 1 else np.full(len(axes[-1].at), effects.centre)
    return effects.at(at)


def focus_effect(cell: Cells, plan: Plan) -> Effect:
    """The focus knob on one log axis."""
    return Effect(axis_of(continuous(cell.knobs[plan.focus])), focus_places(cell, plan))
