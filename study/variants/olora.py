"""OLoRA: LoRA that starts from the orthonormal basis of a QR of W (Büyükakyüz 2024, arXiv:2406.01775, algorithm 1).

The start is s Q_r R_r and is taken off as such: s multiplies it, where PiSSA and MiLoRA divide it out.
"""

from study.variants import lora
from study.variants.base import Axis

VARIANT = lora.VARIANT._replace(
    name="olora",
    axis=Axis.INITIALIZATION,
    category="from the weights",
    paper="2406.01775",
    knobs=lora.PAIR_KNOBS,
    fixed={"init": "olora"},
)
