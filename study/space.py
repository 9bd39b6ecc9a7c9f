"""Knobs and spaces: what may vary, over which values, and how a unit coordinate becomes one of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Value = float | int | str | bool

SCALE = "scale"  # alpha over rank: another coordinate of the same settings, which are told by their alpha


@dataclass(frozen=True)
class LogFloat:
    """A positive number whose logarithm is the natural axis: learning rate, alpha."""

    name: str
    low: float
    high: float
    default: float

    def decode(self, u: float) -> float:
        """The value at coordinate `u` in [0, 1); six digits, so that a value reads back as it was printed."""
        return rounded(math.exp((1 - u) * math.log(self.low) + u * math.log(self.high)))

    def encode(self, value: Value) -> float:
        """The coordinate of `value`: 0 at `low`, 1 at `high`."""
        return (math.log(float(value)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))

    def grid(self, points: int) -> list[Value]:
        """`points` values evenly spaced in the logarithm, ends included."""
        return [self.decode(i / max(points - 1, 1)) for i in range(points)]


@dataclass(frozen=True)
class LinearFloat(LogFloat):
    """A number of any sign whose own value is the natural axis: dropout. It has no decades."""

    def decode(self, u: float) -> float:
        """The value at coordinate `u` in [0, 1); twelve digits, because a narrow range may lie far from zero."""
        return float(f"{(1 - u) * self.low + u * self.high:.12g}")

    def encode(self, value: Value) -> float:
        """The coordinate of `value`: 0 at `low`, 1 at `high`."""
        return (float(value) - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Levels:
    """A few values with an order: rank, a short list of learning rates."""

    name: str
    values: tuple[Value, ...]
    default: Value

    def decode(self, u: float) -> Value:
        """The level whose equal share of [0, 1) holds `u`."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def encode(self, value: Value) -> float:
        """The middle of the share of `value`."""
        return (self.values.index(value) + 0.5) / len(self.values)

    def grid(self, points: int) -> list[Value]:
        """Every level, whatever `points` says."""
        return list(self.values)


@dataclass(frozen=True)
class Choice(Levels):
    """A few values without an order: init. `allowed` may name more than vary unasked."""

    allowed: tuple[Value, ...] = ()


Knob = LogFloat | Levels


@dataclass(frozen=True)
class Space:
    """The knobs of one cell: those that vary, and the fixed values of the rest."""

    varied: tuple[Knob, ...]
    fixed: Mapping[str, Value]

    def decode(self, coordinates: Mapping[str, float]) -> dict[str, Value]:
        """One setting: every knob's value at the given unit coordinates (name -> u)."""
        return self.setting({knob.name: knob.decode(coordinates[knob.name]) for knob in self.varied})

    def setting(self, chosen: Mapping[str, Value]) -> dict[str, Value]:
        """The setting of these values of the varied knobs."""
        return settled({**self.fixed, **chosen})


def settled(values: Mapping[str, Value]) -> dict[str, Value]:
    """A setting told by its scale, told by its alpha; any other as it is."""
    found = dict(values)
    if SCALE in found:
        found["alpha"] = rounded(float(found.pop(SCALE)) * float(found["rank"]))
    return found


def rounded(value: float) -> float:
    """To six digits, so that it reads back as it was printed."""
    return float(f"{value:.6g}")


def coordinate(name: str, values: Mapping[str, Value]) -> Value:
    """A knob's value in a setting."""
    return rounded(float(values["alpha"]) / float(values["rank"])) if name == SCALE else values[name]


def named(knobs: Sequence[Knob]) -> dict[str, Knob]:
    """Knobs by name; a later one replaces an earlier one of the same name."""
    return {knob.name: knob for knob in knobs}
