"""The trials of a study as a table: a row per accepted result, what analyses read and people export."""

from collections import Counter
from typing import Any

import numpy
import pandas
from numpy.typing import NDArray

from study.analysis import Plan
from study.ledger import Ledger, StudyRow
from study.space import SCALE, coordinate
from study.spec import StudySpec, space
from study.tasks import task as registered

NUMBERS = (
    "seed",
    "state",
    "val_score",
    "val_loss",
    "test_score",
    "loss0",
    "score0",
    "diverged",
    "steps",
    "cpu_seconds",
)
COSTS = ("trainable", "peak_memory")
COUNTS = ("asked", "finished", "diverged", "stopped", "failed", "missing")


def trials(ledger: Ledger, study: str) -> pandas.DataFrame:
    """task, variant, phase, one column per knob, NUMBERS, COSTS, key and mlflow_run_id; in the study's order.

    A trial that a search stopped early is no row: what it would have come to is not known.
    """
    found, row = ledger.results(study), ledger.study(study)
    results = {trial: result for trial, result in found.items() if result.state != "stopped"}
    runs = ledger.run_ids(study, row.place) if row else {}
    done = [trial for trial in ledger.trials(study) if (trial.key, trial.seed) in results]
    rows = []
    for trial in done:
        result = results[trial.key, trial.seed]
        fields = vars(result) | {"diverged": result.diverged}
        cell = {"task": trial.task, "variant": trial.variant, "phase": trial.phase}
        numbers = {name: fields[name] for name in (*NUMBERS, *COSTS)}
        identity = {"key": trial.key, "mlflow_run_id": runs.get((trial.key, trial.seed))}
        scale = {SCALE: coordinate(SCALE, trial.values)} if {"alpha", "rank"} <= set(trial.values) else {}
        rows.append(cell | dict(trial.values) | scale | numbers | identity)
    others = {"task", "variant", "phase", *NUMBERS, *COSTS, "key", "mlflow_run_id"}
    knobs = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in others]
    columns = ["task", "variant", "phase", *knobs, *NUMBERS, *COSTS, "key", "mlflow_run_id"]
    return pandas.DataFrame(rows, columns=columns).astype({"test_score": float})


def correct(ledger: Ledger, study: str) -> dict[tuple[str, int], NDArray[numpy.bool_]]:
    """Per example of the test split whether a confirmed trial, by (key, seed), was right; in one order for all."""
    found = {trial: result.test_correct for trial, result in ledger.results(study).items()}
    return {trial: numpy.frombuffer(seen, dtype=bool) for trial, seen in found.items() if seen is not None}


def plan(spec: StudySpec) -> Plan:
    """What the analyses must know of a study besides its trials."""
    return Plan(
        directions={task.label: registered(task.task).direction for task in spec.tasks},
        knobs={chosen.label: space(spec, chosen).varied for chosen in spec.variants},
        focus=spec.focus,
        margin=spec.margin,
        design=spec.design.kind,
    )


def progress(ledger: Ledger, row: StudyRow) -> dict[str, Any]:
    """How far a study is: its state, COUNTS in all, and COUNTS of every (task, variant, phase) under `cells`."""
    results, failed = ledger.results(row.name), ledger.failed(row.name)
    cells: dict[tuple[str, str, str], Counter[str]] = {}
    for trial in ledger.trials(row.name):
        at = (trial.key, trial.seed)
        state = results[at].state if at in results else "failed" if at in failed else "missing"
        cells.setdefault((trial.task, trial.variant, trial.phase), Counter()).update(("asked", state))
    by_cell = [dict(zip(("task", "variant", "phase"), cell, strict=True)) | _counts(c) for cell, c in cells.items()]
    interrupted = row.state == "running" and ledger.lease_left(row.name) < 0
    study = {"study": row.name, "state": "interrupted" if interrupted else row.state, "tracking": row.place}
    return study | _counts(sum(cells.values(), Counter())) | {"cells": by_cell}


def _counts(counter: Counter[str]) -> dict[str, int]:
    return {name: counter[name] for name in COUNTS}
