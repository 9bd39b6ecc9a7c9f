"""Side by side with Optuna and HF peft: the same work, on one machine, in one run.

    python -m benchmarks [--seconds 20] [--pairs 5] [--cells NAME,...] [--skip PART,...] [--full]

Prints what it will do and how long that takes; writes DATE-MACHINE.json and .md after every step; prints the table.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import end_to_end, equal, memory, overheads, rates, table
from benchmarks.files import make_files
from benchmarks.work import begin, cell
from study.errors import BadInput
from study.hardware import provenance
from study.tasks.quiet import quiet

PARTS = ("rates", "end-to-end", "overheads", "memory")
RESULTS = Path(__file__).parent / "results"
QUIET_LOAD = 0.5  # processes; above it somebody else is measured too


class Step(NamedTuple):
    """One measurement to come."""

    part: str
    cell: str
    estimate: float  # seconds
    measure: Callable[[Path], dict[str, Any]]  # given the folder with all files


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the sides did not train alike, 2 bad input."""
    asked = parser().parse_args(arguments)
    try:
        run(asked, steps(asked))
    except (BadInput, equal.Unequal) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks")
    found.add_argument("--seconds", type=float, default=20.0, help="a side, of a pair of a required cell")
    found.add_argument("--pairs", type=int, default=5, help="of a required cell; others have at most 3")
    found.add_argument("--cells", type=_names, default=[], help="MODEL-BATCH or MODEL-BATCH-all, separated by commas")
    found.add_argument("--skip", type=_names, default=[], help=f"of {', '.join(PARTS)}, separated by commas")
    found.add_argument("--trials", type=int, default=100, help="of a search end to end")
    found.add_argument("--rival-trials", type=int, default=12, help="how many of them a rival runs")
    found.add_argument("--steps", type=int, default=100, help="of such a trial")
    found.add_argument("--full", action="store_true", help="every cell, and every search three times")
    found.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    return found


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def steps(asked: argparse.Namespace) -> list[Step]:
    """What will be measured, in order. Raises BadInput."""
    for part in asked.skip:
        if part not in PARTS:
            raise BadInput("--skip", f"unknown part {part!r}", ", ".join(PARTS))
    names = asked.cells or (rates.FULL if asked.full else (*rates.REQUIRED, *rates.EXTRA))
    found = [_rate(rates.plan(name, asked.seconds, asked.pairs)) for name in names]
    found += map(_search, end_to_end.searches(asked.trials, asked.rival_trials, asked.steps, asked.full))
    found += [_overheads(asked), Step("memory", memory.CELL, memory.ESTIMATE, memory.measure)]
    return [step for step in found if step.part not in asked.skip]


def _rate(plan: rates.Plan) -> Step:
    return Step("rates", plan.cell.name, plan.estimate, lambda place: rates.measure(plan, place))


def _search(one: end_to_end.Search) -> Step:
    return Step("end-to-end", one.cell.name, one.estimate, lambda place: end_to_end.measure(one, place))


def _overheads(asked: argparse.Namespace) -> Step:
    return Step(
        "overheads",
        overheads.CELL,
        overheads.ESTIMATE,
        lambda place: overheads.measure(place, asked.trials // 4, asked.steps),
    )


def run(asked: argparse.Namespace, planned: Sequence[Step]) -> None:
    """Check that both sides train alike, then measure. Raises equal.Unequal."""
    began, before = time.monotonic(), os.getloadavg()[0]
    for step in planned:
        _say(f"{step.part} {step.cell}: about {step.estimate:.0f} s")
    _say(f"about {sum(step.estimate for step in planned) / 60:.0f} minutes in all")
    if before > QUIET_LOAD:
        _say(f"warning: the load is {before:.2f}; on a busy machine the numbers mean little")
    begin()
    document: dict[str, Any] = {"about": about(), "command": _command(), "load": {"before": before}}
    with tempfile.TemporaryDirectory() as folder:
        place = make_files(Path(folder), {equal.SHAPE, *(cell(step.cell).shape for step in planned)})
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft reads a name that transformers has given up
            document["equal"] = equal.check(place)
        for step in planned:
            document.setdefault(step.part, []).append(step.measure(place))
            document["seconds"], document["load"]["after"] = time.monotonic() - began, os.getloadavg()[0]
            _save(document, asked.out)
            _say(f"{step.part} {step.cell}: done, {document['seconds']:.0f} s since the start")
    print(table.render(document))


def about() -> dict[str, str]:
    """When, where, and with what."""
    packages = {name: version(name) for name in ("peft", "accelerate", "psutil")}
    return {"date": date.today().isoformat()} | provenance() | packages


def _command() -> str:
    return " ".join(["python -m benchmarks", *sys.argv[1:]])


def _save(document: Mapping[str, Any], folder: Path) -> None:
    about = document["about"]
    machine = re.sub(r"[^a-z0-9]+", "-", about["machine"].lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{about['date']}-{machine}.json"
    file.write_text(json.dumps(document, indent=1) + "\n")
    file.with_suffix(".md").write_text(table.render(document))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
