"""(IA)^3: a learned factor for every output of a frozen layer (Liu et al. 2022, arXiv:2205.05638, section 3.3).

Every target's outputs are rescaled, bias included: the paper's form for keys and values. The paper also rescales the
hidden units of the feed-forward after their activation, which are inputs of its second layer; the peft library rescales
the inputs of the layers it is told are feed-forward, and here a target's inputs never are.
"""

import torch
from torch import Tensor

from study.optim import ADAMW_KNOBS
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """l: O ones."""
    return {"l": torch.ones(site.O)}


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """l (W x + bias), elementwise."""
    return y * p["l"].to(y.dtype)


VARIANT = Variant(
    name="ia3",
    axis=Axis.BASELINE,
    category="reference",
    paper="2205.05638",
    knobs=ADAMW_KNOBS,
    trainable="O",
    init=init,
    forward=forward,
    scaling=lambda h: 1.0,
)
