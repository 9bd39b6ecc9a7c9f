"""Mirrors to several places at once."""

from collections.abc import Callable, Mapping, Sequence

from study.trial import State, Trial
from trackers import Mirror, Point


class Many(Mirror):
    """Forwards each call to every tracker; one that raises does not stop the others.

    What they raised becomes one error: ConnectionError where one of them may be asked again later, else RuntimeError.
    """

    def __init__(self, trackers: Sequence[Mirror]) -> None:
        self._trackers = tuple(trackers)

    def begin(self, trial: Trial) -> None:
        self._each(lambda tracker: tracker.begin(trial))

    def log(self, trial: Trial, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.log(trial, step, values))

    def log_many(self, trial: Trial, points: Sequence[Point]) -> None:
        self._each(lambda tracker: tracker.log_many(trial, points))

    def end(self, trial: Trial, state: State, values: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.end(trial, state, values))

    def _each(self, call: Callable[[Mirror], None]) -> None:
        errors: list[Exception] = []
        for tracker in self._trackers:
            try:
                call(tracker)
            except Exception as error:
                errors.append(error)
        if errors:
            kind = ConnectionError if any(isinstance(error, OSError) for error in errors) else RuntimeError
            raise kind("; ".join(f"{type(error).__name__}: {error}" for error in errors)) from errors[0]
