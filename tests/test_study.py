"""Whole studies, small: everything the spec asks for is trained once, recorded once and mirrored once."""

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from itertools import count, product
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pandas
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from pandas.testing import assert_frame_equal

from study import cli, controller, ledger, session, spec, worker
from study.analysis import Finding, Plan
from study.controller import Controller, Lease
from study.home import Home
from study.ledger import Ledger
from study.progress import Progress
from study.table import correct
from study.table import trials as table_of
from study.tasks.base import Examples, Prepared
from study.worker import Bench, Ended, Event, Job, Setup, prepare, work
from tests.tiny import tiny_data, tiny_model
from trackers.mlflow import MlflowTracker
from trackers.null import Null

ROOT = Path(__file__).resolve().parent.parent
DONE, FAILED, BAD_INPUT = 0, 1, 2

Document = dict[str, Any]  # a spec


# --- a model, a data set, an MLflow store and a spec, made once


@dataclass(frozen=True)
class Tiny:
    """What small studies are made of."""

    document: Document
    store: Path  # an MLflow database with its tables, which take seconds to make, and nothing in them
    cache: Path

    def home(self, folder: Path) -> Home:
        """A home that nobody has used."""
        folder.mkdir()
        shutil.copy(self.store, folder / "mlflow.db")
        (folder / "cache").symlink_to(self.cache)
        return Home(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    (cache / "assets").mkdir(parents=True, exist_ok=True)
    (folder / "cache").mkdir()
    (folder / "cache" / "assets").symlink_to(cache / "assets")  # fetched once; the rest is of this session
    MlflowTracker(f"sqlite:///{folder / 'mlflow.db'}", 0)
    task = {
        "task": "classification",
        "model": str(tiny_model(folder / "model")),
        "data": {"path": str(tiny_data(folder / "data"))},
        "budget": {"steps": 20, "batch_size": 4, "length": 16},
    }
    document = {
        "name": "small",
        "tasks": [task],
        "variants": ["lora", "dora"],
        "knobs": {"learning_rate": [1e-3, 1e-1], "rank": [2, 4]},
        "design": {"kind": "sobol", "points": 4},
        "seeds": {"explore": 2, "confirm": 2},
        "compute": {"dtype": "fp64"},
    }
    return Tiny(document, folder / "mlflow.db", folder / "cache")


def written(document: Document, folder: Path) -> str:
    """The path of a spec file with this in it; JSON is YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{document['name']}.yaml"
    path.write_text(json.dumps(document))
    return str(path)


def with_budget(document: Document, **budget: int) -> Document:
    """The same with another budget for its one task."""
    (task,) = document["tasks"]
    return document | {"tasks": [task | {"budget": task["budget"] | budget}]}


# --- the command line in a process of its own


PRELOADED = ["study.cli", "study.session", "study.engines.local", "trackers.mlflow", "dashboards.compose"]


class Command:
    """A `lorascope` that runs on a home: forked from a process that has the imports, which take seconds, behind it."""

    _numbers = count()

    def __init__(self, home: Home, *arguments: str) -> None:
        """What it waits for is cut to seconds: its lease lasts 3, a remote mirror gets 5."""
        printed = home.path / f"printed-{next(self._numbers)}"
        self._out, self._err = printed.with_suffix(".out"), printed.with_suffix(".err")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        options = (*arguments, "--home", str(home.path))
        self.process: ForkServerProcess = context.Process(target=_lorascope, args=(options, self._out, self._err))
        self.process.start()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """Its exit code; negative where a signal ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running: {self.err}"
        return self.process.exitcode

    @property
    def out(self) -> str:
        """What it has printed to stdout."""
        return self._out.read_text() if self._out.exists() else ""

    @property
    def err(self) -> str:
        """What it has printed to stderr."""
        return self._err.read_text() if self._err.exists() else ""


def _lorascope(arguments: Sequence[str], out: Path, err: Path) -> None:
    """In the forked process."""
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    ledger.LEASE_SECONDS, controller.RENEW_SECONDS, cli.REMOTE_DRAIN_SECONDS = 3.0, 0.5, 5.0
    sys.argv = ["lorascope", *arguments]
    cli.main()


def lorascope(home: Home, *arguments: str) -> Command:
    """A command that has ended well."""
    command = Command(home, *arguments)
    assert command.wait() == DONE, command.err
    return command


def trials(home: Home, study: str) -> pandas.DataFrame:
    """The study's table, as the command line exports it."""
    return pandas.read_csv(StringIO(lorascope(home, "trials", study).out))


# --- what a study has left in its ledger and its mirror


def mirrored(home: Home, study: str) -> tuple[list[Run], list[Run]]:
    """The study's runs in the home's MLflow, straight from the store: one a cell, one a trial."""
    client = MlflowClient(home.tracking)
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in runs if "lorascope.cell" in run.data.tags], [run for run in runs if identity(run)[0]]


