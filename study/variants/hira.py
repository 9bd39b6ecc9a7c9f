"""HiRA: the low-rank update multiplies W entry by entry, so that it may have full rank (Huang et al., ICLR 2025).

OpenReview TwJrTz9cRS. The update is W * (B A) without a scale, as in the authors' code and in peft: there is no alpha.
"""

from torch import Tensor

from study.variants import lora
from study.variants.base import Axis, Leaves, Lifted, Site

KNOBS = tuple(knob for knob in lora.KNOBS if knob.name != "alpha")


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + (W * B A) x."""
    return y + x @ (site.W * product(p).to(x.dtype)).T


def product(p: Leaves) -> Tensor:
    """B A: O I, less B0 A0 where the init takes its start off, in `low_rank`'s form that loses no small difference."""
    if "A0" not in p:
        return p["B"] @ p["A"]
    return (p["B"] - p["B0"]) @ p["A"] + p["B0"] @ (p["A"] - p["A0"])


VARIANT = lora.VARIANT._replace(
    name="hira",
    axis=Axis.RANK,
    category="expansion",
    paper="OpenReview TwJrTz9cRS",
    knobs=KNOBS,
    forward=forward,
    scaling=lambda h: 1.0,
)
