"""From a foreign table to the table and the plan that every analysis reads."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from study.analysis.cells import COLUMNS
from study.analysis.marginal import LEAST
from study.analysis.plan import Direction, Plan, has_logarithm
from study.errors import BadInput
from study.foreign import knobs
from study.foreign.knobs import Column
from study.foreign.source import Request, Source, column
from study.space import LogFloat

ONE_GROUP = "all trials"
FOCUS = ("learning_rate", "lr")  # first choices
REFERENCE = "lora"
MARGIN = 0.1  # of the way from the median score to the best
MADE_UP = ("val_loss", "test_score", "loss0", "score0")  # columns that the analyses want and the table does not have


class Foreign(NamedTuple):
    """Trials from elsewhere, ready to be analysed."""

    task: str
    table: pd.DataFrame
    plan: Plan
    score: str
    notes: tuple[str, ...]  # what was guessed, and what counts as what; a line each


def prepared(source: Source, asked: Request) -> Foreign:
    """The source's trials in the terms of a study. BadInput, in one line, where they are none."""
    score = score_of(checked(source), asked.score)
    direction = asked.direction or source.direction
    if direction is None:
        raise BadInput("--maximize or --minimize", "is missing", "which scores are good")
    for option, number in (("--margin", asked.margin), ("--loss0", asked.loss0)):
        if number is not None and (not math.isfinite(number) or (option == "--margin" and number <= 0)):
            raise BadInput(option, f"{number:g}", "a finite number, a margin above zero")
    source, dropped = trials_only(source, asked.knobs)
    of = knobs.columns(source, asked.knobs)
    for option, name in roles(source, asked, score):
        if name in of or (option == "--group" and name == score):
            raise BadInput(option, f"{name} is asked for twice", "a column is a knob, a group, a seed or the score")
    values = scores(source.frame[score], score)
    variant = groups(source.frame, asked.group)
    table = tabled(source, of, variant, values, seeds(source.frame, asked, [variant, *of], of), direction, asked.loss0)
    plan = planned(source.name, of, variant, asked, values, direction)
    notes = (*source.notes, *dropped, *said(of, table, plan, asked, source.frame))
    return Foreign(source.name, table, plan, score, notes)


def checked(source: Source) -> Source:
    """The source, if it is a table with rows."""
    names = source.frame.columns
    if names.duplicated().any():
        raise BadInput(source.name, f"two columns are called {names[names.duplicated()][0]!r}", "each name once")
    if source.frame.empty:
        raise BadInput(source.name, "has no trials", f"{LEAST} settings or more")
    return source


def trials_only(source: Source, asked: str | None) -> tuple[Source, tuple[str, ...]]:
    """The source without rows that set none of the knobs (a parent run, a summary), and a note of them."""
    names = list(source.knobs if asked is None else knobs.kinds(source.frame, asked))
    kept = source.frame[source.frame[names].notna().any(axis=1)] if names else source.frame
    lost = len(source.frame) - len(kept)
    if len(kept) < LEAST:
        raise BadInput(source.name, f"{len(kept)} rows with a setting are too few", f"{LEAST} or more")
    return source._replace(frame=kept), (f"{lost} rows set none of the knobs and are no trials",) if lost else ()


def score_of(source: Source, asked: str | None) -> str:
    """The score's column."""
    name = asked or source.score
    if name is None:
        raise BadInput("--score", "is missing", "the column that says how good a trial is")
    return column(source.frame, name, "--score")


def roles(source: Source, asked: Request, score: str) -> list[tuple[str, str]]:
    """Which option made a column something else than a knob."""
    named = [("--group", column(source.frame, name, "--group")) for name in asked.group]
    if asked.seed_column:
        named.append(("--seed-column", column(source.frame, asked.seed_column, "--seed-column")))
    return [*named, ("--score", score)]


def scores(given: pd.Series, name: str) -> pd.Series:
    """The scores as numbers; NaN and the infinities stay. BadInput where there is text, or nothing to explain."""
    found = pd.to_numeric(given, errors="coerce").astype(float)
    text = given[found.isna() & given.notna()]
    if len(text):
        raise BadInput(
            f"--score {name}", f"{str(text.iloc[0])!r} is no number", "numbers; empty where a trial diverged"
        )
    finite = found[np.isfinite(found)]
    if finite.nunique() < 2:
        same = f"is {finite.iloc[0]:g} in every row" if len(finite) else "is finite in no row"
        raise BadInput(f"--score {name}", same, "a score that differs between trials")
    return found


def groups(frame: pd.DataFrame, names: tuple[str, ...]) -> pd.Series:
    """Each row's variant: its group's values, joined by a slash."""
    if not names:
        return pd.Series(ONE_GROUP, frame.index)
    if frame[list(names)].isna().any(axis=None):
        raise BadInput(f"--group {','.join(names)}", "is empty in some row", "a value in every row")
    found = frame[list(names)].map(knobs.text).agg("/".join, axis=1)
    count = found.value_counts()
    if count.min() < 2:
        raise BadInput(f"--group {','.join(names)}", f"{count.idxmin()} has one row", "two or more in every group")
    return found