def identity(run: Run) -> tuple[str, int]:
    """The trial that a run mirrors; ("", -1) where it mirrors none."""
    return run.data.tags.get("lorascope.key", ""), int(run.data.tags.get("lorascope.seed", -1))


def require_agreement(home: Home, study: str, expected: int) -> None:
    """The ledger holds so many results; MLflow has one FINISHED run for each, each point once, and nothing else."""
    book = Ledger(home.storage)
    asked, results, row = book.trials(study), book.results(study), book.study(study)
    assert row is not None
    assert row.state == "done"
    assert len(asked) == len(results) == expected
    assert {(trial.key, trial.seed) for trial in asked} == set(results)
    cells, runs = mirrored(home, study)
    assert Counter(map(identity, runs)) == dict.fromkeys(results, 1)
    assert {run.info.status for run in (*cells, *runs)} == {"FINISHED"}
    named = Counter((run.data.tags["lorascope.task"], run.data.tags["lorascope.variant"]) for run in cells)
    assert named == {(trial.task, trial.variant): 1 for trial in asked}
    assert {run.info.run_id for run in runs} == set(book.run_ids(study, row.place).values())
    for run in runs:
        assert run.data.metrics["val_loss"] == results[identity(run)].val_loss
        assert run.data.tags["mlflow.parentRunId"] in {cell.info.run_id for cell in cells}
    assert points_that_stand_twice(home) == []
    require_report(home, study)


def require_report(home: Home, study: str) -> None:
    """The home's report also stands in MLflow, as it is where its store keeps files on this machine."""
    client = MlflowClient(home.tracking)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`lorascope.report` = 'report'")
    assert run.info.status == "FINISHED"
    kept = Path(str(run.info.artifact_uri).removeprefix("file://")) / "report.html"
    if not str(run.info.artifact_uri).startswith("mlflow-artifacts:"):  # else the server has it
        assert kept.read_bytes() == (home.report(study) / "report.html").read_bytes()


def points_that_stand_twice(home: Home) -> list[tuple[object, ...]]:
    """Points of a curve (run, metric, step) of which the home's MLflow has more than one."""
    with sqlite3.connect(home.path / "mlflow.db") as connection:
        found = connection.execute(
            "select run_uuid, key, step, count(*) from metrics group by run_uuid, key, step having count(*) > 1"
        ).fetchall()
    connection.close()
    return found


# --- one finished study, launched as a user does


@dataclass(frozen=True)
class Launched:
    """A study that has run to its end, and what its launch said."""

    home: Home
    document: Document
    err: str
    out: str


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """2 variants at 4 points with 2 seeds, then 2 fresh seeds for each variant's best: 20 trials of 20 steps."""
    folder = tmp_path_factory.mktemp("finished")
    home = tiny.home(folder / "home")
    command = [str(Path(sysconfig.get_path("scripts"), "lorascope")), "launch", written(tiny.document, folder)]
    command += ["--home", str(home.path), "--workers", "2", "--pack-size", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == DONE, done.stderr
    return Launched(home, tiny.document, done.stderr, done.stdout)


@pytest.fixture(scope="module")
def table(finished: Launched) -> pandas.DataFrame:
    """Its results."""
    return trials(finished.home, "small")


def test_every_trial_the_spec_asks_for_has_one_result_and_one_finished_run(finished: Launched) -> None:
    require_agreement(finished.home, "small", 2 * 4 * 2 + 2 * 2)


def test_status_counts_the_trials_of_every_cell(finished: Launched) -> None:
    told = json.loads(lorascope(finished.home, "status", "small", "--json").out)
    counted = {(cell["variant"], cell["phase"]): (cell["asked"], cell["finished"]) for cell in told["cells"]}
    assert counted == {(v, p): (n, n) for v, (p, n) in product(("lora", "dora"), (("explore", 8), ("confirm", 2)))}
    assert (told["state"], told["asked"], told["missing"], told["failed"]) == ("done", 20, 0, 0)


def test_a_launch_says_nothing_that_is_not_ours(finished: Launched) -> None:
    alien = ("Warning", "Traceback", "INFO", "WARN", "leaked", "mlflow.", "%|")
    assert [line for line in finished.err.splitlines() if any(word in line for word in alien)] == []


def test_a_launch_leaves_its_report(finished: Launched) -> None:
    folder = finished.home.report("small")
    assert {"report.html", "report.md", "findings.json", "trials.csv"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "findings.json").read_text())
    assert len(pandas.read_csv(folder / "trials.csv")) == 20


