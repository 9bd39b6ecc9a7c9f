"""What a trial needs: bytes of its parameters and of a step, from the shapes of its leaves and of the model."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from study.frozen import Frozen, StandIn
from study.grouping import grouped
from study.space import Levels, Space
from study.spec import Budget
from study.streams import generator
from study.variants.base import Leaves, Plain, Site, Spectrum, Variant, plain
from study.variants.head_only import HEAD
from study.variants.inits import TRIPLETS

COPIES = 4  # of what is trained: weights, gradient, two moments
UPDATE = 12  # more of them while a step is taken; measured with `full` and with `lora` of rank 32 on MiniLM


class Stored(NamedTuple):
    """Bytes of one trial's rows, head included."""

    row: int  # of what is trained, once
    carried: int
    common: int  # once a pack, whatever the number of trials

    @property
    def kept(self) -> int:
        """Between two steps."""
        return COPIES * self.row + self.carried


class Needs(NamedTuple):
    """Bytes in a pack while it takes a step."""

    trial: int
    common: int  # once, whatever the number of trials


class Entries(NamedTuple):
    """Entries of one trial's leaves."""

    trained: int
    carried: int  # frozen ones
    common: int  # frozen ones that are the same in all trials


def entries(variant: Variant, sites: Sequence[Site], h: Plain) -> Entries:
    """How large the leaves are. Layers of one shape have leaves of one shape, so one of them is drawn."""
    alike = grouped(sites, lambda site: (type(site.layer), site.W.shape, site.bias is None))
    drawn = [(variant.init(_stood_in(same[0], variant.needs(h)), h, _draw()), len(same)) for same in alike.values()]
    if variant.shared:
        drawn += [(variant.shared(group, h, _draw()), 1) for group in grouped(sites, variant.group).values()]
    common = _size(drawn, lambda name: name in variant.common)
    carried = _size(drawn, lambda name: name in variant.frozen - variant.common)
    return Entries(_size(drawn, lambda name: True) - carried - common, carried, common)


def _size(drawn: Iterable[tuple[Leaves, int]], counts: Callable[[str], bool]) -> int:
    return sum(leaf.numel() * times for leaves, times in drawn for name, leaf in leaves.items() if counts(name))


def _draw() -> torch.Generator:
    return generator(0, "plan")


def _stood_in(site: Site, needs: Iterable[str]) -> Site:
    """The layer with statistics of the right shapes, which nobody has measured."""
    M = min(site.O, site.I, TRIPLETS)
    spectrum = Spectrum(torch.eye(site.O, M), torch.ones(M), torch.eye(M, site.I))
    return site.measured(dict.fromkeys(needs, spectrum))


def stored(variant: Variant, frozen: Frozen, values: Plain, steps: int, dtype: torch.dtype) -> Stored:
    """What one trial has in the pack's store, whose precision is fp32 or finer."""
    h = plain(variant, values, steps)
    own, head = entries(variant, frozen.of(variant.sites), h), entries(HEAD, frozen.heads, h)
    size = torch.promote_types(dtype, torch.float32).itemsize
    return Stored(size * (own.trained + head.trained), size * own.carried, size * own.common)


def linear_shapes(frozen: Frozen) -> list[tuple[int, int]]:
    """O, I of every linear layer."""
    linear = [m for m in frozen.model.modules() if isinstance(m, nn.Linear | StandIn) and "in_features" in vars(m)]
    return [(O, I) for O, I in (module.get_parameter("weight").shape for module in linear)]


def activations(variant: Variant, frozen: Frozen, tokens: int, dtype: torch.dtype) -> int:
    """Bytes that one trial's step keeps for its backward: what every linear layer reads and writes, and what a method
    that adds to a layer writes beside it."""
    added = sum(site.O for site in frozen.of(variant.sites)) if variant.reads_output else 0
    return tokens * dtype.itemsize * (sum(O + I for O, I in linear_shapes(frozen)) + added)


def needs(variant: Variant, frozen: Frozen, values: Plain, budget: Budget, dtype: torch.dtype) -> Needs:
    """Bytes of one trial in training, and of what its pack has once."""
    rows = stored(variant, frozen, values, budget.steps, dtype)
    step = UPDATE * rows.row + activations(variant, frozen, budget.tokens(values), dtype)
    return Needs(rows.kept + step, rows.common)


def largest(cell: Space, size: Callable[[Plain], int]) -> Plain:
    """The setting of a cell that needs most; each level is judged for itself, as needs grow with every one of them."""
    values = {**cell.fixed, **{knob.name: knob.grid(2)[-1] for knob in cell.varied}}
    for name, levels in ((knob.name, knob.values) for knob in cell.varied if isinstance(knob, Levels)):
        sizes = {level: size({**values, name: level}) for level in levels}
        values[name] = max(sizes, key=lambda level: sizes[level])
    return values


def model_bytes(frozen: Frozen, dtype: torch.dtype) -> int:
    """Bytes of the frozen model in that precision."""
    return dtype.itemsize * sum(parameter.numel() for parameter in frozen.model.parameters())
