"""What a LoRA variant is: pure functions for ONE trial, which the pack lifts over its K trials.

Shapes: N rows (tokens of one trial), I inputs, O outputs, R rank, P the trial's flat row.
Functions that are lifted see knobs as 0-d tensors: no `if` on a value, no string, no shape from a knob.
"""

from collections.abc import Callable, Hashable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from study import optim
from study.optim import Transform
from study.space import Knob, Value

Leaves = dict[str, Tensor]
Plain = Mapping[str, Value]  # knobs outside the lift, `scale` among them
Lifted = Mapping[str, Tensor]  # the numeric ones inside it, 0-d


class Axis(StrEnum):
    """The axes of the taxonomy of arXiv 2601.22708, and the references beside them."""

    BASELINE = "baseline"
    RANK = "rank"
    OPTIMIZATION = "optimization dynamics"
    INITIALIZATION = "initialization"
    MOE = "mixture of experts"


class Site:
    """One frozen linear layer that a variant adapts; a variant sees this and never the model."""

    def __init__(self, name: str, weight: Tensor, bias: Tensor | None) -> None:
        parts = name.split(".")
        self.name = name
        self.kind = ".".join(part for part in parts if not part.isdigit())  # the path without its layer number
        self.depth = next((int(part) for part in parts if part.isdigit()), 0)
        self.W = weight  # O I, shared by all trials and read-only
        self.bias = bias  # O, or None
        self.O, self.I = weight.shape

    @cached_property
    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U: O M, S: M, Vh: M I with M = min(O, I), in float64; one decomposition serves every rank of every trial."""
        U, S, Vh = torch.linalg.svd(self.W.double(), full_matrices=False)
        return U, S, Vh

    @cached_property
    def row_norms(self) -> Tensor:
        """The length of each row of W: O, in the store's precision."""
        return self.W.to(torch.promote_types(self.W.dtype, torch.float32)).norm(dim=1)


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
    optimizer: Callable[[Lifted], Transform] = optim.adamw  # lifted
    scaling: Callable[[Mapping[str, float]], float] = lambda h: h["alpha"] / h["rank"]  # h["scale"] everywhere else
    frozen: frozenset[str] = frozenset()  # leaves without gradient
    fixed: Mapping[str, Value] = {}  # knobs this method decides itself
    pack_key: Callable[[Plain], Hashable] = lambda h: None  # what must be equal in one pack since it changes shapes
    reads_output: bool = True  # False: W x + bias is never computed and y is x
    merge: Callable[..., tuple[Tensor, Tensor | None]] | None = None  # None: `affine`


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


def affine(variant: Variant, site: Site, p: Leaves, h: Lifted) -> tuple[Tensor, Tensor]:
    """The merged layer of one trial, read off `forward` itself: weight O I and bias O.

    bias = forward(0); column i of the weight is forward(e_i) - bias. True only for a forward that is affine in x.
    """

    def at(x: Tensor) -> Tensor:
        return variant.forward(x, F.linear(x, site.W, site.bias), site, p, h)

    bias = at(site.W.new_zeros(1, site.I))  # 1 O
    return (at(torch.eye(site.I, dtype=site.W.dtype)) - bias).T, bias[0]
