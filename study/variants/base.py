"""What a LoRA variant is: pure functions for ONE trial, which the pack lifts over its K trials.

Shapes: N rows (tokens of one trial), I inputs, O outputs, R rank, P the trial's flat row.
Functions that are lifted see knobs as 0-d tensors: no `if` on a value, no string, no shape from a knob.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from enum import StrEnum
from functools import cached_property
from math import ceil
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study import optim
from study.optim import Transform
from study.space import Knob, Value

Leaves = dict[str, Tensor]
Plain = Mapping[str, Value]  # knobs outside the lift, `scale` among them
Lifted = Mapping[str, Tensor]  # the numeric ones inside it, 0-d
Sites = Literal["targets", "norms", "all"]  # the spec's target layers, the norms, all linear, norm and embedding layers


class Axis(StrEnum):
    """The axes of the taxonomy of arXiv 2601.22708, and the references beside them."""

    BASELINE = "baseline"
    RANK = "rank"
    OPTIMIZATION = "optimization dynamics"
    INITIALIZATION = "initialization"
    MOE = "mixture of experts"


class Spectrum(NamedTuple):
    """The largest singular triplets of a statistic of the frozen model at one site."""

    U: Tensor  # O M
    S: Tensor  # M
    Vh: Tensor  # M I


class Decomposed:
    """A frozen weight's decompositions, made once for every rank of every trial."""

    def __init__(self, weight: Tensor) -> None:
        self.W = weight

    @cached_property
    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        U, S, Vh = torch.linalg.svd(self.W.double(), full_matrices=False)
        return U, S, Vh

    @cached_property
    def row_norms(self) -> Tensor:
        return self.W.to(torch.promote_types(self.W.dtype, torch.float32)).norm(dim=1)


class Site:
    """One frozen layer that a variant adapts; a variant sees this and never the model."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        parts, own = name.split("."), dict(layer.named_parameters(recurse=False))
        self.name = name
        self.kind = ".".join(part for part in parts if not part.isdigit())  # the path without its layer number
        self.depth = next((int(part) for part in parts if part.isdigit()), 0)
        self.layer = layer  # frozen: N I -> N O; ids N -> N O where it is an embedding
        self.W = own["weight"]  # O I, shared by all trials and read-only; O where the layer is a norm
        self.bias = own.get("bias")  # O, or None
        self.O, self.I = self.W.shape[0], self.W.shape[-1]
        self.decomposed = Decomposed(self.W)
        self.stats: Mapping[str, Spectrum] = {}  # what the method `needs`, of the seed of the trial at hand

    def measured(self, stats: Mapping[str, Spectrum]) -> "Site":
        """The same layer with one seed's statistics."""
        other = copy(self)
        other.stats = stats
        return other

    @property
    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U: O M, S: M, Vh: M I with M = min(O, I), in float64."""
        return self.decomposed.svd

    @property
    def row_norms(self) -> Tensor:
        """The length of each row of W: O, in the store's precision."""
        return self.decomposed.row_norms


Act = Callable[[dict[str, Leaves], dict[str, dict[str, Leaves]], Plain, int, torch.Generator], None]


class Event(NamedTuple):
    """Something rare done to one trial between two steps, not lifted: `if`, topk and in-place writes are welcome."""

    due: Callable[[Plain, int], bool]  # (h, t): after t steps? `h["steps"]` is how many there will be
    act: Act  # (leaves, state, h, t, generator): owner -> name -> unpadded writable view; the same per optimizer state


