"""MoSLoRA: a trained r x r mixer between A and B, so that every pair of subspaces adds up (Wu et al. 2024).

arXiv:2406.11909. The mixer starts He-uniform, as in the authors' code, or orthogonal.
"""

import torch
from torch import Tensor

from study.space import Choice
from study.variants import inits, lora
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, low_rank
from study.variants.inits import uniform

KNOBS = (*lora.KNOBS, Choice("mixer", ("kaiming", "orthogonal"), "kaiming"))


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """LoRA's pair and the mixer M: R R, with a copy M0 where the pair has A0, B0."""
    pair, rank = inits.pair(site, h, generator), int(h["rank"])
    M = uniform(generator, rank, rank)
    if h["mixer"] == "orthogonal":
        torch.nn.init.orthogonal_(M, generator=generator)
    return pair | {"M": M} | ({"M0": M.clone()} if "A0" in pair else {})


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + s B M A x: LoRA with the rows of A mixed, those of its start too."""
    mixed = {"A": p["M"] @ p["A"]} | ({"A0": p["M0"] @ p["A0"]} if "M0" in p else {})
    return y + low_rank(x, p | mixed, h["scale"])


VARIANT = lora.VARIANT._replace(
    name="moslora",
    axis=Axis.RANK,
    category="expansion",
    paper="2406.11909",
    knobs=KNOBS,
    trainable="r * (I + O) + r * r",
    init=init,
    forward=forward,
    frozen=lora.VARIANT.frozen | {"M0"},
)
