"""LoRA-FA: A keeps its draw and B alone learns (Zhang et al. 2023, arXiv:2308.03303, section 3).

AdamW on B's own gradient, as the paper says. The optimizer of that name in the peft library is another method: it
multiplies the gradient of B by (A A')^-1 / s^2 first.
"""

from study.space import Choice
from study.variants import inits, lora
from study.variants.base import Axis

STARTS = tuple(start for start in inits.INITS if start != "nonzero")  # which is kaiming here: B counts from its start
DRAWN = tuple(start for start in lora.DRAWN if start in STARTS)
KNOBS = (*lora.PAIR_KNOBS, Choice("init", DRAWN, "kaiming", allowed=STARTS))

VARIANT = lora.VARIANT._replace(
    name="lora_fa",
    axis=Axis.OPTIMIZATION,
    category="freezing",
    paper="2308.03303",
    knobs=KNOBS,
    trainable="r * O",
    frozen=frozenset({"A", "A0", "B0"}),
)