def test_variants_share_their_points_and_their_seeds(table: pandas.DataFrame) -> None:
    explored = table[table.phase == "explore"]
    lora, dora = (
        set(explored[explored.variant == variant][["learning_rate", "rank", "seed"]].itertuples(index=False, name=None))
        for variant in ("lora", "dora")
    )
    assert lora == dora
    assert len(lora) == 8


def test_the_setting_that_is_confirmed_has_the_best_mean_validation_score(table: pandas.DataFrame) -> None:
    for variant in ("lora", "dora"):
        mine = table[table.variant == variant]
        explored, confirmed = mine[mine.phase == "explore"], mine[mine.phase == "confirm"]
        means = explored.groupby(["learning_rate", "rank"]).val_score.mean()
        (chosen,) = set(zip(confirmed.learning_rate, confirmed["rank"], strict=True))
        assert means[chosen] == means.max()


def test_a_confirmation_has_fresh_seeds_and_alone_sees_the_test_split(table: pandas.DataFrame) -> None:
    explored, confirmed = table[table.phase == "explore"], table[table.phase == "confirm"]
    assert not set(explored.seed) & set(confirmed.seed)
    assert list(confirmed.groupby("variant").seed.apply(sorted)) == [sorted(set(confirmed.seed))] * 2
    assert explored.test_score.isna().all()
    assert confirmed.test_score.between(0, 1).all()


def test_loss_and_score_before_training_are_the_seeds_and_not_the_variants(table: pandas.DataFrame) -> None:
    starts = table.groupby("seed")[["loss0", "score0"]].nunique()
    assert len(starts) == 4
    assert (starts == 1).all(axis=None)
    assert table.groupby("seed").loss0.first().nunique() == 4


# --- the same study again, wider, and by another name


def test_a_second_launch_trains_nothing_says_so_and_adds_no_run(finished: Launched, tmp_path: Path) -> None:
    before = left(finished.home)
    again = lorascope(finished.home, "launch", written(finished.document, tmp_path))
    assert "0 training steps" in again.err
    assert left(finished.home) == before
    require_agreement(finished.home, "small", 20)


def test_a_study_that_shares_every_result_trains_nothing_and_is_mirrored_whole(
    finished: Launched, table: pandas.DataFrame, tmp_path: Path
) -> None:
    twin = lorascope(finished.home, "launch", written(finished.document, tmp_path), "--as", "twin")
    assert "0 training steps" in twin.err
    require_agreement(finished.home, "twin", 20)
    require_same(trials(finished.home, "twin"), table, 0.0)


def left(home: Home) -> dict[tuple[str, int], float]:
    """When each result of the home was accepted."""
    with sqlite3.connect(home.path / "lorascope.db") as connection:
        found = {(key, seed): at for key, seed, at in connection.execute("select key, seed, accepted from results")}
    connection.close()
    return found


# --- one study, however it is packed

NUMBERS = ["val_score", "val_loss", "test_score", "loss0", "score0"]


@dataclass(frozen=True)
class Alone:
    """The same study, trained one trial at a time by one worker, and its results when that was done."""

    home: Home
    table: pandas.DataFrame


