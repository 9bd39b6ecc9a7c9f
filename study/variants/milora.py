"""MiLoRA: LoRA that starts from the minor singular triplets of W (Wang et al. 2024, arXiv:2406.09044)."""

from study.variants import lora
from study.variants.base import Axis

VARIANT = lora.VARIANT._replace(
    name="milora",
    axis=Axis.INITIALIZATION,
    category="from the weights",
    paper="2406.09044",
    knobs=lora.PAIR_KNOBS,
    fixed={"init": "milora"},
)
