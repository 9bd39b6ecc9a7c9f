"""Rows to cells: one task's results averaged over seeds, a mean per (variant, point of the design).

A point is a place in the design that variants share: the same coordinates of the knobs they all have. Errors that
belong to a point (what its other knobs do) are therefore shared by all variants and all seeds, and whatever resamples
or fits must treat the point, not the run, as the unit.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from study.analysis.axis import ROUNDING, Array, unit
from study.analysis.plan import Plan, continuous, declared
from study.errors import BadInput
from study.space import Knob

Measure = Literal["score", "loss"]

COLUMNS = (
    *("task", "variant", "phase", "seed", "state", "diverged", "key"),
    *("val_score", "val_loss", "test_score", "loss0", "score0"),
)


class Cells(NamedTuple):
    """V variants at n points; `good` is oriented so that larger is better, whatever the measure."""

    variants: tuple[str, ...]
    knobs: dict[str, Knob]  # that all variants that have them declare alike
    has: dict[str, Array]  # knob -> V, 1 where the variant has it
    where: dict[str, Array]  # knob -> n unit coordinates; NaN where the variants that have it differ
    good: Array  # V n, mean over seeds; NaN where nothing ran
    floor: float  # the untouched model's measure, oriented alike
    cut: int  # runs that `bounded` moved
    replicate: float | None  # variance of one run around its setting, seeds' levels removed; None with one seed
    seeds: float  # runs per cell, harmonic mean
    rows: pd.DataFrame
    deviations: Array  # S n, mean over variants of each seed's difference from its cell; NaN where it ran none or alone

    @property
    def noise(self) -> float:
        """The replicate variance of one cell; 0 where one seed cannot tell."""
        return (self.replicate or 0.0) / self.seeds


def checked(table: pd.DataFrame) -> pd.DataFrame:
    """The table with divergence as data: every diverged or non-finite run stands at score0, loss0.

    BadInput where a column is missing.
    """
    for column in COLUMNS:
        if column not in table and len(table):
            raise BadInput("table", f"no column {column}", "the columns of `lorascope trials`")
    table = table.reindex(columns=[*table.columns, *(c for c in COLUMNS if c not in table)]).copy()
    finite = np.isfinite(table[["val_score", "val_loss"]].to_numpy(dtype=float)).all(axis=1)
    table["diverged"] = table["diverged"].astype(bool) | (table["state"] == "diverged") | ~finite
    for value, start in (("val_score", "score0"), ("val_loss", "loss0")):
        table[value] = table[value].astype(float).where(~table["diverged"], table[start].astype(float))
    return table


def explored(table: pd.DataFrame, task: str, variants: Iterable[str]) -> pd.DataFrame:
    """The rows that a sensitivity may use: the design's own points, never those that a search chose."""
    table = checked(table)
    return table[(table["task"] == task) & (table["phase"] == "explore") & table["variant"].isin(list(variants))]


def tried(table: pd.DataFrame, task: str, variant: str) -> pd.DataFrame:
    """The rows that a setting is selected by: every phase but the one that confirms it."""
    table = checked(table)
    return table[(table["task"] == task) & (table["variant"] == variant) & (table["phase"] != "confirm")]


def cells(rows: pd.DataFrame, plan: Plan, task: str, measure: Measure) -> Cells:
    """The cells of the variants that `rows` (at least one) hold, in the plan's order."""
    variants = tuple(variant for variant in plan.knobs if (rows["variant"] == variant).any())
    knobs = declared(plan, variants)
    has = {name: np.array([float(_varies(plan, v, name)) for v in variants]) for name in knobs}
    varied = {
        name: rows[name].where(rows["variant"].isin([v for v in variants if _varies(plan, v, name)])) for name in knobs
    }
    places = pd.DataFrame({name: unit(knob, varied[name]) for name, knob in knobs.items()}, index=rows.index)
    shared = [name for name in knobs if has[name].all()]
    for name in shared:
        if places[name].isna().any():
            raise BadInput(f"table, column {name}", "is empty where the variant has the knob")
    point = places[shared].div(ROUNDING).round().groupby(shared).ngroup() if shared else pd.Series(0, rows.index)
    sign = plan.sign(task) if measure == "score" else -1
    measured = sign * rows[f"val_{measure}"]
    floor = known_floor(float(sign * rows[f"{measure}0"].astype(float).mean()))
    good = bounded(measured, floor)
    grouped = good.groupby([rows["variant"], point])
    matrix = grouped.mean().unstack().reindex(variants).to_numpy(dtype=float)
    return Cells(
        variants,
        knobs,
        has,
        {name: _common(places[name], point) for name in knobs},
        matrix,
        floor,
        int((good > measured).sum()),
        replicate_variance(good, rows["variant"], point, rows["seed"]),
        float(1 / (1 / grouped.size()).mean()),
        rows,
        _deviations(good, [rows["variant"], point], [rows["seed"], point]),
    )


