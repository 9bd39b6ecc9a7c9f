"""A key stands for a number: where training gives other numbers than before, TRAINING_VERSION must be bumped."""

import pytest

from study.trial import TRAINING_VERSION
from study.variants import VARIANTS
from tests import small

# The four losses of the tenth step, by version and variant. A new version adds its own; old ones stay as history.
GOLDEN: dict[int, dict[str, list[float]]] = {
    1: {
        "head_only": [1.100484468647, 1.096888504945, 1.045349437834, 1.092916625218],
        "lora": [1.100476769108, 1.096909300417, 1.045330796044, 1.092929936538],
        "rslora": [1.100494423399, 1.09681758204, 1.045409217981, 1.092964900377],
        "lora_plus": [1.100466571518, 1.096478092729, 1.046221347938, 1.093128396341],
        "dora": [1.100488756884, 1.09682775266, 1.04527605129, 1.092930379517],
        "pissa": [1.100484865721, 1.096877860534, 1.045372235048, 1.092932596816],
    }
}


@pytest.mark.parametrize("name", VARIANTS)
def test_training_gives_the_numbers_of_this_version(name: str) -> None:
    losses = small.go(small.start(VARIANTS[name], small.members(VARIANTS[name])), 10)[-1]
    assert losses.tolist() == pytest.approx(GOLDEN[TRAINING_VERSION][name], abs=1e-9), "bump TRAINING_VERSION"
