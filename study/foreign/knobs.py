"""The knobs of a foreign table: which axis each has, said or guessed, and over which values it is declared."""

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from study.errors import BadInput
from study.foreign.source import Source, column
from study.space import Choice, Knob, Levels, LinearFloat, LogFloat, Value, rounded

Kind = Literal["linear", "log", "categorical"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FEW = 8  # different numbers on a linear axis that are levels rather than a range
DECADES = 1.5  # of positive numbers that suggest a logarithmic axis


class Column(NamedTuple):
    """A knob, and its column with the knob's own values."""

    knob: Knob
    values: pd.Series
    guessed: Kind | None  # where nobody said what it is


def columns(source: Source, asked: str | None) -> dict[str, Column]:
    """The knobs asked for, else those that the source declares."""
    wanted = dict.fromkeys(source.knobs) if asked is None else kinds(source.frame, asked)
    if not wanted:
        raise BadInput("--knobs", "is missing", f"NAME[:{'|'.join(KINDS)}],... of the columns that varied")
    return {name: read(source, name, kind) for name, kind in wanted.items()}


def kinds(frame: pd.DataFrame, asked: str) -> dict[str, Kind | None]:
    """`learning_rate:log,rank` by column."""
    pairs = [kind_of(frame, part.strip()) for part in asked.split(",") if part.strip()]
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise BadInput("--knobs", f"{twice} is named twice", "each column once")
    return dict(pairs)


def kind_of(frame: pd.DataFrame, part: str) -> tuple[str, Kind | None]:
    """One of them; a column's own name may hold a colon."""
    name, colon, said = part.rpartition(":")
    if part in frame or not colon:
        return column(frame, part, "--knobs"), None
    found = next((kind for kind in KINDS if kind == said), None)
    if found is None:
        raise BadInput(f"--knobs {part}", f"{said!r} is no kind of knob", ", ".join(KINDS))
    return column(frame, name, "--knobs"), found


def read(source: Source, name: str, kind: Kind | None) -> Column:
    """A knob as it was declared, else over the values that the table has. BadInput where the column cannot be one."""
    given = source.frame[name]
    if given.nunique() < 2:
        values = given.dropna().unique()
        raise BadInput(
            f"--knobs {name}", f"is always {values[0]}" if len(values) else "is empty", "a knob takes two values"
        )
    if kind is None and name in source.knobs:
        return Column(source.knobs[name], given, None)
    guessed = kind or guess(given)
    values = given.dropna().map(text) if guessed == "categorical" else numbers(given, f"--knobs {name}")
    knob = made(name, guessed, values)
    if isinstance(knob, LogFloat) and not isinstance(knob, LinearFloat):
        values = values.map(rounded)
    return Column(knob, values.reindex(given.index), None if kind else guessed)


def guess(given: pd.Series) -> Kind:
    """Text has no order; positive numbers over many decades that lie evenly among them have a logarithm."""
    known = given.dropna()
    found = pd.to_numeric(known, errors="coerce")
    if found.isna().any() or known.map(lambda value: isinstance(value, bool | np.bool_)).any():
        return "categorical"
    low, middle, high = float(found.min()), float(found.median()), float(found.max())
    if low <= 0 or not math.isfinite(high) or math.log10(high / low) <= DECADES:
        return "linear"
    return "log" if middle**2 < math.sqrt(low * high) * (low + high) / 2 else "linear"  # nearer to which of the means


def numbers(given: pd.Series, option: str) -> pd.Series:
    """The column's values as finite numbers, empty ones left out."""
    known = given.dropna()
    found = pd.to_numeric(known, errors="coerce").astype(float)
    wrong = known[~np.isfinite(found)]
    if len(wrong):
        raise BadInput(option, f"{str(wrong.iloc[0])!r} is no finite number", "a column of text is :categorical")
    return found


def made(name: str, kind: Kind, values: pd.Series) -> Knob:
    """The knob that takes these values."""
    if kind == "categorical":
        levels = tuple(sorted(values.unique()))
        return Choice(name, levels, levels[0])
    low, high = float(values.min()), float(values.max())
    if kind == "log":
        if low <= 0:
            raise BadInput(f"--knobs {name}:log", f"{low:g} has no logarithm", f"positive numbers, or {name}:linear")
        return LogFloat(name, rounded(low), rounded(high), rounded(low))
    if values.nunique() > FEW:
        return LinearFloat(name, low, high, low)
    steps = tuple(plain(value) for value in sorted(values.unique()))
    return Levels(name, steps, steps[0])


def plain(value: float) -> Value:
    """4 for 4.0."""
    return int(value) if float(value).is_integer() else float(value)


def text(value: object) -> str:
    """A level's name: 4 for 4.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def words(knob: Knob) -> str:
    """What a knob may be: `log, 1e-05 to 0.1`."""
    if isinstance(knob, LogFloat):
        return f"{'linear' if isinstance(knob, LinearFloat) else 'log'}, {knob.low:g} to {knob.high:g}"
    kind = "categorical" if isinstance(knob, Choice) else "linear"
    return f"{kind}: {', '.join(map(str, knob.values))}"
