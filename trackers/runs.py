"""Trials of an MLflow experiment, read from its store or server: every run, page by page."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from study.errors import BadInput, instead
from study.foreign.source import Source
from study.redact import redact
from trackers.mlflow import pages  # this import also says to MLflow, before it is imported, to be quiet

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ENDED = ("FINISHED", "FAILED")  # the others go on, or somebody stopped them


def trials(uri: str, experiment: str) -> Source:
    """A row per ended run: its parameters, and the last values of its metrics (`metrics.x` beside a parameter `x`).

    Raises BadInput where the store cannot be reached or has no such experiment.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    file = uri.removeprefix("sqlite:///")
    if "://" not in file and not Path(file).exists():
        raise BadInput(redact(uri), "does not exist", "http://HOST:PORT or sqlite:///PATH")
    try:
        found = list(runs_of(MlflowClient(uri), experiment))
    except MlflowException as error:
        reason = redact(" ".join(str(error).split()))
        raise BadInput(redact(uri), f"cannot be read: {reason}", "an MLflow tracking URI") from None
    ended = [run for run in found if run.info.status in ENDED]
    left = Counter(run.info.status.lower() for run in found if run.info.status not in ENDED)
    frame = pd.DataFrame([row(run) for run in ended], index=pd.Index([run.info.run_id for run in ended], name="run"))
    return Source(experiment, frame, notes=tuple(f"{count} {state} runs are left out" for state, count in left.items()))


def runs_of(client: "MlflowClient", experiment: str) -> "Iterator[Run]":
    """Every run of the experiment that nobody deleted."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = [one.name for one in client.search_experiments()]
        raise BadInput(f"experiment {experiment}", "is not there", instead(experiment, known))
    return pages(client, found.experiment_id)


def row(run: "Run") -> dict[str, object]:
    """One run; MLflow keeps parameters as text."""
    metrics = {f"metrics.{name}" if name in run.data.params else name: x for name, x in run.data.metrics.items()}
    return {**metrics, **run.data.params}
