"""What a mirror that is down costs a study: the same study with no tracker and with an MLflow server that is not there.

The tiny model logs most per second of training, so it is the hardest case.
"""

import json
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.end_to_end import Search, document
from benchmarks.processes import finish
from benchmarks.rates import spread
from benchmarks.work import cell

CELL = "tiny-8"
ORDER = ("null", "down", "down", "null")
ESTIMATE = 20.0 * len(ORDER)  # seconds


def measure(place: Path, trials: int, steps: int) -> dict[str, Any]:
    """Wall and CPU seconds with and without, and by how much their medians differ."""
    asked = Search(cell(CELL), 1, {}, trials, steps)
    found: dict[str, list[dict[str, float]]] = {"null": [], "down": []}
    for tracker in ORDER:
        found[tracker].append(_once(asked, place, tracker))
    sides = {name: {unit: spread([run[unit] for run in runs]) for unit in runs[0]} for name, runs in found.items()}
    costs = {unit: sides["down"][unit]["median"] / sides["null"][unit]["median"] - 1 for unit in ("wall", "cpu")}
    return {"cell": CELL, "trials": trials, "steps": steps, "sides": sides, "costs": costs}


def _once(asked: Search, place: Path, tracker: str) -> dict[str, float]:
    uri = "null" if tracker == "null" else f"http://127.0.0.1:{_closed_port()}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(json.dumps(document(asked, place)))
        command = [sys.executable, "-m", "benchmarks.launch", str(file), str(Path(folder) / "home"), uri]
        return json.loads(finish(command).output)


def _closed_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