@pytest.fixture(scope="module")
def alone(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder = tmp_path_factory.mktemp("alone")
    home = tiny.home(folder / "home")
    lorascope(home, "launch", written(tiny.document, folder), "--workers", "1", "--pack-size", "1")
    return Alone(home, trials(home, "small"))


def test_one_worker_that_trains_one_at_a_time_finds_the_same(alone: Alone, table: pandas.DataFrame) -> None:
    require_same(alone.table, table, 1e-9)


def test_a_wider_study_trains_only_what_is_new(alone: Alone, tiny: Tiny, tmp_path: Path) -> None:
    before = left(alone.home)
    wider = tiny.document | {"variants": ["lora", "dora", "rslora"], "design": {"kind": "sobol", "points": 5}}
    command = lorascope(alone.home, "launch", written(wider, tmp_path), "--workers", "1")
    assert "explore: 30 trials, 16 have a result already" in command.err
    assert before.items() <= left(alone.home).items(), "no result was written anew"
    rows = trials(alone.home, "small")
    assert Counter(rows[rows.phase == "explore"].variant) == {"lora": 10, "dora": 10, "rslora": 10}
    require_agreement(alone.home, "small", len(rows))


def require_same(one: pandas.DataFrame, other: pandas.DataFrame, tolerance: float) -> None:
    """The same trials with the same numbers; what they cost, and where they are mirrored, may differ."""
    costs = ["cpu_seconds", "peak_memory", "mlflow_run_id"]
    order = ["variant", "phase", "key", "seed"]
    tables = [each.drop(columns=costs).sort_values(order, ignore_index=True) for each in (one, other)]
    assert_frame_equal(*[each.drop(columns=NUMBERS) for each in tables])
    assert_frame_equal(*[each[NUMBERS] for each in tables], rtol=tolerance, atol=tolerance)


# --- engines without processes, for what a process adds nothing to


class Inline:
    """An engine that works in this process; Ctrl-C comes after so many jobs."""

    def __init__(self, setup: Setup, jobs: int) -> None:
        self._bench, self._jobs = Bench(setup), jobs

    def run(self, queue: deque[Job]) -> Iterator[Event | Ended | None]:
        while queue:
            if self._jobs == 0:
                raise KeyboardInterrupt
            self._jobs -= 1
            job, said = queue.popleft(), list[Event]()
            work(self._bench, job, said.append)
            yield from said
            yield Ended(job)


def run_here(document: Document, home: Home, jobs: int = -1) -> pandas.DataFrame:
    """The study's table once it has run to its end, or for so many jobs."""
    book = Ledger(home.storage, migrate=True)
    asked = session.admit(book, spec.parse(document, "this test"), "this test")
    prepared = {task.label: prepare(task, home.cache) for task in asked.tasks}
    plans = session.plans(asked, session.check_ranks(asked, prepared, "this test"), prepared)
    book.create_study(asked.name, spec.resolved(asked), [])
    engine = Inline(Setup(book.url, home.cache, Null, {}), jobs)
    with Lease(book, asked.name, lambda holder, seconds: None) as lease:
        study = Controller(asked, book, lease, engine, Null(), "nowhere", Progress(asked.tasks), prepared, plans)
        if jobs < 0:
            study.run()
        else:
            with pytest.raises(KeyboardInterrupt):
                study.run()
    return table_of(book, asked.name)


def test_in_fp32_a_pack_of_eight_finds_what_each_finds_alone(tiny: Tiny, tmp_path: Path) -> None:
    document = tiny.document | {"knobs": {"learning_rate": [1e-3, 1e-2], "rank": [2, 4]}, "variants": ["lora"]}
    tables = [
        run_here(document | {"compute": {"dtype": "fp32", "pack_size": size}}, tiny.home(tmp_path / str(size)))
        for size in (1, 8)
    ]
    require_same(*tables, 1e-4)


def test_a_learning_rate_that_diverges_is_recorded_and_leaves_its_neighbours_alone(tiny: Tiny, tmp_path: Path) -> None:
    knobs = {"learning_rate": {"levels": [1e-3, 1e-2, 1e300]}, "rank": [2, 4]}
    document = tiny.document | {"knobs": knobs, "design": {"kind": "grid"}, "phases": ["explore"], "variants": ["lora"]}
    packed, alone = [
        run_here(document | {"compute": {"dtype": "fp64", "pack_size": size}}, tiny.home(tmp_path / str(size)))
        for size in (16, 1)
    ]
    wild = packed.learning_rate == 1e300
    assert (packed.state == wild.map({True: "diverged", False: "finished"})).all()
    assert wild.sum() == 4
    assert (packed[wild].val_loss == packed[wild].loss0).all()
    assert (packed[wild].val_score == packed[wild].score0).all()
    assert (packed[wild].steps < 20).all()
    require_same(packed, alone, 1e-9)


@pytest.mark.parametrize(("kind", "settings"), [("sobol", 4), ("random", 4), ("grid", 4 * 2), ("tpe", 4)])
def test_every_design_runs_and_after_a_stop_goes_on_where_it_was(
    kind: str, settings: int, tiny: Tiny, tmp_path: Path
) -> None:
    document = with_budget(tiny.document, steps=5) | {"design": {"kind": kind, "points": 4}}
    document |= {"compute": {"dtype": "fp32", "pack_size": 2}, "variants": ["lora"]}
    home = tiny.home(tmp_path / "home")
    stopped = run_here(document, home, jobs=2)
    before = left(home)
    assert len(stopped) == len(before) == 4
    rows = run_here(document, home)
    assert before.items() <= left(home).items()
    assert Counter(rows.phase) == {"explore": 2 * settings, "confirm": 2}
    assert len(rows[rows.phase == "explore"].drop_duplicates(["learning_rate", "rank"])) == settings


def phased(tiny: Tiny, *phases: str) -> Document:
    """One variant on a line of learning rates."""
    document = with_budget(tiny.document, steps=5) | {"variants": ["lora"], "phases": ["explore", *phases]}
    document |= {"knobs": {"learning_rate": [1e-4, 3e-3]}, "design": {"kind": "grid", "points": 6, "refine": 3}}
    return document | {"compute": {"dtype": "fp32", "pack_size": 4}}


@pytest.fixture
def best_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None, bool], None]:
    """Says where the response will be found to be best, and whether that is more than noise."""

    def found(boundary: str | None, located: bool = True) -> None:
        def response(table: pandas.DataFrame, plan: Plan, task: str, variant: str) -> Finding:
            return Finding("response", task, variant, True, "", {"boundary": boundary, "located": located})

        monkeypatch.setattr(controller, "response_of", response)

    return found


