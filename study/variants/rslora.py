"""rsLoRA: scaled by alpha / sqrt r, so that a larger rank is no smaller step (arXiv:2312.03732, theorem 3.2)."""

from study.variants import lora
from study.variants.base import Axis

VARIANT = lora.VARIANT._replace(
    name="rslora",
    axis=Axis.OPTIMIZATION,
    category="scale",
    paper="2312.03732",
    scaling=lambda h: h["alpha"] / h["rank"] ** 0.5,
)