class Variant(NamedTuple):
    """A method. Fields left out are plain LoRA's way of doing it."""

    name: str
    axis: Axis
    category: str  # the sub-category on its axis
    paper: str  # arXiv id
    knobs: tuple[Knob, ...]
    trainable: str  # parameters of one adapted layer, in I, O and r
    init: Callable[[Site, Plain, torch.Generator], Leaves]  # unpadded leaves of one site
    forward: Callable[[Tensor, Tensor, Site, Leaves, Lifted], Tensor]  # x: N I, y: N O = W x + bias -> N O; lifted
    optimizer: Callable[[Lifted], Transform] = optim.adamw  # over the trial's whole row; lifted
    scaling: Callable[[Mapping[str, float]], float] = lambda h: h["alpha"] / h["rank"]  # h["scale"] everywhere else
    shared: Callable[[Sequence[Site], Plain, torch.Generator], Leaves] | None = None  # one copy for a group of sites
    group: Callable[[Site], str] = lambda site: "all"  # which sites use one copy
    trainable_shared: str = "0"  # parameters of one group, in I and O (the largest of the group), L sites and r
    penalty: Callable[[Tensor, Site, Leaves, Lifted], Tensor] | None = None
    """(x: N I, site, p, h) -> 0-d, added to the loss in training; `h["valid"]` N is 0 at padding; lifted."""
    events: tuple[Event, ...] = ()
    frozen: frozenset[str] = frozenset()  # leaves without gradient; only events move them
    common: frozenset[str] = frozenset()  # frozen leaves equal in every trial of a pack: one copy
    starts_off: Callable[[Plain], float] = lambda h: 0.0  # how far from W training begins: the spectral norm
    needs: Callable[[Plain], frozenset[str]] = lambda h: frozenset()  # see statistics.py
    fixed: Mapping[str, Value] = {}  # knobs this method decides itself
    pack_key: Callable[[Plain], Hashable] = lambda h: None  # what must be equal in one pack since it changes shapes
    sites: Sites = "targets"
    reads_output: bool = True  # False: W x + bias is never computed and y is x
    merge: Callable[[Any, Site, Leaves, Lifted], tuple[Tensor, Tensor | None]] | None = None  # None: `affine`


def plain(variant: Variant, values: Plain, steps: int) -> dict[str, Value]:
    """A trial's knobs as everything un-lifted sees them, with `scale` and `steps`."""
    h: dict[str, Value] = {**values, **variant.fixed}
    return h | {"scale": variant.scaling(h), "steps": steps}  # type: ignore[arg-type]


def low_rank(x: Tensor, p: Leaves, scale: Tensor) -> Tensor:
    """s B A x for every LoRA-shaped forward: x: N I -> N O.

    Where the init takes its start B0 A0 off, the same algebra is s[(B - B0) A x + B0 (A - A0) x]: exactly zero at the
    start, and the differences are taken in the store's precision, so that bf16 does not lose small updates.
    The scale stands on the rank axis, the shortest one.
    """
    if "A0" not in p:
        return (scale * (x @ p["A"].T.to(x.dtype))) @ p["B"].T.to(x.dtype)
    moved_A, moved_B = (p["A"] - p["A0"]).to(x.dtype), (p["B"] - p["B0"]).to(x.dtype)
    inner, start = scale * (x @ p["A"].T.to(x.dtype)), scale * (x @ moved_A.T)
    return inner @ moved_B.T + start @ p["B0"].T.to(x.dtype)


class Refused(Exception):
    """A method that cannot be merged into the frozen weight, and why."""


def refuses(reason: str) -> Callable[[Variant, Site, Leaves, Lifted], tuple[Tensor, Tensor | None]]:
    """The `merge` of a method whose forward is not affine in x: raises Refused."""

    def merge(variant: Variant, site: Site, p: Leaves, h: Lifted) -> tuple[Tensor, Tensor | None]:
        raise Refused(f"{variant.name} does not merge: {reason}")

    return merge


def merged(variant: Variant, site: Site, p: Leaves, h: Lifted) -> tuple[Tensor, Tensor | None]:
    """The weight and bias that stand for one trial's layer. Raises Refused."""
    return (variant.merge or affine)(variant, site, p, h)


def affine(variant: Variant, site: Site, p: Leaves, h: Lifted) -> tuple[Tensor, Tensor]:
    """The merged layer of one trial, read off `forward` itself: weight O I and bias O.

    bias = forward(0); column i of the weight is forward(e_i) - bias. True only for a forward that is affine in x.
    """

    def at(x: Tensor) -> Tensor:
        return variant.forward(x, F.linear(x, site.W, site.bias), site, p, h)

    bias = at(site.W.new_zeros(1, site.I))  # 1 O
    return (at(torch.eye(site.I, dtype=site.W.dtype)) - bias).T, bias[0]


def count(formula: str, sites: Sequence[Site], h: Plain) -> int:
    """What a formula of trainable parameters comes to: I and O are the largest of the sites, L is how many they are.

    W and b are the sizes of the frozen weight and bias, r the rank; every other name is a knob.
    """
    sizes = {"I": max(site.I for site in sites), "O": max(site.O for site in sites), "L": len(sites)}
    sizes |= {"W": sites[0].W.numel(), "b": 0 if sites[0].bias is None else sites[0].bias.numel()}
    return int(
        eval(formula, {"__builtins__": {}, "ceil": ceil, "min": min, "max": max}, {**h, "r": h.get("rank", 0), **sizes})
    )
