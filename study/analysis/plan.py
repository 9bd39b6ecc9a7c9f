"""What an analysis must know of the study besides its table: what was declared before any result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from study.analysis.finding import POOLED
from study.errors import BadInput
from study.space import Choice, Knob, Levels, LinearFloat, LogFloat

Direction = Literal["maximize", "minimize"]
Design = Literal["sobol", "grid", "random", "tpe", "foreign"]


@dataclass(frozen=True)
class Plan:
    """The declared part of a study; BadInput where the focus has no logarithm."""

    directions: Mapping[str, Direction]  # task -> which scores are good
    knobs: Mapping[str, tuple[Knob, ...]]  # variant -> the knobs that varied, with their declared ranges or levels
    focus: str = "learning_rate"  # the knob whose response is drawn
    margin: float = 0.01  # score units within which two results count as the same
    design: Design = "sobol"
    reference: str = "lora"  # the variant that others are compared with
    measures: tuple[Literal["score", "loss"], ...] = ("score", "loss")  # a table from elsewhere has a score alone

    def __post_init__(self) -> None:
        for variant, knobs in self.knobs.items():
            for knob in knobs:
                if knob.name == self.focus and not has_logarithm(knob):
                    raise BadInput(
                        f"focus {self.focus} of {variant}", "has no logarithm", "use a knob of positive numbers"
                    )

    def sign(self, task: str) -> int:
        """+1 where a larger score is better, -1 where a smaller one is."""
        return 1 if self.directions[task] == "maximize" else -1

    @property
    def subjects(self) -> tuple[str, ...]:
        """Whom a question is asked about: all variants together, then each."""
        return (POOLED, *self.knobs)

    def members(self, subject: str) -> tuple[str, ...]:
        """A subject's variants; all variants together are those in which the focus knob varied."""
        return self.responsive if subject == POOLED else (subject,)

    @property
    def responsive(self) -> tuple[str, ...]:
        """The variants in which the focus knob varied."""
        return tuple(
            variant for variant, knobs in self.knobs.items() if any(k.name == self.focus and varies(k) for k in knobs)
        )


def has_logarithm(knob: Knob) -> bool:
    """The knob's values are positive numbers, so that decades mean something."""
    if isinstance(knob, LogFloat):
        return not isinstance(knob, LinearFloat)
    return not isinstance(knob, Choice) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in knob.values
    )


def varies(knob: Knob) -> bool:
    """The knob has more than one value."""
    return knob.low < knob.high if isinstance(knob, LogFloat) else len(knob.values) > 1


def continuous(knob: Knob) -> LogFloat:
    """The same range of a positive knob as one log axis, whether it was declared as a range or as levels."""
    if isinstance(knob, LogFloat):
        return knob
    values = [float(value) for value in knob.values]
    return LogFloat(knob.name, min(values), max(values), values[0])


def declared(plan: Plan, variants: tuple[str, ...]) -> dict[str, Knob]:
    """The varied knobs that every one of `variants` that has them declares alike, by name."""
    found: dict[str, Knob] = {}
    differing: set[str] = set()
    for variant in variants:
        for knob in filter(varies, plan.knobs.get(variant, ())):
            if not same_values(found.setdefault(knob.name, knob), knob):
                differing.add(knob.name)
    return {name: knob for name, knob in found.items() if name not in differing}


def same_values(one: Knob, other: Knob) -> bool:
    """The same range or the same levels; the default does not matter."""
    if isinstance(one, LogFloat) and isinstance(other, LogFloat):
        return (one.low, one.high) == (other.low, other.high)
    return isinstance(one, Levels) and isinstance(other, Levels) and one.values == other.values
