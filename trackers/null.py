"""Mirrors nowhere, so that no caller asks whether tracking is on."""

from collections.abc import Mapping

from study.trial import State, Trial
from trackers import Mirror


class Null(Mirror):
    """The default tracker."""

    def begin(self, trial: Trial) -> None:
        pass

    def log(self, trial: Trial, step: int, values: Mapping[str, float]) -> None:
        pass

    def end(self, trial: Trial, state: State, values: Mapping[str, float]) -> None:
        pass