@pytest.mark.parametrize(("edge", "beyond"), [("high", [3e-3 * 10**s for s in (0.25, 0.5, 0.75, 1)]), ("low", None)])
def test_extend_goes_on_past_the_end_where_the_response_is_best(
    edge: str, beyond: list[float] | None, best_at: Callable[..., None], tiny: Tiny, tmp_path: Path
) -> None:
    best_at(edge)
    rows = run_here(phased(tiny, "extend", "confirm"), tiny.home(tmp_path / "home"))
    asked = beyond or [1e-4 / 10**s for s in (1, 0.75, 0.5, 0.25)]
    assert sorted(set(rows[rows.phase == "extend"].learning_rate)) == pytest.approx(asked, rel=1e-5)
    means = rows[rows.phase != "confirm"].groupby("learning_rate").val_score.mean()
    confirmed = set(rows[rows.phase == "confirm"].learning_rate)
    assert confirmed <= set(means[means > means.max() - 1e-9].index), (
        "what is confirmed may lie past the declared range"
    )


@pytest.mark.parametrize(("edge", "located"), [(None, True), ("high", False)])
def test_extend_adds_nothing_to_an_optimum_inside_or_to_noise(
    edge: str | None, located: bool, best_at: Callable[..., None], tiny: Tiny, tmp_path: Path
) -> None:
    best_at(edge, located)
    assert set(run_here(phased(tiny, "extend"), tiny.home(tmp_path / "home")).phase) == {"explore"}


def test_refine_adds_the_same_number_of_new_settings_to_every_variant(tiny: Tiny, tmp_path: Path) -> None:
    rows = run_here(phased(tiny, "refine", "confirm") | {"variants": ["lora", "rslora"]}, tiny.home(tmp_path / "home"))
    added = rows[rows.phase == "refine"]
    assert Counter(added.variant) == {"lora": 3 * 2, "rslora": 3 * 2}
    assert not set(added.key) & set(rows[rows.phase == "explore"].key)
    assert added.learning_rate.between(1e-4, 3e-3).all()


