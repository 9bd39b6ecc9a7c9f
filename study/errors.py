"""The one error a user can cause: told in one line, ends with exit code 2, loses nothing."""

import difflib
from collections.abc import Iterable


class BadInput(Exception):
    """What the user gave cannot be used; `str(error)` is the whole message.

    The line says where (file, field), what was there, and what is allowed, in that order.
    """

    def __init__(self, where: str, problem: str, allowed: str = "") -> None:
        super().__init__(where, problem, allowed)
        self.where, self.problem, self.allowed = where, problem, allowed

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f" ({self.allowed})" if self.allowed else "")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one may have meant, None where none is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)


def instead(name: str, known: Iterable[str]) -> str:
    """What there is in place of a name that is not there: the nearest spelling, else all of them."""
    names = list(known)
    meant = nearest(name, names)
    return f"did you mean {meant}?" if meant else f"there are: {', '.join(names) or 'none yet'}"
