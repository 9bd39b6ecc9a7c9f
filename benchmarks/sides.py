"""Who is measured, and the process that one of them trains in.

    python -m benchmarks.sides SIDE CELL FOLDER

builds that side of the cell on the files in FOLDER, warms up and prints how many trials it trains at once; then each
line on stdin is a number of seconds to train for, answered with trial-steps per second and per CPU second and with the
memory held (bytes, proportional set size), all as JSON.

A side imports what its users would: no rival loads lorascope's code, and lorascope loads no rival's.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor

from benchmarks.work import ALPHA, LENGTH, PACK, RANK, RATE, SHAPES, Batch, Cell, Device, batches, begin, cell

WARM_SECONDS, LEAST_STEPS = 0.5, 3

SIDES = {
    "peft": "(a) peft, fp32",
    "peft-bf16": "(b) peft, bf16 autocast, eager attention",
    "peft-bf16-weights": "(b') peft, bf16 weights, eager attention",
    "peft-bf16-sdpa": "peft, bf16 autocast, sdpa",
    "trainer": "(c) HF Trainer + peft, fp32",
    "ours": "lorascope, bf16",
    "ours-auto": "lorascope, bf16, pack size auto",
    "ours-apart": "lorascope, bf16, sharing and unpadding off",
    "gemm-fp32": "matrix products alone, fp32",
    "gemm-bf16": "matrix products alone, bf16",
}


class Run(NamedTuple):
    """A side, ready to train."""

    trials: int  # at once
    go: Callable[[float], tuple[int, float]]  # seconds to train for -> steps done, seconds they took


def side(name: str, cell: Cell, place: Path, device: Device = "cpu", K: int = PACK) -> Run:
    """That side of the cell, on the files in `place`; K: trials of our pack."""
    if name.startswith("gemm"):
        return gemm(cell, K, {"gemm-fp32": torch.float32, "gemm-bf16": torch.bfloat16}[name])
    return ours(name, cell, place, device, K) if name.startswith("ours") else rival(name, cell, place, device)


def rival(name: str, cell: Cell, place: Path, device: Device) -> Run:
    """One trial of HF peft."""
    from benchmarks import rivals

    way = rivals.WAYS[name]
    model = rivals.adapted(place / cell.shape, cell.targets, RANK, ALPHA, way).to(device)
    data = moved(batches(cell), device)
    if name == "trainer":
        return Run(1, rivals.trainer_run(model, data, RATE))
    return Run(1, timed(rivals.stepper(model, RATE, way.autocast), data))


def ours(name: str, cell: Cell, place: Path, device: Device, K: int) -> Run:
    """A pack of K trials, or of as many as are planned."""
    from benchmarks import ours
    from study.pack import Pack

    asked = ours.compute("bf16", name != "ours-apart", device)
    frozen, loss = ours.frozen(cell, place, asked)
    trials = ours.planned(cell, asked) if name == "ours-auto" else K
    pack = Pack(frozen, ours.LORA, ours.members(trials), 1, loss)
    return Run(trials, timed(ours.stepper(pack, asked), moved(batches(cell), device)))


def gemm(cell: Cell, K: int, dtype: torch.dtype) -> Run:
    """The matrix products of K trial-steps alone: each linear layer forward, and its input gradient.

    As many rows as the longest batch of a pack has; a shorter one is faster by as much as it has fewer tokens.
    """
    shape, rows = SHAPES[cell.shape], K * cell.batch * LENGTH
    layers = [(torch.randn(rows, I).to(dtype), torch.randn(O, I).to(dtype)) for I, O in shape.products]

    def step(batch: Batch) -> Tensor:
        for _ in range(shape.layers):
            for x, W in layers:
                (x @ W.T) @ W
        return x

    return Run(K, timed(step, batches(cell)))


def moved(data: Sequence[Batch], device: str) -> list[Batch]:
    """The batches where the model is."""
    return [({name: value.to(device) for name, value in inputs.items()}, y.to(device)) for inputs, y in data]


def timed(step: Callable[[Batch], Tensor], data: Sequence[Batch]) -> Callable[[float], tuple[int, float]]:
    """Steps on one batch after another until the time is up; what a device still has to do counts."""
    source = cycle(data)

    def go(seconds: float) -> tuple[int, float]:
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds or steps < LEAST_STEPS:
            last = step(next(source))
            steps += 1
            if last.is_cuda:
                torch.cuda.synchronize()
        return steps, time.perf_counter() - began

    return go


def turn(run: Run, seconds: float) -> dict[str, float]:
    """Train for so long. The allocator gives nothing back, so what is held at the end is the peak."""
    before = time.process_time()
    steps, took = run.go(seconds)
    rates = {"rate": steps * run.trials / took, "cpu_rate": steps * run.trials / (time.process_time() - before)}
    return rates | {"pss": psutil.Process().memory_full_info().pss}


def main() -> None:
    name, where, place = sys.argv[1:]
    begin()
    run = side(name, cell(where), Path(place))
    run.go(WARM_SECONDS)
    print(json.dumps({"trials": run.trials}), flush=True)
    for line in sys.stdin:
        print(json.dumps(turn(run, float(line))), flush=True)


if __name__ == "__main__":
    main()
