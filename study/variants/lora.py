"""LoRA: a low-rank update B A beside a frozen weight (Hu et al. 2021, arXiv:2106.09685)."""

from torch import Tensor

from study.optim import ADAMW_KNOBS
from study.space import Choice, Levels, LogFloat
from study.variants import inits
from study.variants.base import Axis, Leaves, Lifted, Site, Variant, low_rank

RANK = Levels("rank", (2, 4, 8, 16, 32), default=8)
PAIR_KNOBS = (*ADAMW_KNOBS, RANK, LogFloat("alpha", 1, 128, default=16))
DRAWN = ("kaiming", "gaussian", "orthogonal", "nonzero")  # what `init` varies over unless a spec lists others
KNOBS = (*PAIR_KNOBS, Choice("init", DRAWN, "kaiming", allowed=tuple(inits.INITS)))


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + s B A x."""
    return y + low_rank(x, p, h["scale"])


VARIANT = Variant(
    name="lora",
    axis=Axis.BASELINE,
    category="low-rank update",
    paper="2106.09685",
    knobs=KNOBS,
    trainable="r * (I + O)",
    init=inits.pair,
    forward=forward,
    frozen=frozenset({"A0", "B0"}),
    starts_off=inits.starts_off,
    needs=inits.needs,
    pack_key=inits.has_start,
)
