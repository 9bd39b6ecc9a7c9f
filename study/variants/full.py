"""Full fine-tuning: every linear, norm and embedding layer learns; the reference above every method."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from study.optim import ADAMW_KNOBS
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """The trial's own copy of the layer: weight, and bias where it has one."""
    return {name: parameter.detach().clone() for name, parameter in site.layer.named_parameters()}


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """The layer with the trial's own weights."""
    own = {name: leaf.to(site.W.dtype) for name, leaf in p.items()}
    if isinstance(site.layer, nn.Embedding):  # its padding row would be one row of one trial under the lift
        return F.embedding(x, own["weight"])
    return functional_call(site.layer, own, (x,))


def own(variant: Variant, site: Site, p: Leaves, h: Lifted) -> tuple[Tensor, Tensor | None]:
    """A layer that is the trial's own needs no merging."""
    return p["weight"], p.get("bias")


VARIANT = Variant(
    name="full",
    axis=Axis.BASELINE,
    category="reference",
    paper="",
    knobs=ADAMW_KNOBS,
    trainable="W + b",
    init=init,
    forward=forward,
    scaling=lambda h: 1.0,
    sites="all",
    reads_output=False,
    merge=own,
)
