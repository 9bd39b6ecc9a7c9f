"""PiSSA: LoRA that starts from the principal singular triplets of W (Meng et al. 2024, arXiv:2404.02948)."""

from study.variants import lora
from study.variants.base import Axis

VARIANT = lora.VARIANT._replace(
    name="pissa",
    axis=Axis.INITIALIZATION,
    category="from the weights",
    paper="2404.02948",
    knobs=lora.PAIR_KNOBS,
    fixed={"init": "pissa"},
)
