"""What a place to mirror trials to must do. The worker knows this much; `trackers/` implements it."""

from collections.abc import Mapping
from typing import Protocol

from study.trial import State, Trial


class Tracker(Protocol):
    """Three calls, each safe to repeat: the same (study, key, seed) is the same trial, whoever sends it."""

    def begin(self, trial: Trial) -> None:
        """The trial is training now."""

    def log(self, trial: Trial, step: int, values: Mapping[str, float]) -> None:
        """Its curves have these values at `step`."""

    def end(self, trial: Trial, state: State, values: Mapping[str, float]) -> None:
        """It ended in `state` with these final numbers (val_loss, val_score, ...); empty where it has none."""
