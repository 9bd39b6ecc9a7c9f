"""LoHa: the update is the entrywise product of two low-rank ones, of rank up to r^2 (Hyeon-Woo et al. 2021).

FedPara, arXiv:2108.06098, proposition 1; as an adapter in LyCORIS, arXiv:2309.14859. One factor of the four starts at
zero and the rest He-uniform: with a zero in both products no factor would ever get a gradient.
"""

import torch
from torch import Tensor

from study.variants import lora
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant
from study.variants.inits import uniform


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """A1, A2: R I; B1, B2: O R; A2 is the zero one."""
    rank = int(h["rank"])
    return {
        "A1": uniform(generator, rank, site.I),
        "B1": uniform(generator, site.O, rank),
        "A2": torch.zeros(rank, site.I),
        "B2": uniform(generator, site.O, rank),
    }


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + s (B1 A1 * B2 A2) x."""
    update = ((h["scale"] * p["B1"]) @ p["A1"]) * (p["B2"] @ p["A2"])  # O I
    return y + x @ update.T.to(x.dtype)


VARIANT = Variant(
    name="loha",
    axis=Axis.RANK,
    category="expansion",
    paper="2108.06098",
    knobs=lora.PAIR_KNOBS,
    trainable="2 * r * (I + O)",
    init=init,
    forward=forward,
)
