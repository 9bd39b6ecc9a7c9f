"""GraLoRA: W in k x k blocks, each with a LoRA of its own, of rank r/k (Jung et al. 2025, arXiv:2505.20355).

Without the paper's optional hybrid part. A block has rank max(1, r // k), so that r below k counts as k.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from study.space import Levels
from study.variants import lora
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant
from study.variants.blocks import sides
from study.variants.inits import uniform

KNOBS = (*lora.PAIR_KNOBS, Levels("k", (2, 4), default=2))


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """A: k k R I/k, uniform; B: k k O/k R, zero; input block first. Raises BadInput where k does not divide W."""
    k = int(h["k"])
    rank, (outputs, inputs) = max(1, int(h["rank"]) // k), sides(site, k, "k")
    return {"A": uniform(generator, k, k, rank, inputs), "B": torch.zeros(k, k, outputs, rank)}


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias, and in output block j: s sum_i B_ij A_ij x_i."""
    A, B = p["A"].to(x.dtype), p["B"].to(x.dtype)
    parts = x.reshape(len(x), len(A), -1)  # N k I/k
    inner = h["scale"] * torch.einsum("nia,ijra->nijr", parts, A)
    return y + torch.einsum("nijr,ijor->njo", inner, B).flatten(1)


def scaling(h: Mapping[str, float]) -> float:
    """alpha over the rank of a row of blocks."""
    return h["alpha"] / (h["k"] * max(1, h["rank"] // h["k"]))


VARIANT = Variant(
    name="gralora",
    axis=Axis.RANK,
    category="expansion",
    paper="2505.20355",
    knobs=KNOBS,
    trainable="k * max(1, r // k) * (I + O)",
    init=init,
    forward=forward,
    scaling=scaling,
    pack_key=lambda h: h["k"],
)