def focus_places(cell: Cells, plan: Plan) -> Array:
    """n coordinates of the focus knob on one log axis, whether it was declared as a range or as levels."""
    knob = cell.knobs[plan.focus]
    return unit(continuous(knob), pd.Series([knob.decode(float(u)) for u in cell.where[plan.focus]]))


def known_floor(level: float) -> float:
    """The untouched model's measure, or -inf where nobody measured it: then nothing is censored."""
    return level if np.isfinite(level) else -np.inf


def _varies(plan: Plan, variant: str, knob: str) -> bool:
    """Whether the knob varied in this variant; where a spec fixed it, its value is no place on the others' axis."""
    return any(each.name == knob for each in plan.knobs[variant])


def _common(place: pd.Series, point: pd.Series) -> Array:
    grouped = place.groupby(point)
    return grouped.mean().where(grouped.max() - grouped.min() < ROUNDING).to_numpy(dtype=float)


def _deviations(good: pd.Series, setting: list[pd.Series], seed_and_point: list[pd.Series]) -> Array:
    grouped = good.groupby(setting)
    rest = (good - grouped.transform("mean")).where(grouped.transform("size") > 1)
    return rest.groupby(seed_and_point).mean().unstack().to_numpy(dtype=float)


def bounded(good: pd.Series, floor: float) -> pd.Series:
    """No run further below the untouched model than the best one is above it.

    A finite loss of 1e6 says no more than "ruined", and would bend a curve everywhere else. Where the untouched model
    was not measured, a diverged run counts as the worst that did not.
    """
    finite = good[np.isfinite(good)]
    best, worst = float(finite.max()), float(finite.min())
    return good.clip(lower=2 * floor - best if worst <= floor < best else worst)


def replicate_variance(good: pd.Series, variant: pd.Series, point: pd.Series, seed: pd.Series) -> float | None:
    """Variance of one run given its setting, the level that a seed shares with all settings removed."""
    setting = [variant, point]
    rest = good - good.groupby(setting).transform("mean")
    rest = rest - rest.groupby([variant, seed]).transform("mean")
    seeds_beyond_first = int((seed.groupby(variant).nunique() - 1).sum())
    freedom = len(good) - good.groupby(setting).ngroups - seeds_beyond_first
    return float((rest**2).sum() / freedom) if freedom > 0 else None


def point_means(good: Array) -> Array:
    """n means over variants (good: V n), each variant's level removed where some cells are empty."""
    level = np.zeros(len(good))
    point = np.nanmean(good, axis=0)
    for _ in range(100 if np.isnan(good).any() else 0):  # alternating projections onto the additive model
        level = np.nanmean(good - point, axis=1)
        level -= level.mean()
        point = np.nanmean(good - level[:, None], axis=0)
    return point


def basis(rows: pd.DataFrame) -> dict[str, Any]:
    """What a finding stands on."""
    return {
        "settings": int(rows["key"].nunique()),
        "variants": int(rows["variant"].nunique()),
        "seeds": int(rows["seed"].nunique()),
        "runs": len(rows),
        "diverged": int(rows["diverged"].sum()),
    }


def refusal(rows: pd.DataFrame, least: int) -> str | None:
    """Why these rows answer nothing, or None."""
    if rows.empty:
        return "no explore result was accepted yet"
    if rows["diverged"].all():
        return f"all {len(rows)} runs diverged"
    if rows["val_score"].max() - rows["val_score"].min() < 1e-12:
        return f"every run scored {rows['val_score'].iloc[0]:.4g}, so no knob changes it"
    settings = rows.groupby("variant")["key"].nunique().max()
    return f"{settings} settings are too few, {least} are needed" if settings < least else None
