"""Our side: a pack of K trials on a frozen model, both built by a worker's own code."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from torch import Tensor

from benchmarks.work import ALPHA, LENGTH, RANK, RATE, SHAPES, Batch, Cell, Device
from study.frozen import Frozen
from study.pack import Pack
from study.part import Member
from study.planner import fastest
from study.space import Value
from study.spec import Budget, Compute, DataSpec, TaskSpec
from study.variants import variant
from study.worker import COMPUTE_DTYPES, Bench, Setup
from trackers.null import Null

# The rivals neither schedule nor clip.
HOLD: dict[str, Value] = {"schedule": "constant", "warmup": 0.0, "max_grad_norm": 100.0}
LORA = variant("lora")

Dtype = Literal["fp32", "bf16"]


def compute(dtype: Dtype, together: bool = True, device: Device = "cpu") -> Compute:
    """How the pack computes; not `together`: what a step can leave out or do once for all trials is done in full."""
    switches = dict.fromkeys(("share_batches", "unpad", "skip_unread", "cache_prefix"), together)
    return Compute.model_validate({"device": device, "dtype": dtype} | switches)


def task(cell: Cell, place: Path) -> TaskSpec:
    """The cell's work on the files in `place`."""
    budget = Budget(batch_size=cell.batch, length=LENGTH)
    model, data = str(place / cell.shape), DataSpec(path=str(place / "data"))
    return TaskSpec(task="classification", model=model, data=data, budget=budget, targets=cell.targets)


def frozen(cell: Cell, place: Path, asked: Compute) -> tuple[Frozen, Callable[[Tensor, Tensor], Tensor]]:
    """The model as a worker loads it, and the loss of one example."""
    setup = Setup(f"sqlite:///{place / 'ledger.db'}", place / "cache", Null, {})
    prepared, model = Bench(setup).task(task(cell, place), asked)
    return model, prepared.loss


def planned(cell: Cell, asked: Compute) -> int:
    """Trials of a pack with `pack_size: auto`, where memory is not short."""
    widest = cell.batch * LENGTH * COMPUTE_DTYPES[asked.dtype].itemsize * SHAPES[cell.shape].ff
    return fastest(widest, asked)


def member(rate: float) -> Member:
    """A trial of seed 0."""
    values: dict[str, Value] = {knob.name: knob.default for knob in LORA.knobs}
    values |= {"learning_rate": rate, "rank": RANK, "alpha": ALPHA, **HOLD}
    return Member(0, values)


def members(K: int) -> list[Member]:
    """K trials that differ in their learning rate."""
    return [member(RATE * (1 + k / K)) for k in range(K)]


def stepper(pack: Pack, asked: Compute) -> Callable[[Batch], Tensor]:
    """One training step of every trial on the same examples: K losses."""

    def step(batch: Batch) -> Tensor:
        if asked.share_batches:
            return pack.step(batch, shared=True)[0]
        inputs, labels = batch
        apart = {name: value.repeat(pack.K, 1) for name, value in inputs.items()}
        return pack.step((apart, labels.repeat(pack.K)))[0]

    return step
