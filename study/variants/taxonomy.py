"""The registry as rows: what every method changes, by which knobs it packs, what it trains."""

import re
from collections.abc import Iterable
from importlib import import_module
from typing import NamedTuple

from study.optim import ADAMW_KNOBS
from study.space import Value
from study.variants.base import Axis, Variant, refuses

EVERY = tuple(knob.name for knob in ADAMW_KNOBS)  # the knobs that every variant has
COLUMNS = ("variant", "sub-category", "paper", "own knobs", "equal in a pack", "merges", "trained")  # in a terminal


class Entry(NamedTuple):
    """What is to be known of a method."""

    name: str
    axis: str
    category: str
    paper: str  # arXiv id, or where else it is
    summary: str
    knobs: list[str]
    equal_in_a_pack: list[str]  # knobs whose values decide who can share a pack
    merges: bool
    trainable: str
    trainable_shared: str

    @property
    def own(self) -> list[str]:
        """The knobs that not every method has."""
        return [name for name in self.knobs if name not in EVERY]

    @property
    def trained(self) -> str:
        """The formula of the trained parameters, a layer's and a group's."""
        parts = {"": self.trainable, " a group": self.trainable_shared}
        return " + ".join(formula + of for of, formula in parts.items() if formula != "0") or "0"

    def shown(self) -> dict[str, str]:
        """The row as people read it, by column."""
        return {
            "variant": self.name,
            "what it does": self.summary,
            "sub-category": self.category,
            "paper": self.paper,
            "own knobs": ", ".join(self.own),
            "equal in a pack": ", ".join(self.equal_in_a_pack),
            "merges": "yes" if self.merges else "no",
            "trained": self.trained,
        }


def entry(variant: Variant) -> Entry:
    """A registered method's row."""
    return Entry(
        variant.name,
        str(variant.axis),
        variant.category,
        variant.paper,
        summary(variant.name),
        [knob.name for knob in variant.knobs],
        equal_in_a_pack(variant),
        variant.merge is None or refuses.__name__ not in variant.merge.__qualname__,
        variant.trainable,
        variant.trainable_shared,
    )


def summary(name: str) -> str:
    """The clause in which a method's file says what it does: its first line without title and paper."""
    line = str(import_module(f"study.variants.{name}").__doc__).split("\n")[0].rstrip(".")
    return re.sub(r" \([^()]*\)$", "", line.partition(": ")[2])


def equal_in_a_pack(variant: Variant) -> list[str]:
    """The knobs that move the method's pack key, each from the defaults."""
    h: dict[str, Value] = {knob.name: knob.default for knob in variant.knobs} | dict(variant.fixed)
    return [
        knob.name
        for knob in variant.knobs
        if len({variant.pack_key(h | {knob.name: value}) for value in knob.grid(2)}) > 1
    ]


def by_axis(variants: Iterable[Variant]) -> dict[str, list[Entry]]:
    """The rows of each axis, by sub-category; axes in the order of the taxonomy."""
    rows = [entry(variant) for variant in variants]
    found = {str(axis): sorted((r for r in rows if r.axis == axis), key=lambda row: row.category) for axis in Axis}
    return {axis: rows for axis, rows in found.items() if rows}
