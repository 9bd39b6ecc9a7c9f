"""The trials of a study as a table: a row per accepted result, what analyses read and people export."""

from collections import Counter
from typing import Any

import pandas

from study.ledger import Ledger, StudyRow

BEFORE_KNOBS = ("task", "variant", "phase")
AFTER_KNOBS = (
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
IDENTITY = ("key", "mlflow_run_id")
COUNTS = ("asked", "finished", "diverged", "failed", "missing")


def trials(ledger: Ledger, study: str) -> pandas.DataFrame:
    """task, variant, phase, one column per knob, the numbers, key and mlflow_run_id; in the study's order."""
    results = ledger.results(study)
    row = ledger.study(study)
    runs = ledger.run_ids(study, row.place) if row else {}
    knobs: dict[str, None] = {}
    rows = []
    for trial in ledger.trials(study):
        result = results.get((trial.key, trial.seed))
        if result is None:
            continue
        knobs |= dict.fromkeys(trial.values)
        numbers = {
            "seed": trial.seed,
            "state": result.state,
            "val_score": result.val_score,
            "val_loss": result.val_loss,
            "test_score": result.test_score,
            "loss0": result.loss0,
            "score0": result.score0,
            "diverged": result.diverged,
            "steps": result.steps,
            "cpu_seconds": result.cpu_seconds,
            "trainable": result.trainable,
            "peak_memory": result.peak_memory,
        }
        identity = {"key": trial.key, "mlflow_run_id": runs.get((trial.key, trial.seed))}
        rows.append(
            {"task": trial.task, "variant": trial.variant, "phase": trial.phase}
            | dict(trial.values)
            | numbers
            | identity
        )
    columns = [*BEFORE_KNOBS, *knobs, *AFTER_KNOBS, "trainable", "peak_memory", *IDENTITY]
    table = pandas.DataFrame(rows, columns=columns)
    return table.astype({"test_score": float})


def progress(ledger: Ledger, row: StudyRow) -> dict[str, Any]:
    """How far a study is: its state, COUNTS in all, and COUNTS of every (task, variant, phase) under `cells`."""
    results, failed = ledger.results(row.name), ledger.failed(row.name)
    cells: dict[tuple[str, str, str], Counter[str]] = {}
    for trial in ledger.trials(row.name):
        counts = cells.setdefault((trial.task, trial.variant, trial.phase), Counter())
        result = results.get((trial.key, trial.seed))
        state = result.state if result else "failed" if (trial.key, trial.seed) in failed else "missing"
        counts.update(("asked", state))
    total = sum(cells.values(), Counter())
    interrupted = row.state == "running" and ledger.lease_left(row.name) < 0
    state = "interrupted" if interrupted else row.state
    by_cell = [
        dict(zip(("task", "variant", "phase"), cell, strict=True)) | _counts(counts) for cell, counts in cells.items()
    ]
    return {"study": row.name, "state": state, "tracking": row.place} | _counts(total) | {"cells": by_cell}


def _counts(counter: Counter[str]) -> dict[str, int]:
    return {name: counter[name] for name in COUNTS}
