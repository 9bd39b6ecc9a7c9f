"""MLflow as a mirror: an experiment per study, a parent run per cell, a child run per (key, seed).

`MlflowClient` only: no active run, no tracking URI of the process. Creating a run is not idempotent (a response lost
after the commit leaves a ghost when the client asks again), so a run is looked up by its tags before it is created,
and twins that come about all the same are deleted when they are seen. Points carry timestamps made from their step, so
that the server takes one that is sent again for the one it has.
"""

import fcntl
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple, cast

# MLflow reads these when it is imported.
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
    MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",  # a POST that the HTTP library repeats is a ghost run; the spool waits instead
)
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # what it logs it raises as well

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_module("mlflow.store.tracking.sqlalchemy_store")  # MLflow 3.17 uses what SQLAlchemy 2.1 deprecates
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run, RunTag
    from mlflow.exceptions import MlflowException

from study.errors import BadInput
from study.redact import redact
from study.trial import State, Trial, digest
from trackers import Mirror, Point

STATUS: Mapping[State, str] = {"finished": "FINISHED", "diverged": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
REFUSED = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST"}  # the call is at fault, and always will be
BATCH = 1000  # metrics that a server takes at once
PAGE = 1000  # runs

CELL, STUDY, TASK, VARIANT = "lorascope.cell", "lorascope.study", "lorascope.task", "lorascope.variant"
KEY, SEED, PHASE = "lorascope.key", "lorascope.seed", "lorascope.phase"
FINAL_STEP, REPORT = "lorascope.final_step", "lorascope.report"


class MirroredRun(NamedTuple):
    """A child run as the server lists it."""

    key: str
    seed: int
    status: str  # RUNNING | FINISHED | FAILED | KILLED
    run_id: str


@dataclass
class _Known:
    """What is known of a run on the server without asking again."""

    run_id: str
    status: str
    final_step: int | None  # where its final numbers go, once that is decided
    last: dict[str, int] = field(default_factory=dict[str, int])  # metric -> the last step the server has


class MlflowTracker(Mirror):
    """Mirrors one study's trials to the MLflow store or server at `uri`.

    `study_created_ms` (since 1970) is the time of every curve's step 0. `on_end(trial, run_id)` is called once a
    finished or diverged trial is surely stored, and again where its end is told again. A call raises ConnectionError
    while the server cannot be reached, MlflowException where it refuses what it was told, and what `on_end` raises.
    """

    def __init__(self, uri: str, study_created_ms: int, on_end: Callable[[Trial, str], None] | None = None) -> None:
        self._study_created_ms = study_created_ms
        self._on_end = on_end
        self._experiments: dict[str, str] = {}  # study -> experiment id
        self._parents: dict[str, _Known] = {}  # by cell
        self._runs: dict[tuple[str, str, int], _Known] = {}  # by study, key, seed
        with self._reaching():
            self._client, self._artifacts = _open(uri)

    def begin(self, trial: Trial) -> None:
        """A run that was killed or failed is RUNNING again; one that is FINISHED stays as it is."""
        with self._reaching():
            run = self._adopt(trial)
            if run.status != "FINISHED":
                self._set_status(self._parent(trial), "RUNNING")
                self._set_status(run, "RUNNING")

    def log(self, trial: Trial, step: int, values: Mapping[str, float]) -> None:
        self.log_many(trial, [(step, values)])

    def log_many(self, trial: Trial, points: Sequence[Point]) -> None:
        """Curves, steps ascending; of each, what is not beyond the last step the run has is dropped.

        So an attempt that repeats what an earlier one logged neither doubles a point nor contradicts it.
        """
        with self._reaching():
            run = self._adopt(trial)
            if run.status != "FINISHED":
                self._send(run, points)

    def end(self, trial: Trial, state: State, values: Mapping[str, float]) -> None:
        """Final numbers of a finished or diverged trial, one step after its curves; then the status."""
        stored = STATUS[state] == "FINISHED"
        with self._reaching():
            run = self._adopt(trial)
            if stored and run.status != "FINISHED":
                self._send(run, [(self._final_step(run, state), values)])
            if run.status != "FINISHED":
                self._set_status(run, STATUS[state])
        if stored and self._on_end is not None:
            self._on_end(trial, run.run_id)

    def close_cells(self, study: str, state: Literal["finished", "stopped"]) -> None:
        """No more trials come for now: end the parent runs, FINISHED or KILLED.

        Where the study was stopped, child runs that still are RUNNING become KILLED.
        """
        with self._reaching():
            for run in self._without_twins(self._all_runs(study)):
                if CELL in run.data.tags:
                    self._set_status(_known(run), STATUS[state])
                elif state == "stopped" and run.info.status == "RUNNING":
                    self._set_status(_known(run), "KILLED")
        self._forget()

    def keep_report(self, study: str, folder: Path) -> None:
        """The files of a study's report, as artifacts of a run of its own; a later report takes their place."""
        with self._reaching():
            run = self._find_or_create(study, (REPORT,), {REPORT: "report", STUDY: study}, "report")
            self._client.log_artifacts(run.info.run_id, str(folder))
            self._set_status(_known(run), "FINISHED")

    def page(self, study: str) -> str:
        """The path under which a server shows a run of the study, whose id follows."""
        with self._reaching():
            return f"/#/experiments/{self._experiment(study)}/runs/"

    def runs(self, study: str) -> list[MirroredRun]:
        """The study's child runs, all of them."""
        with self._reaching():
            return [_mirrored(run) for run in self._all_runs(study) if KEY in run.data.tags]

    @contextmanager
    def _reaching(self) -> Generator[None]:
        """What MLflow raises, sorted: the call's own fault as it is, anything else as ConnectionError.

        Whatever was known is forgotten: the answer that got lost may have been that it changed.
        """
        try:
            yield
        except MlflowException as error:
            self._forget()
            if error.error_code in REFUSED:
                raise
            raise ConnectionError(redact(str(error))) from None

    def _forget(self) -> None:
        self._experiments.clear()
        self._parents.clear()
        self._runs.clear()

    def _experiment(self, study: str) -> str:
        """Its id; created where it is missing, restored where somebody deleted it."""
        if study not in self._experiments:
            found = self._client.get_experiment_by_name(study)
            if found is None:
                self._experiments[study] = self._client.create_experiment(study, artifact_location=self._artifacts)
            else:
                self._experiments[study] = found.experiment_id
                if found.lifecycle_stage == "deleted":
                    self._client.restore_experiment(found.experiment_id)
        return self._experiments[study]

    def _parent(self, trial: Trial) -> _Known:
        cell = digest({"task": trial.task, "variant": trial.variant})  # names may hold quotes, which a search cannot
        if cell not in self._parents:
            tags = {CELL: cell, STUDY: trial.study, TASK: trial.task, VARIANT: trial.variant}
            run = self._find_or_create(trial.study, (CELL,), tags, f"{trial.task} / {trial.variant}")
            self._parents[cell] = _known(run)
        return self._parents[cell]

    def _adopt(self, trial: Trial) -> _Known:
        """The trial's run: the one this object knows, the one the server has, or a new one."""
        identity = (trial.study, trial.key, trial.seed)
        if identity not in self._runs:
            run = self._find_or_create(
                trial.study,
                (KEY, SEED),
                _tags(trial) | {"mlflow.parentRunId": self._parent(trial).run_id},
                f"{trial.variant} {trial.key[:8]} seed {trial.seed}",
            )
            missing = [Param(name, value) for name, value in _params(trial).items() if name not in run.data.params]
            if missing:
                self._client.log_batch(run.info.run_id, params=missing, synchronous=True)
            self._runs[identity] = self._with_last_steps(_known(run), run.data.metrics)
        return self._runs[identity]

    def _with_last_steps(self, run: _Known, metrics: Iterable[str]) -> _Known:
        if run.status != "FINISHED":  # one that is takes no more points
            for metric in metrics:
                run.last[metric] = max(point.step for point in self._client.get_metric_history(run.run_id, metric))
        return run

    def _find_or_create(self, study: str, identity: Sequence[str], tags: Mapping[str, str], name: str) -> Run:
        """The run whose tags named in `identity` have these values."""
        experiment = self._experiment(study)
        query = " and ".join(f"tags.`{tag}` = '{tags[tag]}'" for tag in identity)
        found = self._without_twins(self._pages(experiment, query))
        return found[0] if found else self._client.create_run(experiment, tags=dict(tags), run_name=name)

    def _all_runs(self, study: str) -> list[Run]:
        experiment = self._client.get_experiment_by_name(study)
        return [] if experiment is None else list(self._pages(experiment.experiment_id, ""))

    def _pages(self, experiment: str, query: str) -> Iterator[Run]:
        return pages(self._client, experiment, query)

    def _without_twins(self, runs: Iterable[Run]) -> list[Run]:
        """Our runs, one of each identity; the others are deleted: they come from an answer that got lost."""
        groups: dict[str, list[Run]] = {}
        for run in runs:
            identity = _identity(run)
            if identity:
                groups.setdefault(identity, []).append(run)
        for group in groups.values():
            group.sort(key=_worth, reverse=True)
            for twin in group[1:]:
                self._client.delete_run(twin.info.run_id)
        return [group[0] for group in groups.values()]

    def _final_step(self, run: _Known, state: State) -> int:
        """One step after the curves, noted on the server before it is used, so that an end told again uses it again."""
        if run.final_step is None:
            run.final_step = max(run.last.values(), default=-1) + 1
            tags = [RunTag(FINAL_STEP, str(run.final_step))]
            tags += [RunTag("diverged", "true")] if state == "diverged" else []
            self._client.log_batch(run.run_id, tags=tags, synchronous=True)
        return run.final_step

    def _send(self, run: _Known, points: Sequence[Point]) -> None:
        last = dict(run.last)
        fresh: list[Metric] = []
        for step, values in points:
            for metric, value in values.items():
                if step > last.get(metric, -1):
                    fresh.append(Metric(metric, value, self._study_created_ms + step, step))
                    last[metric] = step
        for start in range(0, len(fresh), BATCH):
            self._client.log_batch(run.run_id, metrics=fresh[start : start + BATCH], synchronous=True)
        run.last = last

    def _set_status(self, run: _Known, status: str) -> None:
        if status == run.status:
            return
        if status == "RUNNING":
            self._client.update_run(run.run_id, status)
        else:
            self._client.set_terminated(run.run_id, status)
        run.status = status


def pages(client: MlflowClient, experiment: str, query: str = "") -> Iterator[Run]:
    """Every run of the experiment with that id that the query finds, nobody having deleted it."""
    token: str | None = ""
    while token is not None:
        page = client.search_runs([experiment], query, max_results=PAGE, page_token=token or None)
        yield from page
        token = cast("str | None", page.token)  # pyright: ignore[reportUnknownMemberType], MLflow leaves it untyped


def _open(uri: str) -> tuple[MlflowClient, str | None]:
    """A client, and where the artifacts of a store on this machine go; a server has a place of its own."""
    if uri.startswith(("http://", "https://")):
        return MlflowClient(uri), None
    if not uri.startswith("sqlite:///"):
        raise BadInput("tracking URI", redact(uri), "http://HOST:PORT, https://HOST or sqlite:///PATH")
    path = Path(uri.removeprefix("sqlite:///")).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first to come makes the tables, in seconds; two at once would break them
        client = MlflowClient(f"sqlite:///{path}")
    return client, (path.parent / "artifacts").as_uri()


def _known(run: Run) -> _Known:
    final_step = run.data.tags.get(FINAL_STEP)
    return _Known(run.info.run_id, run.info.status, None if final_step is None else int(final_step))


def _mirrored(run: Run) -> MirroredRun:
    return MirroredRun(run.data.tags[KEY], int(run.data.tags[SEED]), run.info.status, run.info.run_id)


def _identity(run: Run) -> str | None:
    """What is said of one run only; None for a run that is not ours."""
    tags = run.data.tags
    return f"{tags[KEY]} {tags[SEED]}" if KEY in tags else tags.get(CELL, tags.get(REPORT))


def _worth(run: Run) -> tuple[bool, int, int]:
    """Which of two twins to keep: the finished, else the fuller, else the older."""
    return run.info.status == "FINISHED", len(run.data.metrics), -run.info.start_time


def _tags(trial: Trial) -> dict[str, str]:
    where = {STUDY: trial.study, TASK: trial.task, VARIANT: trial.variant, PHASE: trial.phase}
    return where | {KEY: trial.key, SEED: str(trial.seed)}


def _params(trial: Trial) -> dict[str, str]:
    """Every knob, and which trial this is."""
    which = {"seed": trial.seed, "phase": trial.phase, "task": trial.task, "variant": trial.variant}
    return {name: str(value) for name, value in (dict(trial.values) | which).items()}
