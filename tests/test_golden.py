"""A key stands for a number: where training gives other numbers than before, TRAINING_VERSION must be bumped."""

import pytest

from study.trial import TRAINING_VERSION
from study.variants import VARIANTS
from tests import small

# The four losses of the tenth step, by version and variant. A new version adds its own; old ones stay as history.
GOLDEN: dict[int, dict[str, list[float]]] = {
    1: {
        "head_only": [1.106595070269, 1.083345196918, 1.060676878766, 1.099446626615],
        "full": [1.104350817913, 1.088021582704, 1.258744579475, 1.104871778511],
        "layer_norm": [1.106266620841, 1.08307626968, 1.058851135826, 1.099610478165],
        "lora": [1.106576111231, 1.083322595972, 1.060488867566, 1.099499522497],
        "rslora": [1.106568243307, 1.083300437791, 1.060153365743, 1.099595995333],
        "lora_plus": [1.106287830788, 1.083014809015, 1.058101200057, 1.100281621433],
        "dora": [1.106574397625, 1.0833187243, 1.060425369928, 1.099500314528],
        "pissa": [1.106586511438, 1.083340520203, 1.060730304777, 1.099481720898],
    }
}


@pytest.mark.parametrize("name", VARIANTS)
def test_training_gives_the_numbers_of_this_version(name: str) -> None:
    losses = small.go(small.start(VARIANTS[name], small.members(VARIANTS[name])), 10)[-1]
    assert losses.tolist() == pytest.approx(GOLDEN[TRAINING_VERSION][name], abs=1e-9), "bump TRAINING_VERSION"
