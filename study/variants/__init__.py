"""The registry: one file per method, one line here."""

import difflib
from importlib import import_module

from study.errors import BadInput
from study.variants.base import Variant

NAMES = ("head_only", "lora", "rslora", "lora_plus", "dora", "pissa")

VARIANTS: dict[str, Variant] = {name: import_module(f"study.variants.{name}").VARIANT for name in NAMES}


def variant(name: str) -> Variant:
    """The variant of that name. Raises BadInput with the nearest name."""
    if name not in VARIANTS:
        nearest = difflib.get_close_matches(name, VARIANTS, 1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise BadInput("variants", f"unknown variant {name!r}", f"{hint}known: {', '.join(VARIANTS)}")
    return VARIANTS[name]
