"""A whole search, from the command to the last score: Optuna that starts a process per trial, or one `launch`."""

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from benchmarks.ours import HOLD, task
from benchmarks.processes import Done, finish
from benchmarks.rates import PROCESSES, spread
from benchmarks.work import Cell, cell
from study import table
from study.home import Home
from study.ledger import Ledger

RANKS, ALPHAS, RATES = [4, 8, 16], [8.0, 32.0], [1e-4, 1e-2]  # what both searches vary
TARGETS = {"minilm-8": 2.0, "tiny-8": 4.0}  # ours over the best rival: the project's own

# The command line; its last line of output is the CPU its own process used, workers apart.
PROGRAM = """
import atexit, resource
from study.cli import main

def told():
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime)

atexit.register(told)
main()
"""


@dataclass(frozen=True)
class Search:
    """How much of a search is run: all of ours, part of each rival's."""

    cell: Cell
    ours: int  # times ours is run
    theirs: dict[str, tuple[int, int]]  # rival -> times, trials each time
    trials: int = 100
    steps: int = 100

    @property
    def estimate(self) -> float:
        """Seconds, from rates measured on two Zen 4 cores."""
        rates = {"tiny": {"ours": 320.0, "peft": 85.0, "peft-bf16": 110.0, "trainer": 80.0}}
        rates["minilm"] = {"ours": 40.0, "peft": 11.0, "peft-bf16": 20.0, "trainer": 11.0}
        mine = rates[self.cell.shape]
        ours = self.ours * (self.trials * self.steps / mine["ours"] + 15)
        return ours + sum(n * few * (self.steps / mine[side] + 2.5) for side, (n, few) in self.theirs.items())


def searches(trials: int, rival_trials: int, steps: int, full: bool) -> list[Search]:
    """Of MiniLM and of tiny, batch 8: three runs of (b), and unless `full` one short run of each slower rival.

    Ours takes minutes on MiniLM, so unless `full` it runs once there, after the first of the rival's runs.
    """
    return [
        Search(cell("minilm-8"), 3 if full else 1, _theirs(rival_trials, full, rival_trials // 6), trials, steps),
        Search(cell("tiny-8"), 3, _theirs(rival_trials, full, rival_trials // 3), trials, steps),
    ]


def _theirs(trials: int, full: bool, few: int) -> dict[str, tuple[int, int]]:
    slower = (3, trials) if full else (1, max(PROCESSES, few))
    return {"peft-bf16": (3, trials), "peft": slower, "trainer": slower}


def measure(asked: Search, place: Path) -> dict[str, Any]:
    """One search, as a document: seconds of a whole search of `trials`, rivals scaled to it."""
    mine: list[dict[str, float]] = []
    theirs: dict[str, list[float]] = {side: [] for side in asked.theirs}
    for i in range(max(asked.ours, *(times for times, _ in asked.theirs.values()))):
        for side, (times, few) in asked.theirs.items():
            if i < times:
                theirs[side].append(rival(side, asked, few, place) * asked.trials / few)
        if i < asked.ours:
            mine.append(ours(asked, place))
    walls = [one["wall"] for one in mine]
    best = min(theirs, key=lambda side: spread(theirs[side])["median"])
    return {
        "cell": asked.cell.name,
        "trials": asked.trials,
        "steps": asked.steps,
        "ours": spread(walls),
        "theirs": {side: spread(values) | {"ran": asked.theirs[side][1]} for side, values in theirs.items()},
        "ratios": {side: spread(_ratios(walls, values)) for side, values in theirs.items()},
        "best": best,
        "cpu": mine,
    }


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """Run by run; where ours ran less often, its last run stands for the rest."""
    return [other / ours[min(i, len(ours) - 1)] for i, other in enumerate(theirs)]


def rival(side: str, asked: Search, trials: int, place: Path) -> float:
    """Seconds that Optuna takes for so many trials, a process each, two at a time."""
    where = ["--model", str(place / asked.cell.shape), "--data", str(place / "data"), "--targets", asked.cell.targets]
    size = ["--batch", str(asked.cell.batch), "--steps", str(asked.steps)]

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", *RATES, log=True)
        alpha = trial.suggest_float("alpha", *ALPHAS, log=True)
        rank = trial.suggest_categorical("rank", RANKS)
        knobs = ["--rate", str(rate), "--alpha", str(alpha), "--rank", str(rank), "--seed", "0"]
        command = [sys.executable, "-m", "benchmarks.trial", "--side", side, *where, *size, *knobs]
        return float(finish(command).output)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    began = time.perf_counter()
    study.optimize(objective, n_trials=trials, n_jobs=PROCESSES)
    return time.perf_counter() - began


def ours(asked: Search, place: Path) -> dict[str, float]:
    """One `lorascope launch` in a new home, mirrored to the home's MLflow: its seconds, and whose CPU they were.

    Raises RuntimeError where a trial is missing, or has trained less than it was asked.
    """
    with tempfile.TemporaryDirectory() as folder:
        home, file = Path(folder) / "home", Path(folder) / "study.yaml"
        file.write_text(json.dumps(document(asked, place)))  # JSON is YAML
        done = finish([sys.executable, "-c", PROGRAM, "launch", str(file), "--home", str(home)])
        return accounts(asked, done, Home(home))


def document(asked: Search, place: Path) -> dict[str, Any]:
    """Our study: the rivals' knobs, data, steps."""
    work = task(asked.cell, place).model_dump(mode="json")
    work["budget"]["steps"] = asked.steps
    return {
        "name": f"search-{asked.cell.name}",
        "tasks": [work],
        "variants": ["lora"],
        "knobs": {"learning_rate": RATES, "alpha": ALPHAS, "rank": RANKS} | HOLD,
        "design": {"kind": "sobol", "points": asked.trials},
        "seeds": {"explore": 1, "confirm": 1},
        "phases": ["explore"],
        "compute": {"dtype": "bf16"},
    }


def accounts(asked: Search, done: Done, home: Home) -> dict[str, float]:
    """Wall and CPU seconds of a launch, and those of them charged to trials, read from its ledger."""
    trials = table.trials(Ledger(home.storage), f"search-{asked.cell.name}")
    if len(trials) != asked.trials or set(trials["steps"]) != {asked.steps}:
        raise RuntimeError(f"{len(trials)} of {asked.trials} trials, steps {sorted(set(trials['steps']))}")
    controller = float(done.output.splitlines()[-1])
    return {
        "wall": done.wall,
        "controller": controller,  # with Optuna, the ledger, the upload to the mirror, the report
        "workers": done.cpu - controller,
        "training": float(trials["cpu_seconds"].sum()),
    }
