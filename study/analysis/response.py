"""Response: what score does each value of the focus knob reach, which is best, and how wide is the window?"""

import math
from typing import Any

import numpy as np
import pandas as pd

from study.analysis.axis import Axis
from study.analysis.cells import Cells, basis, cells, explored
from study.analysis.curves import LEVEL, interval, window, window_width
from study.analysis.finding import Estimate, Finding
from study.analysis.marginal import Marginal, focus_refusal, marginal
from study.analysis.plan import Plan
from study.analysis.words import number, span, standing, subject_words, unanswered

QUESTION = "response"
LOCATED = 0.9  # of the range: an interval as wide as this places the best value nowhere
EVERY = 2  # places of the axis that a finding's arrays keep: 61 of 121


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
    axis, draws, sign = found.axis, found.response, plan.sign(task)
    curve = draws.mean(axis=0)
    low, high = np.percentile(draws, LEVEL, axis=0)[::sign] * sign
    best = interval(lambda c: float(axis.at[c.argmax()]), draws)
    edge = {0: "low", len(curve) - 1: "high"}.get(int(curve.argmax()))
    located = best[2] - best[1] < LOCATED
    inside = window(curve, axis.at, plan.margin)
    width = Estimate(*(decades(axis) * part for part in window_width(draws, axis.at, plan.margin)))
    score = interval(lambda c: float(c.max()), draws)
    values = {
        "knob": plan.focus,
        "x": [float(v) for v in axis.values[::EVERY]],
        "mean": (sign * curve)[::EVERY].tolist(),
        "low": low[::EVERY].tolist(),
        "high": high[::EVERY].tolist(),
        "raw": raw(cell.rows, plan.focus),
        "best": Estimate(*(value_at(axis, u) for u in best)),
        "best_score": Estimate(sign * score[0], *sorted((sign * score[1], sign * score[2]))),
        "boundary": edge,
        "located": located,
        "ranked": edge is None and located,
        "window": {
            "low": value_at(axis, inside.low),
            "high": value_at(axis, inside.high),
            "cut_low": inside.cut_low,
            "cut_high": inside.cut_high,
        },
        "window_decades": width,
        "margin": plan.margin,
        "start": sign * cell.floor,
    }
    stands = basis(cell.rows) | {"method": f"posterior of a smooth of {cell.good.shape[1]} point means"}
    return Finding(
        QUESTION, task, subject, True, sentence(values, task, subject, stands), values, stands, caveats(cell)
    )


def raw(rows: pd.DataFrame, focus: str) -> dict[str, list[Any]]:
    """The runs behind a curve, diverged ones at the untouched model's score."""
    return {
        "x": rows[focus].astype(float).tolist(),
        "y": rows["val_score"].tolist(),
        "seed": rows["seed"].astype(int).tolist(),
        "variant": rows["variant"].tolist(),
        "diverged": rows["diverged"].tolist(),
    }


def caveats(cell: Cells) -> tuple[str, ...]:
    """What was done to results that would bend the curve."""
    if not cell.cut:
        return ()
    return (f"{cell.cut} settings fell further below the untouched model than the best rises above it; drawn there.",)


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
