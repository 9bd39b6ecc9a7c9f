"""Remembering what a pure function found: several questions ask for the same fit of the same data."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import joblib

P = ParamSpec("P")
R = TypeVar("R")

REMEMBERED = 64  # results of each function; the oldest goes first


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which finds its result again where it was called with equal arguments before."""
    known: dict[str, R] = {}

    @wraps(function)
    def recall(*args: P.args, **kwargs: P.kwargs) -> R:
        key = joblib.hash((args, kwargs))
        if key not in known:
            if len(known) == REMEMBERED:
                del known[next(iter(known))]
            known[key] = function(*args, **kwargs)
        return known[key]

    return recall
