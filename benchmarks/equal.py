"""Equal work: from one start and on the same batches, each rival's losses and ours agree, or nothing is measured."""

from pathlib import Path

import torch
from peft import PeftModel

from benchmarks import ours
from benchmarks.rivals import WAYS, adapted, stepper
from benchmarks.work import ALPHA, RANK, RATE, Cell, batches
from study.pack import Pack

SHAPE, CELL, STEPS = "tiny", Cell("tiny", 8), 20
RATES = (RATE, 3 * RATE)
# The largest difference of a loss over all steps. In bf16 the two round in different places.
TOLERANCE = {"peft": 1e-3, "peft-bf16": 1e-2}
DTYPES: dict[str, ours.Dtype] = {"peft": "fp32", "peft-bf16": "bf16"}


class Unequal(Exception):
    """The two sides did not train alike: their speeds say nothing."""


def check(place: Path, steps: int = STEPS) -> dict[str, float]:
    """The largest difference of a loss, by rival. Raises Unequal where it is beyond its tolerance."""
    found = {side: difference(side, CELL, place, steps) for side in TOLERANCE}
    for side, value in found.items():
        if not value <= TOLERANCE[side]:
            raise Unequal(f"losses of {side} and lorascope differ by {value:.2g}, allowed is {TOLERANCE[side]:g}")
    return found


def difference(side: str, asked: Cell, place: Path, steps: int) -> float:
    """The largest |our loss - theirs| over the steps and over a pack's trials, each of which a rival trains alone."""
    trials, data, way = [ours.member(rate) for rate in RATES], batches(asked), ours.compute(DTYPES[side])
    frozen, loss = ours.frozen(asked, place, way)
    pack = Pack(frozen, ours.LORA, trials, 1, loss)
    theirs = [_losses(side, asked, place, pack, k, steps) for k in range(len(trials))]
    step = ours.stepper(pack, way)
    mine = torch.stack([step(data[t]) for t in range(steps)], 1)  # K, steps
    return float((mine.float() - torch.tensor(theirs)).abs().max())


def _losses(side: str, asked: Cell, place: Path, pack: Pack, k: int, steps: int) -> list[float]:
    way, data = WAYS[side], batches(asked)
    model = adapted(place / asked.shape, asked.targets, RANK, ALPHA, way)
    _start_as(model, pack, k)
    step = stepper(model, RATES[k], way.autocast)
    return [step(data[t]).item() for t in range(steps)]


def _start_as(model: PeftModel, pack: Pack, k: int) -> None:
    """Give peft the adapters and the head of our trial k."""
    names = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}
    with torch.no_grad():
        for part in pack.parts:
            for (site, leaf), value in part.leaves(k).items():
                layer = model.get_submodule(f"base_model.model.{site}")
                name = names.get(leaf, f"modules_to_save.default.{leaf}")
                layer.get_parameter(name).copy_(value)
