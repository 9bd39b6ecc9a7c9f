"""NZLoRA: LoRA whose A and B both start at random, known as Init[AB] too (arXiv:2505.23194, arXiv:2602.04998).

The start is taken off, so that the trial begins at the base model; 2505.23194 finds that it need not.
"""

from study.variants import lora
from study.variants.base import Axis

VARIANT = lora.VARIANT._replace(
    name="nzlora",
    axis=Axis.INITIALIZATION,
    category="random, not zero",
    paper="2505.23194",
    knobs=lora.PAIR_KNOBS,
    fixed={"init": "nonzero"},
)
