"""A cell: one (task, variant) pair of a study, and the keys of its trials."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from study.space import Space, Value
from study.spec import TaskSpec, VariantSpec
from study.tasks.base import Prepared
from study.trial import TRAINING_VERSION, Phase, Trial, digest
from study.variants import variant
from study.variants.base import Variant


@dataclass(frozen=True)
class Cell:
    """One (task, variant) pair of a study."""

    study: str
    spec: TaskSpec
    chosen: VariantSpec
    prepared: Prepared
    space: Space
    dtype: str
    halving: bool = False

    @property
    def label(self) -> tuple[str, str]:
        """What the ledger calls its task and its variant."""
        return self.spec.label, self.chosen.label

    @property
    def method(self) -> Variant:
        """What it trains."""
        return variant(self.chosen.name, self.chosen.combine)

    @cached_property
    def start(self) -> dict[str, Any]:
        """What determines loss0 and score0: the task without its training."""
        prints = self.prepared.fingerprints
        data = {name: prints[name] for name in ("train", "validation")}
        return {
            "task": self.spec.task,
            "model": prints["model"],
            "data": data,
            "dtype": self.dtype,
            "version": TRAINING_VERSION,
        }

    def document(self, values: Mapping[str, Value], phase: Phase) -> dict[str, Any]:
        """What determines a trial's numbers, but the seed: hashed, it is the key."""
        test = {"test": self.prepared.fingerprints["test"]} if phase == "confirm" else {}
        # A search that may stop a trial early has no result of the same setting trained to its end.
        early = {"halving": True} if self.halving and phase == "explore" else {}
        budget = self.spec.budget.model_dump()
        cell = {
            "variant": self.chosen.name,
            "combine": list(self.chosen.combine),
            "targets": self.spec.targets,
            "budget": budget,
        }
        return self.start | test | early | cell | {"values": dict(values)}

    def trial(self, values: Mapping[str, Value], phase: Phase, seed: int) -> Trial:
        """The study's claim on this setting and seed."""
        key = digest(self.document(values, phase))
        return Trial(self.study, self.spec.label, self.chosen.label, phase, key, seed, values)
