"""How often do the 95 % intervals of the analyses hold the truth, and how often are the tests right?

    python -m benchmarks.calibrate [--studies N] [--only CASE] [--jobs 2] [--markdown docs/calibration.md]

Simulates studies whose answers are known, analyses each, and writes the table. About 36 core-minutes for all cases.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks.calibration import Result, page, tallies
from benchmarks.cases import CASES, Outcome, outcome
from study.errors import BadInput
from study.hardware import provenance


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 bad input."""
    asked = parser().parse_args(arguments)
    try:
        names = chosen(asked.only)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come: one thread each
    with ProcessPoolExecutor(asked.jobs, get_context("spawn")) as pool:
        results = [calibrated(name, asked.studies, pool) for name in names]
    command = " ".join(["python -m benchmarks.calibrate", *(sys.argv[1:] if arguments is None else arguments)])
    text = page(results, provenance() | {"date": date.today().isoformat()}, command)
    if asked.markdown:
        asked.markdown.write_text(text)
    else:
        print(text)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.calibrate")
    found.add_argument("--studies", type=int, help="of every case; left out, each case has its own number")
    found.add_argument("--only", default="", metavar="CASE", help="run the cases whose name holds this")
    found.add_argument("--jobs", type=int, default=2, help="processes")
    found.add_argument("--markdown", type=Path, help="the page to write; left out, it is printed")
    return found


def chosen(part: str) -> list[str]:
    """The cases whose name holds `part`. Raises BadInput where there is none."""
    names = [name for name in CASES if part in name]
    if not names:
        raise BadInput("--only", f"no case is called {part!r}", "; ".join(CASES))
    return names


def calibrated(name: str, studies: int | None, pool: Executor) -> Result:
    """One case; more studies where its own number of them leaves a coverage undecided."""
    case = CASES[name]
    result = Result(name, run(name, range(studies or case.studies), pool))
    if studies is None and any(tally.undecided for tally in tallies(result)):
        result = Result(name, [*result.outcomes, *run(name, range(case.studies, case.most), pool)])
    print(f"{name}: {len(result.outcomes)} studies, {result.seconds:.2f} CPU s each", file=sys.stderr, flush=True)
    return result


def run(name: str, seeds: Iterable[int], pool: Executor) -> list[Outcome]:
    """A study for every seed."""
    return list(pool.map(partial(outcome, name), seeds, chunksize=5))


if __name__ == "__main__":
    sys.exit(main())
