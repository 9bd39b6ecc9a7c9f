"""LoRA+: B learns faster than A by a fixed ratio (Hayou et al. 2024, arXiv:2402.12354, section 4)."""

from study import optim
from study.optim import Transform
from study.space import LogFloat
from study.variants import lora
from study.variants.base import Axis, Lifted

KNOBS = (*lora.KNOBS, LogFloat("b_over_a", 1, 64, default=16))


def optimizer(h: Lifted) -> Transform:
    """AdamW, the step of B multiplied by lambda = b_over_a."""
    return optim.chain(optim.adamw(h), optim.scale_leaf("B", h["b_over_a"]))


VARIANT = lora.VARIANT._replace(
    name="lora_plus",
    axis=Axis.OPTIMIZATION,
    category="learning rate",
    paper="2402.12354",
    knobs=KNOBS,
    optimizer=optimizer,
)
