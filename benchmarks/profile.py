"""Where the time of a packed step goes: one K = 8 step of MiniLM, batch 8, bf16, by group of operators.

python -m benchmarks.profile [CELL]
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmarks import ours
from benchmarks.files import make_files
from benchmarks.work import PACK, batches, begin, cell
from study.pack import Pack

STEPS = 10
GROUPS = {
    "matrix products of the frozen layers": ("aten::mm", "aten::addmm"),
    "batched products: low rank, attention": ("aten::bmm", "aten::baddbmm"),
    "GELU": ("aten::gelu", "aten::gelu_backward"),
    "layer norm": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "softmax": ("aten::_softmax", "aten::_softmax_backward_data"),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::index", "aten::index_select", "aten::gather"),
    "sums and products, entry by entry": (
        "aten::add",
        "aten::add_",
        "aten::mul",
        "aten::mul_",
        "aten::div",
        "aten::sum",
    ),
}


def shares(name: str, steps: int) -> dict[str, float]:
    """The share of CPU time of each group, and of everything else."""
    asked, way = cell(name), ours.compute("bf16")
    with tempfile.TemporaryDirectory() as folder:
        frozen, loss = ours.frozen(asked, make_files(Path(folder), [asked.shape]), way)
    step, data = ours.stepper(Pack(frozen, ours.LORA, ours.members(PACK), 1, loss), way), batches(asked)
    for batch in data[:3]:
        step(batch)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for batch in data[:steps]:
            step(batch)
    group = {operator: name for name, operators in GROUPS.items() for operator in operators}
    found: Counter[str] = Counter()
    for event in recorded.key_averages():
        found[group.get(event.key, "everything else")] += event.self_cpu_time_total
    return {name: time / found.total() for name, time in found.most_common()}


def main() -> None:
    begin()
    for name, share in shares(sys.argv[1] if len(sys.argv) > 1 else "minilm-8", STEPS).items():
        print(f"{share:6.1%}  {name}")


if __name__ == "__main__":
    main()
