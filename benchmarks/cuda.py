"""On a CUDA device: a pack of 32 against the loop of one process per trial, trial-steps per second.

python -m benchmarks.cuda [--seconds 20] [--pairs 5]
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.files import make_files
from benchmarks.rates import spread
from benchmarks.sides import SIDES, side, turn
from benchmarks.work import begin, cell

CELLS = ("minilm-8", "minilm-16", "roberta-base-8", "roberta-base-16")
RIVALS = ("peft", "peft-bf16-sdpa")
K = 32


def main() -> int:
    """Exit codes: 0 done, 2 where there is no CUDA device."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda")
    parser.add_argument("--seconds", type=float, default=20.0, help="a side, of a pair")
    parser.add_argument("--pairs", type=int, default=5)
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: no CUDA device is present; this measures one", file=sys.stderr)
        return 2
    begin()
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        place = make_files(Path(folder), {cell(name).shape for name in CELLS})
        for name in CELLS:
            for rival in RIVALS:
                measure(name, rival, place, asked.seconds, asked.pairs)
    return 0


def measure(name: str, rival: str, place: Path, seconds: float, pairs: int) -> None:
    """Turn about, both sides warm in this process; prints a line."""
    runs = {one: side(one, cell(name), place, "cuda", K) for one in (rival, "ours")}
    for run in runs.values():
        run.go(seconds / 10)
    found = [{one: turn(run, seconds)["rate"] for one, run in runs.items()} for _ in range(pairs)]
    ratio = spread([pair["ours"] / pair[rival] for pair in found])
    rates = ", ".join(f"{SIDES[one]} {spread([pair[one] for pair in found])['median']:.1f}" for one in runs)
    print(f"{name}: {rates}; ratio {ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
