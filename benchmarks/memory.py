"""What K = 8 trials of MiniLM hold in memory: one pack in one process, or eight peft processes alive together."""

from pathlib import Path
from typing import Any

from benchmarks.processes import Crew
from benchmarks.work import PACK

CELL = "minilm-16"
RIVALS = ("peft",)  # of the two plain loops the one that holds less
ESTIMATE = 40.0  # seconds


def measure(place: Path) -> dict[str, Any]:
    """Peak proportional set size in bytes, summed over the processes of each side while all of them are alive."""
    found = {side: _held(side, place, PACK) for side in RIVALS} | {"ours": _held("ours", place, 1)}
    return {"cell": CELL, "pss": found, "share": found["ours"] / min(found[side] for side in RIVALS)}


def _held(side: str, place: Path, processes: int) -> int:
    with Crew(side, CELL, place, processes) as crew:
        crew.wait()
        return crew.train(0.0).pss
