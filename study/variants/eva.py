"""EVA: LoRA along the principal directions of a layer's inputs, ranks where they explain most (arXiv:2410.07170).

Paischer et al. 2024, section 3. The inputs are decomposed as they are, where the peft library centers them first. s is
alpha / r at every layer, whatever its own rank, as peft's adjusted scale is; `trainable` is the mean over layers alike.
"""

from study.space import Levels
from study.variants import lora
from study.variants.base import Axis

VARIANT = lora.VARIANT._replace(
    name="eva",
    axis=Axis.INITIALIZATION,
    category="from the data",
    paper="2410.07170",
    knobs=(*lora.PAIR_KNOBS, Levels("rho", (1.0, 2.0), default=2.0)),
    fixed={"init": "eva"},
)
