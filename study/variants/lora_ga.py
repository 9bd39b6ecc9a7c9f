"""LoRA-GA: LoRA whose first step is closest to a full gradient step (Wang et al. 2024, arXiv:2407.05000, algorithm 1).

"Stable" scale, s = alpha / sqrt r. The peft library gives gamma to B alone, which it also multiplies by the singular
values of the gradient.
"""

from study.space import Levels, LogFloat, named
from study.variants import lora, rslora
from study.variants.base import Axis

OWN = (Levels("rank", (2, 4, 8, 16), default=8), LogFloat("gamma", 4, 256, default=16))  # 2 r triplets of a layer

VARIANT = lora.VARIANT._replace(
    name="lora_ga",
    axis=Axis.INITIALIZATION,
    category="from the data",
    paper="2407.05000",
    knobs=tuple(named((*lora.PAIR_KNOBS, *OWN)).values()),
    scaling=rslora.VARIANT.scaling,
    fixed={"init": "lora_ga"},
)
