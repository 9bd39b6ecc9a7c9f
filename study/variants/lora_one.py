"""LoRA-One: LoRA that starts with a descent step, the gradient's best of rank r (Zhang et al. 2025, arXiv:2502.01235).

W + s B A with s = alpha / sqrt r is where training begins: the step is kept, so the first loss is not the base model's.
The preconditioner that the paper can put before AdamW is left out.
"""

from study.space import LogFloat
from study.variants import lora, rslora
from study.variants.base import Axis

VARIANT = lora.VARIANT._replace(
    name="lora_one",
    axis=Axis.INITIALIZATION,
    category="from the data",
    paper="2502.01235",
    knobs=(*lora.PAIR_KNOBS, LogFloat("gamma", 16, 1024, default=128)),
    scaling=rslora.VARIANT.scaling,
    fixed={"init": "lora_one"},
)
