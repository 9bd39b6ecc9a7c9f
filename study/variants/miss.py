"""MiSS: one trained shard D that all r-wide shards of W's inputs share (Kang and Yin 2024, arXiv:2409.15371).

The efficient form, D times the sum of the input's shards: peft's default, without its "bat" and "mini".
"""

import torch
from torch import Tensor

from study.optim import ADAMW_KNOBS
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant
from study.variants.lora import RANK

KNOBS = (*ADAMW_KNOBS, RANK)


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """D: R O, zero: its gradient is not."""
    return {"D": torch.zeros(int(h["rank"]), site.O)}


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + D' S x: LoRA whose A is the frozen 0/1 matrix S: R I that adds up the shards."""
    D = p["D"].to(x.dtype)
    S = torch.arange(site.I, device=x.device) % h["rank"] == torch.arange(len(D), device=x.device)[:, None]
    return y + (x @ S.T.to(x.dtype)) @ D


VARIANT = Variant(
    name="miss",
    axis=Axis.BASELINE,
    category="reference",
    paper="2409.15371",
    knobs=KNOBS,
    trainable="r * O",
    init=init,
    forward=forward,
    scaling=lambda h: 1.0,
)
