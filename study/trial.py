"""A trial: one setting with one seed, and what came of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from study.space import Value

# Bump by hand when the same key would train to other numbers than before.
TRAINING_VERSION = 1

Phase = Literal["explore", "extend", "refine", "confirm"]
PHASES: tuple[Phase, ...] = get_args(Phase)  # in the order they are run
State = Literal["finished", "diverged", "failed", "stopped"]
Curves = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Trial:
    """A study's claim on one result: its cell (task, variant), its phase, its setting, its seed."""

    study: str
    task: str
    variant: str
    phase: Phase
    key: str
    seed: int
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Result:
    """What came of a trial; the first accepted one of a (key, seed) is the result for ever."""

    key: str
    seed: int
    state: State  # finished, diverged, or stopped by a search; a trial that failed has no result
    val_loss: float  # loss0 where diverged
    val_score: float  # score0 where diverged
    test_score: float | None  # None where the phase does not look at the test split
    loss0: float  # of the base model with this seed's head, before any step
    score0: float
    steps: int  # done, of those asked
    cpu_seconds: float  # this trial's share of its pack
    wall_seconds: float
    peak_memory: int  # bytes, of the worker process
    trainable: int  # parameters, head included
    test_correct: bytes | None = None  # 1 or 0 per example of the test split, in an order that all trials share
    curves: Curves = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)  # pack size, versions, hardware

    @property
    def diverged(self) -> bool:
        """A loss, gradient or weight stopped being a finite number."""
        return self.state == "diverged"


def digest(document: Mapping[str, Any]) -> str:
    """The 32 hexadecimal digits that stand for a JSON document, whatever the order of its keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
