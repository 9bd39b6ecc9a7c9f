"""Places a trial is mirrored to, one file each, and the spool that stands between them and training."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from study.tracking import Tracker
from study.trial import Trial

Point = tuple[int, Mapping[str, float]]  # a step, and the values of the curves there


class Mirror(Tracker, Protocol):
    """A tracker that also takes many points at once.

    Every method may be called again with what it was told before. One raises OSError (ConnectionError, for one) while
    the place cannot be reached and asking again later may help, and any other exception where it never will.
    """

    def log_many(self, trial: Trial, points: Sequence[Point]) -> None:
        """Several `log` calls of one trial, steps ascending."""
        for step, values in points:
            self.log(trial, step, values)
