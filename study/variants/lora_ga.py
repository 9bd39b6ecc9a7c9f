"""LoRA-GA: LoRA whose first step is closest to a full gradient step (Wang et al. 2024, arXiv:2407.05000, algorithm 1).

"Stable" scale, s = alpha / sqrt r. The peft library gives gamma to B alone, which it also multiplies by
the singular values of the gradient.
"""

from study.space import LogFloat
from study.variants import lora, rslora
from study.variants.base import Axis

VARIANT = lora.VARIANT._replace(
    name="lora_ga",
    axis=Axis.INITIALIZATION,
    category="from the data",
    paper="2407.05000",
    knobs=(*lora.PAIR_KNOBS, LogFloat("gamma", 4, 256, default=16)),
    scaling=rslora.VARIANT.scaling,
    fixed={"init": "lora_ga"},
)
