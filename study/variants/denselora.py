"""DenseLoRA: an r x r matrix a layer between an encoder and a decoder of its kind (Mu et al. 2025, arXiv:2505.23808).

Where the nonlinearity stands and that it is GELU are the released code's.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from study.variants import inits
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant, refuses
from study.variants.lora import PAIR_KNOBS
from study.variants.rasa import by_kind


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """M: R R, uniform in +-1/sqrt(R)."""
    rank = int(h["rank"])
    return {"M": inits.uniform(generator, rank, rank)}


def shared(sites: Sequence[Site], h: Plain, generator: torch.Generator) -> Leaves:
    """The encoder A: R I, Kaiming, and the decoder B: O R, zero."""
    return inits.kaiming(sites[0], h, generator)


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + s gelu(B M gelu(A x))."""
    A, M, B = (p[name].to(x.dtype) for name in ("A", "M", "B"))
    return y + h["scale"] * F.gelu(F.gelu(x @ A.T) @ M.T @ B.T)


VARIANT = Variant(
    name="denselora",
    axis=Axis.RANK,
    category="sharing",
    paper="2505.23808",
    knobs=PAIR_KNOBS,
    trainable="r * r",
    init=init,
    forward=forward,
    shared=shared,
    group=by_kind,
    trainable_shared="r * (I + O)",
    merge=refuses("gelu stands before and behind M"),
)
