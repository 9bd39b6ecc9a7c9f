"""Conditional responses: what one knob does while the others stay at a variant's selected setting x*.

They are read off the joint surrogate of the measure over all knobs, if its gate holds. Beside the curve with everything
else fixed there is the one with the focus knob retuned at every value: a knob that only moves the best learning rate
costs nothing there.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from study.analysis.axis import SEED, Array, Axis, axis_of
from study.analysis.cells import Cells, focus_places, tried
from study.analysis.marginal import separable
from study.analysis.plan import Plan
from study.analysis.seeds import seed_effects
from study.analysis.total_effects import StandIn, decoded, stand_in
from study.analysis.variance import least_points, surrogate_refusal
from study.space import Knob, LogFloat, Value

PLACES = 21  # of a range: the surrogate's draws are joint over the places of two knobs


class Response(NamedTuple):
    """One knob's response at x*, oriented: larger is better."""

    axis: Axis
    draws: Array  # S G
    middle: Array  # G, of the surrogate's mean


class Conditional(NamedTuple):
    """Responses per knob; none, and a reason, where the gate refused."""

    fixed: dict[str, Response]  # the others at x*
    retuned: dict[str, Response]  # and the focus knob at its best for each value; of every knob but the focus
    reason: str


def selected(table: pd.DataFrame, plan: Plan, task: str, variant: str) -> dict[str, Value]:
    """x*: the setting with the best mean validation score over all phases but confirm."""
    rows = tried(table, task, variant)
    best = (plan.sign(task) * rows["val_score"]).groupby(rows["key"]).mean().idxmax()
    setting = rows[rows["key"] == best].iloc[0]
    return {knob.name: knob.decode(knob.encode(setting[knob.name])) for knob in plan.knobs[variant]}


def coordinate(knob: Knob, value: Value) -> float:
    """A selected value's unit coordinate; the nearer end of the range where an extension went beyond it."""
    return min(max(knob.encode(value), 0.0), 1.0) if isinstance(knob, LogFloat) else knob.encode(value)


def conditional(cell: Cells, plan: Plan, setting: Mapping[str, Value]) -> Conditional:
    """The responses of one variant's separable knobs around `setting`; its measure must not be constant."""
    least = least_points(cell)
    stand = stand_in(cell) if cell.good.shape[1] >= least else None
    reason = surrogate_refusal(cell, stand, least)
    if stand is None or reason:
        return Conditional({}, {}, reason)
    at = {name: coordinate(cell.knobs[name], setting[name]) for name in separable(cell)}
    found = {name: Response(*around(stand, cell, plan, at, name)) for name in at}
    fixed = {name: one._replace(draws=one.draws[..., -1], middle=one.middle[:, -1]) for name, one in found.items()}
    retuned = {
        name: one._replace(draws=one.draws[..., :-1].max(axis=-1), middle=one.middle[:, :-1].max(axis=-1))
        for name, one in found.items()
        if name != plan.focus
    }
    return Conditional(fixed, retuned, "")


def around(stand: StandIn, cell: Cells, plan: Plan, at: Mapping[str, float], name: str) -> tuple[Axis, Array, Array]:
    """A knob's axis, and draws (S G F+1) and mean (G F+1) over it and the focus knob's places, x* the last of them."""
    axis, tuned = axis_of(cell.knobs[name], PLACES), np.array([at[plan.focus]])
    focus = tuned if name == plan.focus else np.append(axis_of(cell.knobs[plan.focus], PLACES).at, tuned)
    cube = np.tile([at[factor.name] for factor in stand.factors], (len(axis.at) * len(focus), 1))
    order = [factor.name for factor in stand.factors]
    cube[:, order.index(plan.focus)] = np.tile(focus, len(axis.at))
    cube[:, order.index(name)] = np.repeat(axis.at, len(focus))
    shape, level = (len(axis.at), len(focus)), float(np.nanmean(cell.good))
    x = decoded(stand.factors, cube)
    draws = level + stand.scale * stand.surrogate.draws(x)
    seeds = seed_effects(cell, plan, len(draws), np.random.default_rng(SEED))
    draws += seeds.at(focus_places(cell._replace(where={plan.focus: cube[:, order.index(plan.focus)]}), plan))
    return axis, draws.reshape(-1, *shape), (level + stand.scale * stand.surrogate.predict(x)).reshape(shape)
