"""MELoRA: n mini-LoRAs on the diagonal, each between its own n-th of inputs and outputs (Ren et al. 2024).

arXiv:2402.17263. `rank` is what the n of them have together: each has max(1, r // n), so that r below n means rank n.
Each is a LoRA of its own in start and scale, as in the authors' code: s = alpha / its rank.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from study.space import Levels
from study.variants import lora
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant
from study.variants.blocks import sides
from study.variants.inits import uniform

KNOBS = (*lora.PAIR_KNOBS, Levels("mini", (2, 4), default=2))


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """A: n R I/n, uniform; B: n O/n R, zero. Raises BadInput where n does not divide the layer."""
    count = int(h["mini"])
    rank, (outputs, inputs) = max(1, int(h["rank"]) // count), sides(site, count, "mini")
    return {"A": uniform(generator, count, rank, inputs), "B": torch.zeros(count, outputs, rank)}


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + s [B_1 A_1 x_1, ..., B_n A_n x_n]."""
    A, B = p["A"].to(x.dtype), p["B"].to(x.dtype)
    parts = x.reshape(len(x), len(A), -1)  # N n I/n
    inner = h["scale"] * torch.einsum("nmi,mri->nmr", parts, A)
    return y + torch.einsum("nmr,mor->nmo", inner, B).flatten(1)


def scaling(h: Mapping[str, float]) -> float:
    """alpha over the rank of one mini-LoRA."""
    return h["alpha"] / max(1, h["rank"] // h["mini"])


VARIANT = Variant(
    name="melora",
    axis=Axis.RANK,
    category="expansion",
    paper="2402.17263",
    knobs=KNOBS,
    trainable="max(1, r // mini) * (I + O)",
    init=init,
    forward=forward,
    scaling=scaling,
    pack_key=lambda h: h["mini"],
)
