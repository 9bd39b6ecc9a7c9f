"""Head only: nothing is adapted, the task's head learns; the reference below every method.

Every pack trains its heads by this file's `HEAD`: a head is whatever the checkpoint lacks, one copy per trial.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from study.optim import ADAMW_KNOBS
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant

HEAD_STD = 0.02  # what the transformers library draws new layers with


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """weight: O I normal, bias: O zero where the layer has one."""
    weight = torch.randn(site.O, site.I, generator=generator) * HEAD_STD
    return {"weight": weight} if site.bias is None else {"weight": weight, "bias": torch.zeros(site.O)}


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """The trial's own layer."""
    bias = p["bias"].to(x.dtype) if "bias" in p else None
    return F.linear(x, p["weight"].to(x.dtype), bias)


HEAD = Variant(
    name="head",
    axis=Axis.BASELINE,
    category="reference",
    paper="",
    knobs=ADAMW_KNOBS,
    trainable="0",
    init=init,
    forward=forward,
    scaling=lambda h: 1.0,
    reads_output=False,
)

VARIANT = HEAD._replace(
    name="head_only", init=lambda site, h, generator: {}, forward=lambda x, y, site, p, h: y, reads_output=True
)