@pytest.mark.parametrize("jobs", [2, 4, 6])
def test_a_study_of_every_phase_goes_on_where_it_was_stopped(
    jobs: int, best_at: Callable[..., None], tiny: Tiny, tmp_path: Path
) -> None:
    best_at("high")
    document = phased(tiny, "extend", "refine", "confirm")
    whole, home = run_here(document, tiny.home(tmp_path / "whole")), tiny.home(tmp_path / "stopped")
    assert set(whole.phase) == {"explore", "extend", "refine", "confirm"}
    run_here(document, home, jobs=jobs)
    before = left(home)
    require_same(run_here(document, home), whole, 1e-4)
    assert before.items() <= left(home).items()


def test_a_scale_is_another_way_to_say_alpha(tiny: Tiny, tmp_path: Path) -> None:
    knobs = {"learning_rate": {"levels": [1e-3, 1e-2]}, "rank": [2, 4]}
    document = with_budget(tiny.document, steps=5) | {"design": {"kind": "grid"}, "variants": ["lora"]}
    home = tiny.home(tmp_path / "home")
    scaled = run_here(document | {"knobs": knobs | {"scale": {"levels": [1, 4]}}, "phases": ["explore"]}, home)
    assert (scaled.alpha == scaled.scale * scaled["rank"]).all()
    assert set(scaled.scale) == {1, 4}
    before = left(home)
    said = knobs | {"alpha": {"levels": [2, 4, 8, 16]}}
    run_here(document | {"name": "said", "knobs": said, "phases": ["explore"]}, home)
    assert before.items() <= left(home).items(), "the same settings under the same keys are trained once"
    assert len(left(home)) == 2 * len(before)


def test_a_confirmed_trial_says_which_test_examples_it_got_right(tiny: Tiny, tmp_path: Path) -> None:
    home = tiny.home(tmp_path / "home")
    rows = run_here(tiny.document | {"compute": {"dtype": "fp32"}}, home)
    known = correct(Ledger(home.storage), "small")
    confirmed = rows[rows.phase == "confirm"]
    assert set(known) == set(zip(confirmed.key, confirmed.seed, strict=True))
    for key, seed, score in zip(confirmed.key, confirmed.seed, confirmed.test_score, strict=True):
        assert known[key, seed].mean() == pytest.approx(score)


class Watched(dict[str, Examples]):
    """A task's splits, and which of them were asked for."""

    def __init__(self, splits: Mapping[str, Examples]) -> None:
        super().__init__(splits)
        self.asked: list[str] = []

    def __getitem__(self, split: str) -> Examples:
        self.asked.append(split)
        return super().__getitem__(split)


def test_nothing_reads_the_test_split_before_the_confirmation(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[Watched] = []

    def watching(task: spec.TaskSpec, cache: Path) -> Prepared:
        prepared = prepare(task, cache)
        watched.append(Watched(prepared.splits))
        return replace(prepared, splits=watched[-1])

    monkeypatch.setattr(worker, "prepare", watching)
    document = with_budget(tiny.document, steps=5) | {"phases": ["explore"]}
    home = tiny.home(tmp_path / "home")
    run_here(document, home)
    run_here(document | {"phases": ["explore", "confirm"]}, home)
    explored, confirmed = (Counter(splits.asked) for splits in watched)
    assert explored["train"] and explored["validation"] and not explored["test"]
    assert confirmed["test"]


# --- the study that a newcomer launches


def test_the_quickstart_runs_end_to_end(tiny: Tiny, tmp_path: Path) -> None:
    """On the pretrained model and the real sentences; fewer points and steps, two variants."""
    document = spec.resolved(*spec.load(ROOT / "studies" / "quickstart.yaml"))
    (task,) = document["tasks"]
    task |= {"budget": {"steps": 4, "batch_size": 4, "length": 16}, "rows": {"validation": 40, "test": 40}}
    document |= {"variants": ["lora", "pissa"], "design": document["design"] | {"points": 2}, "seeds": 1}
    home = tiny.home(tmp_path / "home")
    lorascope(home, "launch", written(document | {"compute": {"dtype": "fp32", "workers": 1}}, tmp_path))
    require_agreement(home, "quickstart", 2 * 2 + 2)
    assert (home.report("quickstart") / "report.html").stat().st_size > 10_000
