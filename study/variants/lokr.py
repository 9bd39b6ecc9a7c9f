"""LoKr: the update is the Kronecker product of a small matrix and a low-rank one (Yeh et al. 2023, arXiv:2309.14859).

With the authors' start (peft's "lycoris"; peft's default has C = 0 instead). The second factor is a product at every
rank; LyCORIS and peft keep it whole from half its longer side on, where the product no longer saves much.
"""

import torch
from torch import Tensor

from study.space import Levels
from study.variants import lora
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant
from study.variants.blocks import sides
from study.variants.inits import uniform

KNOBS = (*lora.PAIR_KNOBS, Levels("factor", (4, 8, 16), default=8))


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """C: F F and B: O/F R, uniform; A: R I/F, zero. Raises BadInput where the factor does not divide the layer."""
    factor, rank = int(h["factor"]), int(h["rank"])
    outputs, inputs = sides(site, factor, "factor")
    return {
        "C": uniform(generator, factor, factor),
        "A": torch.zeros(rank, inputs),
        "B": uniform(generator, outputs, rank),
    }


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + s (C kron B A) x, without forming the matrix."""
    A, B, C = (p[name].to(x.dtype) for name in "ABC")
    inner = h["scale"] * (x.reshape(len(x), len(C), -1) @ A.T)  # N F R
    return y + ((C @ inner) @ B.T).flatten(1)


VARIANT = Variant(
    name="lokr",
    axis=Axis.RANK,
    category="expansion",
    paper="2309.14859",
    knobs=KNOBS,
    trainable="factor * factor + r * (I + O) // factor",
    init=init,
    forward=forward,
    pack_key=lambda h: h["factor"],
)
