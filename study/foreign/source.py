"""Where foreign trials come from, and what whoever asks says about their columns."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from study.analysis.plan import Direction
from study.errors import BadInput, nearest
from study.space import Knob

SHOWN = 12  # columns that a message lists


class Source(NamedTuple):
    """A table with a row per trial, as a reader found it."""

    name: str  # what a report calls it: a file, a study, an experiment
    frame: pd.DataFrame
    knobs: Mapping[str, Knob] = {}  # that were declared there, with their ranges
    score: str | None = None  # the column that is the score there
    direction: Direction | None = None
    notes: tuple[str, ...] = ()  # what the reader left out


class Request(NamedTuple):
    """What the columns mean; None where the source or the table itself has to say."""

    knobs: str | None  # "learning_rate:log,rank,init:categorical"
    score: str | None
    direction: Direction | None
    group: tuple[str, ...] = ()  # columns that tell variants apart
    seed_column: str | None = None
    loss0: float | None = None  # the untouched model's score
    focus: str | None = None
    margin: float | None = None


def column(frame: pd.DataFrame, name: str, option: str) -> str:
    """The name, if the table has such a column; BadInput with the nearest spelling otherwise."""
    if name in frame:
        return name
    meant = nearest(name, frame.columns)
    raise BadInput(option, f"no column {name!r}", f"did you mean {meant}?" if meant else listed(frame.columns))


def listed(columns: Iterable[str]) -> str:
    """The first names of many."""
    names = list(columns)
    return f"columns: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
