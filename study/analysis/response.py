"""Response: what score does each value of the focus knob reach, which is best, and how wide is the window?"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from study.analysis.axis import Axis
from study.analysis.cells import Cells, basis, cells, explored
from study.analysis.curves import LEVEL, estimate, locate, stretch, window_width
from study.analysis.finding import Estimate, Finding, Record
from study.analysis.marginal import Marginal, focus_refusal, marginal
from study.analysis.plan import Plan
from study.analysis.words import NO_FLOOR, number, span, standing, subject_words, unanswered
from study.space import LogFloat

QUESTION = "response"
LOCATED = 0.9  # of the range: an interval as wide as this places the best value nowhere
EVERY, COARSE = 2, 10  # every so many of the axis' 121 places are kept: of a response, of one at a level


def response(table: pd.DataFrame, plan: Plan, task: str) -> list[Finding]:
    """The pooled response and one per variant, over log10 of the focus knob, averaged over the other knobs."""
    return [response_of(table, plan, task, subject) for subject in plan.subjects]


def response_of(table: pd.DataFrame, plan: Plan, task: str, subject: str) -> Finding:
    """One subject's response."""
    rows = explored(table, task, plan.members(subject))
    reason = focus_refusal(rows, plan)
    if reason:
        return unanswered(QUESTION, task, subject, reason, basis(rows))
    cell = cells(rows, plan, task, "score")
    return finding(marginal(cell, plan, plan.focus), cell, plan, task, subject)


def finding(found: Marginal, cell: Cells, plan: Plan, task: str, subject: str) -> Finding:
    """The focus knob's marginal response in words and numbers."""
    by_level = levels(cell, plan, task)
    values = {
        "knob": plan.focus,
        **described(found, plan, task, EVERY),
        "raw": raw(cell.rows, plan.focus),
        "margin": plan.margin,
        "start": plan.sign(task) * cell.floor if np.isfinite(cell.floor) else None,
        "by_level": by_level,
    }
    stands = basis(cell.rows) | {"method": f"posterior of a smooth of {cell.good.shape[1]} point means"}
    records = [*recorded(values, plan.focus)]
    for knob, level_values in by_level.items():
        records += [r for level, one in level_values.items() for r in recorded(one, plan.focus, f"{knob}={level}")]
    words = sentence(values, task, subject, stands)
    return Finding(QUESTION, task, subject, True, words, values, stands, caveats(cell), tuple(records))


def described(found: Marginal, plan: Plan, task: str, every: int) -> dict[str, Any]:
    """A curve with its band at every so many places, its best place, and the window around it."""
    axis, draws, sign = found.axis, found.response, plan.sign(task)
    curve = draws.mean(axis=0)
    low, high = np.percentile(draws, LEVEL, axis=0)[::sign] * sign
    best = locate(draws, curve, axis)
    edge = {0: "low", len(curve) - 1: "high"}.get(best.place)
    located = float(axis.at[best.high] - axis.at[best.low]) < LOCATED
    inside = stretch(curve, axis.at, best.place, float(curve[best.place]) - plan.margin)
    score = estimate(float(curve[best.place]), draws[:, best.place])
    width = window_width(draws, axis.at, best.place, plan.margin, found.places)
    return {
        "x": [float(v) for v in axis.values[::every]],
        "mean": (sign * curve)[::every].tolist(),
        "low": low[::every].tolist(),
        "high": high[::every].tolist(),
        "best": Estimate(*(value_at(axis, float(axis.at[place])) for place in best)),
        "best_score": score if sign > 0 else mirrored(score),
        "boundary": edge,
        "located": located,
        "ranked": edge is None and located,
        "window": {
            "low": value_at(axis, inside.low),
            "high": value_at(axis, inside.high),
            "cut_low": inside.cut_low,
            "cut_high": inside.cut_high,
        },
        "window_decades": Estimate(*(decades(axis) * part for part in width)),
    }


def mirrored(found: Estimate) -> Estimate:
    """Of the number with its sign turned."""
    low, high = (None if end is None else -end for end in (found.high, found.low))
    return Estimate(-found.value, low, high)


def levels(cell: Cells, plan: Plan, task: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Knob -> level -> the response there: of discrete knobs but the focus, of levels with enough settings."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, knob in cell.knobs.items():
        if isinstance(knob, LogFloat) or name == plan.focus:
            continue
        parts = {str(level): cell.rows[cell.rows[name] == level] for level in knob.values}
        enough = {level: rows for level, rows in parts.items() if focus_refusal(rows, plan) is None}
        at_level = {level: cells(rows, plan, task, "score") for level, rows in enough.items()}
        if at_level:
            found[name] = {
                level: described(marginal(some, plan, plan.focus), plan, task, COARSE)
                for level, some in at_level.items()
            }
    return found


def recorded(values: Mapping[str, Any], focus: str, given: str = "") -> list[Record]:
    """One response's numbers."""
    return [
        Record("best", values["best"], focus, focus, given),
        Record("best score", values["best_score"], "score", focus, given),
        Record("window", values["window_decades"], "decades", focus, given),
    ]


def raw(rows: pd.DataFrame, focus: str) -> dict[str, list[Any]]:
    """The runs behind a curve, diverged ones at the untouched model's score."""
    return {
        "x": rows[focus].astype(float).tolist(),
        "y": [float(y) if np.isfinite(y) else None for y in rows["val_score"]],
        "seed": rows["seed"].astype(int).tolist(),
        "variant": rows["variant"].tolist(),
        "diverged": rows["diverged"].tolist(),
    }


def caveats(cell: Cells) -> tuple[str, ...]:
    """What was done to results that would bend the curve, and what could not be."""
    if not np.isfinite(cell.floor):
        return (NO_FLOOR,)
    if not cell.cut:
        return ()
    return (f"{cell.cut} runs fell further below the untouched model than the best rises above it; drawn there.",)


def value_at(axis: Axis, u: float) -> float:
    """The focus knob's value at a unit coordinate."""
    return float(axis.knob.decode(u))


def decades(axis: Axis) -> float:
    """Width of the whole axis."""
    return math.log10(value_at(axis, 1) / value_at(axis, 0))


def sentence(values: dict[str, Any], task: str, subject: str, stands: dict[str, Any]) -> str:
    """The finding for a reader who sees nothing else."""
    knob, edge, inside, top = values["knob"], values["boundary"], values["window"], span(values["best_score"])
    found = f"the best score, {top}, is reached at {knob} {span(values['best'])}"
    if edge:
        found = f"the best score, {top}, lies at the {edge} end of the range of {knob}: the optimum may lie outside"
    found += "" if values["ranked"] else ", which is not ranked" if edge else ", an interval too wide to rank"
    cut = " (cut by the range)" if inside["cut_low"] or inside["cut_high"] else ""
    return (
        f"{subject_words(subject, task)} {found}; the score stays within {values['margin']:g} of it from "
        f"{number(inside['low'])} to {number(inside['high'])}{cut}, {span(values['window_decades'])} decades. "
        f"{standing(stands)}"
    )