def seeds(frame: pd.DataFrame, asked: Request, setting: list[pd.Series | str], of: dict[str, Column]) -> pd.Series:
    """Whole numbers: the seed column's own, else its different values counted, else repeats of a setting counted."""
    taken = {*of, *asked.group, asked.score}
    name = asked.seed_column or ("seed" if "seed" in frame and "seed" not in taken else None)
    if name is None:
        return frame.groupby(setting, dropna=False).cumcount()
    if frame[name].isna().any():
        raise BadInput(f"--seed-column {name}", "is empty in some row", "a seed in every row")
    number = pd.to_numeric(frame[name], errors="coerce")
    whole = number.notna().all() and bool((number % 1 == 0).all())
    return number.astype(int) if whole else pd.Series(pd.factorize(frame[name])[0], frame.index)


def tabled(
    source: Source,
    of: dict[str, Column],
    variant: pd.Series,
    score: pd.Series,
    seed: pd.Series,
    direction: Direction,
    loss0: float | None,
) -> pd.DataFrame:
    """The columns that analyses read, and `source`, the trial's name where it came from.

    A score that is not finite is a diverged trial and stands at `loss0`, else at the worst score of the others.
    """
    lost = ~np.isfinite(score)
    sign = 1 if direction == "maximize" else -1
    worst = sign * float((sign * score[~lost]).min())
    start = np.where(lost, worst, -sign * math.inf) if loss0 is None else np.full(len(score), loss0)
    placed = score.where(~lost, start)
    setting = pd.DataFrame({"variant": variant} | {name: one.values for name, one in of.items()})
    key = setting.groupby(list(setting), dropna=False, sort=False).ngroup()
    frame = setting.assign(task=source.name, phase="explore", seed=seed, val_score=placed, val_loss=placed)
    frame = frame.assign(test_score=math.nan, loss0=start, score0=start, diverged=lost)
    frame = frame.assign(state=np.where(lost, "diverged", "finished"), key=[f"setting {k + 1}" for k in key])
    order = ["task", "variant", "phase", *of, "seed", "state", "val_score", "diverged", "key", *MADE_UP]
    return frame[order].assign(source=source.frame.index).reset_index(drop=True)


def planned(
    task: str, of: dict[str, Column], variant: pd.Series, asked: Request, score: pd.Series, direction: Direction
) -> Plan:
    """What is known before any result: every group's knobs over the same ranges."""
    reserved = next((name for name in of if name in {*COLUMNS, "source"}), None)
    if reserved:
        raise BadInput(f"--knobs {reserved}", "is a name with another meaning here", "rename the column")
    names = list(dict.fromkeys(variant))
    largest = str(variant.value_counts().idxmax())
    return Plan(
        directions={task: direction},
        knobs={name: tuple(c.knob for k, c in of.items() if has(c, variant == name, k, name)) for name in names},
        focus=focus_of(of, asked.focus),
        margin=default_margin(score, direction) if asked.margin is None else asked.margin,
        design="foreign",
        reference=REFERENCE if REFERENCE in names else largest,
        measures=("score",),
    )


def has(one: Column, rows: pd.Series, name: str, variant: str) -> bool:
    """Whether a group has the knob: in every row, or in none."""
    empty = int(one.values[rows].isna().sum())
    if 0 < empty < rows.sum():
        whose = "" if variant == ONE_GROUP else f" of {variant}"
        raise BadInput(
            f"--knobs {name}", f"is empty in {empty} of {rows.sum()} rows{whose}", "a value in all of a group's rows"
        )
    return empty == 0


def focus_of(of: dict[str, Column], asked: str | None) -> str:
    """The knob whose response is drawn: as asked, else a learning rate, else the first one with a logarithm."""
    possible = [name for name, one in of.items() if has_logarithm(one.knob)]
    if asked is not None:
        if asked not in possible:
            raise BadInput(
                f"--focus {asked}", "is no knob with a logarithm", f"one of: {', '.join(possible) or 'none'}"
            )
        return asked
    if not possible:
        raise BadInput("--knobs", "none has a logarithm", "mark a column of positive numbers with :log")
    ranges = [name for name in possible if isinstance(of[name].knob, LogFloat)]
    return next(iter([*(name for name in possible if name.lower() in FOCUS), *ranges, *possible]))


def default_margin(score: pd.Series, direction: Direction) -> float:
    """A part of the way from the median to the best, which no diverged trial moves."""
    finite = score[np.isfinite(score)]
    best = finite.max() if direction == "maximize" else finite.min()
    way = abs(float(best - finite.median())) or float(finite.max() - finite.min())
    return float(f"{MARGIN * way:.2g}")


def said(
    of: dict[str, Column], table: pd.DataFrame, plan: Plan, asked: Request, frame: pd.DataFrame
) -> tuple[str, ...]:
    """What was not asked for and had to be decided."""
    lost, kept = int(table["diverged"].sum()), "the worst score seen" if asked.loss0 is None else f"{asked.loss0:g}"
    guessed = [name for name, one in of.items() if one.guessed]
    lines = [f"{name} is taken as {knobs.words(of[name].knob)} (say {name}:KIND to change that)" for name in guessed]
    if lost:
        lines.append(f"{lost} of {len(table)} rows have no finite score: they count as diverged, at {kept}")
    if asked.loss0 is None:
        lines.append("without --loss0, the score of the untouched model, nothing is censored")
    if asked.seed_column is None and ("seed" not in frame or "seed" in of):
        lines.append("no seed column: rows with the same setting count as its repeats")
    if asked.margin is None:
        lines.append(f"scores within {plan.margin:g} count as the same (--margin)")
    return tuple(lines)
