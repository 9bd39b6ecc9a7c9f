"""The registry: one file per method, one name here; and methods of different axes put together."""

from collections.abc import Callable, Hashable, Sequence
from functools import reduce
from importlib import import_module
from typing import Any

from study.errors import BadInput, nearest
from study.space import named
from study.variants.base import Plain, Variant

NAMES = (
    "head_only",
    "full",
    "layer_norm",
    "lora",
    "rslora",
    "lora_plus",
    "dora",
    "lora_fa",
    "lora_pro",
    "loft",
    "delora",
    "ia3",
    "pissa",
    "milora",
    "olora",
    "nzlora",
    "lora_ga",
    "lora_one",
    "eva",
    "vera",
    "rasa",
    "denselora",
    "relora",
    "adalora",
    "loramoe",
    "goat",
    "melora",
    "gralora",
    "moslora",
    "hira",
    "loha",
    "lokr",
    "randlora",
    "miss",
)

VARIANTS: dict[str, Variant] = {name: import_module(f"study.variants.{name}").VARIANT for name in NAMES}
WAYS = (
    "init",
    "forward",
    "optimizer",
    "scaling",
    "shared",
    "group",
    "penalty",
    "events",
    "needs",
    "sites",
    "reads_output",
    "merge",
)  # what a method may do its own way


def variant(name: str, combine: Sequence[str] = ()) -> Variant:
    """The variant of that name, put together with others. Raises BadInput with the nearest name or the conflict."""
    return reduce(_combined, [_registered(other) for other in combine], _registered(name))


def _registered(name: str) -> Variant:
    if name not in VARIANTS:
        meant = nearest(name, VARIANTS)
        hint = f"did you mean {meant}? " if meant else ""
        raise BadInput("variants", f"unknown variant {name!r}", f"{hint}known: {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _combined(first: Variant, second: Variant) -> Variant:
    """Both methods at once: each keeps what it does otherwise than LoRA. They must not differ from it in one place."""
    lora: dict[str, Any] = VARIANTS["lora"]._asdict()
    mine, other = first._asdict(), second._asdict()
    clash = [way for way in WAYS if lora[way] is not mine[way] is not other[way] is not lora[way]]
    clash += ["the same things"] if second.name in first.name.split("+") else []
    clash += [f"the knob {name}" for name in first.fixed if name in second.fixed]
    clash += [f"the knob {name}" for a, b in ((first, second), (second, first)) for name in _unknown(a, b)]
    if clash:
        raise BadInput(
            "combine",
            f"{first.name} and {second.name} both change {' and '.join(clash)}",
            "methods that change different things",
        )
    fixed = {**first.fixed, **second.fixed}
    knobs = {name: knob for name, knob in named((*first.knobs, *second.knobs)).items() if _spent(name, first, second)}
    changed = {way: other[way] for way in WAYS if other[way] is not lora[way]}
    return first._replace(
        **changed,
        name=f"{first.name}+{second.name}",
        paper=f"{first.paper}, {second.paper}",
        knobs=tuple(knob for name, knob in knobs.items() if name not in fixed),
        trainable=_one(first.trainable, second.trainable, lora["trainable"]),
        trainable_shared=_one(first.trainable_shared, second.trainable_shared, lora["trainable_shared"]),
        frozen=first.frozen | second.frozen,
        common=first.common | second.common,
        pack_key=_both(first, second) if other["pack_key"] is not lora["pack_key"] else first.pack_key,
        fixed=fixed,
    )


def _both(first: Variant, second: Variant) -> Callable[[Plain], Hashable]:
    return lambda h: (first.pack_key(h), second.pack_key(h))


def _unknown(first: Variant, second: Variant) -> list[str]:
    """What the first method decides and the second has no use for, as a start where there is no pair to start."""
    return [name for name in first.fixed if name not in {**named(second.knobs), **second.fixed}]


def _spent(name: str, first: Variant, second: Variant) -> bool:
    """Whether both methods together still spend a knob: one of LoRA's own does where neither has done away with it."""
    owners = [method for method in (first, second) if name in named(method.knobs) or name in method.fixed]
    return name not in named(VARIANTS["lora"].knobs) or len(owners) == 2


def _one(first: str, second: str, lora: str) -> str:
    """The formula of the method that does not count as LoRA does."""
    return second if first == lora else first
