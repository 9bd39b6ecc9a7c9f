"""Mirrors: one script for all of them, and kill -9 anywhere loses and duplicates nothing."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from study.errors import BadInput
from study.redact import redact, secret
from study.trial import State, Trial
from trackers import Mirror, Point
from trackers import mlflow as mlflow_mirror
from trackers import spool as spool_files
from trackers.many import Many
from trackers.mlflow import MlflowTracker
from trackers.null import Null
from trackers.spool import PATTERN, Call, SpoolReader, SpoolWriter
from trackers.uploader import REJECTED, Uploader

ROOT = Path(__file__).resolve().parent.parent
CREATED_MS = 1_700_000_000_000
STUDY = "it's a study"
TRIAL = Trial(STUDY, "movies", "lora", "explore", "a" * 32, 0, {"learning_rate": 1e-3, "rank": 8, "init": "kaiming"})
FINAL = {"val_loss": 0.5, "val_score": 0.8}


def numbered(n: int) -> Trial:
    return replace(TRIAL, key=f"{n:032x}")


# --- passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pw@host:5000/x", "http://user:***@host:5000/x"),
        ("postgresql+psycopg://me:p%40s%2Fs@db:5432/lora", "postgresql+psycopg://me:***@db:5432/lora"),
        ("postgresql://me:p@ss@db/lora", "postgresql://me:***@db/lora"),
        ("postgresql://me:pa/ss@db/lora", "postgresql://me:***@db/lora"),
        ("http://me:5000@host", "http://me:***@host"),
        ("https://:pw@host", "https://:***@host"),
        ("http://a:b@c, https://d:e@f and http://g:h@i", "http://a:***@c, https://d:***@f and http://g:***@i"),
        ("http://a:b@c,https://d:e@f", "http://a:***@c,https://d:***@f"),
        ("'postgresql://a:b@c/d'", "'postgresql://a:***@c/d'"),
        ("postgresql://db/lora?user=me&password=pw&x=1", "postgresql://db/lora?user=me&password=***&x=1"),
    ],
)
def test_a_password_is_never_shown(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/@x",
        "http://me@host:5000/x",
        "http://[::1]:5000/@x",
        "sqlite:////home/me:you@work/mlflow.db",
        "sqlite:///mlflow.db",
        "mail me@host: now",
        "",
    ],
)
def test_text_without_a_password_is_unchanged(text: str) -> None:
    assert redact(text) == text


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(" postgresql://a:b@c/d\n")
    assert secret(f"@{file}") == "postgresql://a:b@c/d"
    assert secret("sqlite:///x.db") == "sqlite:///x.db"


@pytest.mark.parametrize("content", [None, b"", b"\xff"])
def test_a_secret_without_a_readable_file_is_bad_input(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadInput, match="this file") as error:
        secret(f"@{file}")
    assert "\n" not in str(error.value)


# --- the spool


def script(mirror: Mirror) -> None:
    """All a tracker may be told: trials that end in each state, told twice as a spool may tell them."""
    for n, state in enumerate(("finished", "diverged", "failed", "stopped")):
        trial = numbered(n)
        for _ in range(2):
            mirror.begin(trial)
            mirror.log(trial, 1, {"train_loss": 1.0, "val_loss": float("nan")})
            mirror.log_many(trial, [(2, {"train_loss": 0.9}), (3, {"train_loss": 0.8, "val_loss": float("inf")})])
            for _ in range(2):
                mirror.end(trial, state, FINAL if state in ("finished", "diverged") else {})


def told(calls: Sequence[Call]) -> list[tuple[str, str, int | None]]:
    return [(call.kind, call.trial.key, call.step) for call in calls]


def test_a_reader_reads_what_was_spooled(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "worker")
    writer.begin(TRIAL)
    writer.log(TRIAL, 7, {"val_loss": 0.25})
    writer.end(TRIAL, "finished", FINAL)
    begin, log, end = SpoolReader(tmp_path).read()
    assert begin.trial == log.trial == end.trial == TRIAL
    assert (begin.kind, log.kind, end.kind) == ("begin", "log", "end")
    assert (log.step, log.values, end.state, end.values) == (7, {"val_loss": 0.25}, "finished", FINAL)


def test_a_spooled_call_costs_well_under_50_microseconds(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "worker")
    seconds: list[float] = []
    for _ in range(10):
        start = time.perf_counter()
        for step in range(500):
            writer.log(TRIAL, step, {"train_loss": 0.5})
        seconds.append((time.perf_counter() - start) / 500)
    assert min(seconds) < 50e-6


def test_calls_of_all_writers_come_in_the_order_they_were_made(tmp_path: Path) -> None:
    writers = [SpoolWriter(tmp_path, f"worker-{n}") for n in range(3)]
    for step in range(30):
        writers[step * 7 % 3].log(TRIAL, step, {})
    reader = SpoolReader(tmp_path)
    assert [call.step for call in reader.read()] == list(range(30))
    assert [call.step for call in reader.read(5)] == list(range(5))
    assert reader.backlog() == 30


def test_a_clock_set_back_reorders_no_calls_of_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_files, "SEGMENT", 1)  # every call in a file of its own
    clock = iter([1000.0, 400.0, 900.0, 1001.0])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    writer = SpoolWriter(tmp_path, "worker")
    for step in range(4):
        writer.log(TRIAL, step, {})
    assert [call.step for call in SpoolReader(tmp_path).read()] == [0, 1, 2, 3]


def test_a_reader_killed_between_deliveries_is_told_the_rest_again(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "worker")
    script(writer)
    writer.close()  # dead as well, so nothing but what is left to read keeps the file
    everything = SpoolReader(tmp_path).read()
    for cut in range(0, len(everything), 3):
        reader = SpoolReader(tmp_path)  # a new one each time: the last one is dead
        rest = reader.read()
        assert told(rest) == told(everything[max(cut - 3, 0) :])
        reader.commit(rest[: cut - max(cut - 3, 0)])
        assert SpoolReader(tmp_path).backlog() == len(everything) - cut


def test_positions_that_cannot_be_read_mean_that_all_is_told_again(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "worker")
    writer.begin(TRIAL)
    reader = SpoolReader(tmp_path)
    reader.commit(reader.read())
    (tmp_path / "position.json").write_bytes(b"\0\0\0")
    assert SpoolReader(tmp_path).backlog() == 1


def test_a_writer_killed_at_any_byte_loses_only_the_call_it_was_in(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "whole", "worker")
    for step in range(3):
        writer.log(TRIAL, step, {"train_loss": 0.5})
    writer.close()
    (file,) = (tmp_path / "whole").glob(PATTERN)
    whole = file.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    folder = tmp_path / "cut"
    for size in range(start, len(whole) + 1):
        folder.mkdir()
        (folder / file.name).write_bytes(whole[:size])
        reborn = SpoolWriter(folder, "worker")
        reborn.log(TRIAL, 9, {})
        reader = SpoolReader(folder)
        expected = [0, 1, 9] if size < len(whole) else [0, 1, 2, 9]
        assert [call.step for call in reader.read()] == expected
        reader.commit(reader.read())
        assert [path.name for path in folder.glob(PATTERN)] != [file.name], "the dead writer's file is removed"
        assert len(list(folder.glob(PATTERN))) == 1
        reborn.close()
        shutil.rmtree(folder)


def test_a_torn_line_waits_for_its_rest_and_is_skipped_where_that_never_comes(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "worker")
    writer.log(TRIAL, 0, {})
    (file,) = tmp_path.glob(PATTERN)
    line = file.read_bytes()
    reader = SpoolReader(tmp_path)
    with file.open("ab", buffering=0) as other:
        other.write(line[:20])
        assert reader.backlog() == 1
        other.write(line[20:])
        assert reader.backlog() == 2
        other.write(line[:20] + b"\n")
        writer.log(TRIAL, 5, {})
    assert [call.step for call in reader.read()] == [0, 0, 5]


def test_a_full_disk_delays_calls_and_tears_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(tmp_path, "worker")
    write = os.write
    room = [30]  # bytes that still fit

    def full(file: int, data: bytes) -> int:
        count = write(file, data[: room[0]]) if room[0] else 0
        room[0] -= count
        if not count:
            raise OSError(errno.ENOSPC, "No space left on device")
        return count

    monkeypatch.setattr(os, "write", full)
    for step in range(3):
        writer.log(TRIAL, step, {})
    assert SpoolReader(tmp_path).backlog() == 0
    with pytest.raises(OSError, match="No space"):
        writer.close()
    room[0] = 10**6
    writer.log(TRIAL, 3, {})
    assert [call.step for call in SpoolReader(tmp_path).read()] == [0, 1, 2, 3]


def test_files_are_removed_once_they_are_read_and_their_writer_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_files, "SEGMENT", 2000)
    writer = SpoolWriter(tmp_path, "worker")
    for step in range(100):
        writer.log(TRIAL, step, {})
    assert len(list(tmp_path.glob(PATTERN))) > 10
    reader = SpoolReader(tmp_path)
    calls = reader.read()
    assert [call.step for call in calls] == list(range(100))
    reader.commit(calls)
    assert len(list(tmp_path.glob(PATTERN))) <= 1
    writer.begin(TRIAL)
    assert told(reader.read()) == [("begin", TRIAL.key, None)]


WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from study.trial import Trial
from trackers.spool import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]), "worker")
trial = Trial("study", "task", "variant", "explore", sys.argv[2], 0, {})
for step in itertools.count():
    writer.log(trial, step, {"train_loss": 0.5})
"""


def test_writers_that_are_killed_leave_all_they_wrote_and_readers_keep_up(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path), f"key-{n}"], start_new_session=True)
        for n in range(3)
    ]
    reader = SpoolReader(tmp_path)
    steps: dict[str, list[int | None]] = {}

    def consume() -> None:
        while calls := reader.read():
            for call in calls:
                steps.setdefault(call.trial.key, []).append(call.step)
            reader.commit(calls)
            if sum(map(len, steps.values())) > 9000:
                for writer in writers:
                    writer.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 30
    while any(writer.poll() is None for writer in writers) and time.monotonic() < deadline:
        consume()
    for writer in writers:
        writer.wait(timeout=10)
    consume()
    reader.sweep()
    assert len(steps) >= 1
    assert all(seen == list(range(len(seen))) for seen in steps.values())
    assert list(tmp_path.glob(PATTERN)) == [], "their locks died with them"


# --- MLflow

OPEN = """
import sys
from trackers.mlflow import MlflowTracker
MlflowTracker(sys.argv[1], 0)
"""


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A store with MLflow's tables, made once, by two processes that come at the same time; and what they printed."""
    path = tmp_path_factory.mktemp("fresh", numbered=False) / "mlflow.db"
    elsewhere = tmp_path_factory.mktemp("elsewhere", numbered=False)
    makers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OPEN, f"sqlite:///{path}"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=elsewhere,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    return path, [maker.communicate(timeout=60)[0] for maker in makers]


@pytest.fixture
def uri(fresh_store: tuple[Path, list[str]], tmp_path: Path) -> str:
    shutil.copy(fresh_store[0], tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def child_runs(client: MlflowClient) -> list[Run]:
    """Straight from the server, whatever MlflowTracker says."""
    experiment = client.get_experiment_by_name(STUDY)
    assert experiment is not None
    return [run for run in client.search_runs([experiment.experiment_id]) if "lorascope.key" in run.data.tags]


def parent_runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name(STUDY)
    assert experiment is not None
    return [run for run in client.search_runs([experiment.experiment_id]) if "lorascope.cell" in run.data.tags]


def points(client: MlflowClient, run: Run) -> dict[str, list[int]]:
    """Metric -> the steps of all its points, doubles included."""
    run_id = run.info.run_id
    return {name: sorted(p.step for p in client.get_metric_history(run_id, name)) for name in run.data.metrics}


def test_mlflow_makes_its_store_once_in_silence_and_nothing_elsewhere(fresh_store: tuple[Path, list[str]]) -> None:
    path, printed = fresh_store
    assert printed == ["", ""]
    assert {file.name for file in path.parent.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    assert list((path.parent.parent / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["null", "spool", "mlflow", "many"])
def test_every_tracker_passes_one_script(
    name: str, uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "spool"
    makers: dict[str, Callable[[], Mirror]] = {
        "null": Null,
        "spool": lambda: SpoolWriter(folder, "worker"),
        "mlflow": lambda: MlflowTracker(uri, CREATED_MS),
        "many": lambda: Many([Null(), SpoolWriter(folder, "worker"), MlflowTracker(uri, CREATED_MS)]),
    }
    script(makers[name]())
    assert capfd.readouterr() == ("", "")
    if name in ("spool", "many"):
        assert SpoolReader(folder).backlog() == 4 * 2 * (1 + 3 + 2)
    if name in ("mlflow", "many"):
        assert_script(MlflowClient(uri))


def assert_script(client: MlflowClient) -> None:
    runs = {run.data.tags["lorascope.key"]: run for run in child_runs(client)}
    assert len(runs) == len(child_runs(client)) == 4
    statuses = [runs[numbered(n).key].info.status for n in range(4)]
    assert statuses == ["FINISHED", "FINISHED", "FAILED", "KILLED"]
    assert [runs[numbered(n).key].data.tags.get("diverged") for n in range(4)] == [None, "true", None, None]
    for n in range(4):
        finals = [4] if n < 2 else []
        expected = {"train_loss": [1, 2, 3], "val_loss": [1, 3, *finals]} | ({"val_score": [4]} if n < 2 else {})
        assert points(client, runs[numbered(n).key]) == expected
    assert runs[numbered(0).key].data.metrics["val_loss"] == 0.5, "the number shown is the final one"


def test_a_run_says_which_trial_it_is_and_hangs_below_its_cell(uri: str, tmp_path: Path) -> None:
    tracker = MlflowTracker(uri, CREATED_MS)
    for trial in (TRIAL, replace(TRIAL, seed=1), replace(TRIAL, variant="dora", key="d" * 32)):
        tracker.begin(trial)
    client = MlflowClient(uri)
    run = next(r for r in child_runs(client) if r.data.tags["lorascope.variant"] == "dora")
    cells = {parent.info.run_id: parent for parent in parent_runs(client)}
    assert Counter(r.data.tags["mlflow.parentRunId"] in cells for r in child_runs(client)) == {True: 3}
    assert len(cells) == 2
    assert cells[run.data.tags["mlflow.parentRunId"]].data.tags["lorascope.variant"] == "dora"
    assert run.data.params == {
        "learning_rate": "0.001",
        "rank": "8",
        "init": "kaiming",
        "seed": "0",
        "phase": "explore",
        "task": "movies",
        "variant": "dora",
    }
    tags = {name.removeprefix("lorascope."): v for name, v in run.data.tags.items() if name.startswith("lorascope.")}
    assert tags == {
        "study": STUDY,
        "key": "d" * 32,
        "seed": "0",
        "phase": "explore",
        "task": "movies",
        "variant": "dora",
    }
    assert run.info.artifact_uri == f"{(tmp_path / 'artifacts').as_uri()}/{run.info.run_id}/artifacts"


def attempt(mirror: Mirror, trial: Trial, steps: range, noise: float, state: State | None) -> None:
    """One attempt at a trial; killed where `state` is None. Its numbers differ from another's by `noise`."""
    mirror.begin(trial)
    for step in steps:
        mirror.log(trial, step, {"train_loss": 1 / (1 + step) + noise})
        if step % 5 == 0:
            mirror.log(trial, step, {"val_loss": 2.0 + noise})
    if state is not None:
        mirror.end(trial, state, FINAL)


def test_a_trial_that_is_killed_and_run_again_is_one_run_with_one_point_a_step(uri: str, tmp_path: Path) -> None:
    trials = [numbered(n) for n in range(3)]

    def deliver(state: State | None, name: str, steps: range, noise: float, limit: int | None) -> None:
        """A worker and an uploader that both die: the worker after `steps`, the uploader before it commits."""
        writer = SpoolWriter(tmp_path / "spool", name)
        for trial in trials:
            attempt(writer, trial, steps, noise, state)
        uploader_dies(uri, tmp_path / "spool", limit)

    deliver(None, "first", range(12), 0.0, 17)
    deliver(None, "second", range(25), 0.001, 60)
    deliver("finished", "third", range(20), 0.002, None)
    client = MlflowClient(uri)
    runs = child_runs(client)
    assert sorted(run.data.tags["lorascope.key"] for run in runs) == [trial.key for trial in trials]
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        expected = {"train_loss": list(range(25)), "val_loss": [0, 5, 10, 15, 20, 25], "val_score": [25]}
        assert points(client, run) == expected


def uploader_dies(uri: str, folder: Path, limit: int | None) -> None:
    """Deliver `limit` calls and die without committing them; all of them, and commit, where it is None."""
    reader, tracker = SpoolReader(folder), MlflowTracker(uri, CREATED_MS)
    calls = reader.read()
    for call in calls[:limit]:
        if call.kind == "begin":
            tracker.begin(call.trial)
        elif call.step is not None:
            tracker.log(call.trial, call.step, call.values)
        elif call.state is not None:
            tracker.end(call.trial, call.state, call.values)
    if limit is None:
        reader.commit(calls)


def test_a_finished_run_stays_as_it_is(uri: str) -> None:
    stored: list[str] = []
    tracker = MlflowTracker(uri, CREATED_MS, lambda trial, run_id: stored.append(run_id))
    attempt(tracker, TRIAL, range(3), 0.0, "finished")
    client = MlflowClient(uri)
    (before,) = child_runs(client)
    for later in (tracker, MlflowTracker(uri, CREATED_MS)):
        attempt(later, TRIAL, range(9), 0.5, "failed")
        later.end(TRIAL, "diverged", {"val_loss": 9.0})
    (after,) = child_runs(client)
    assert after.to_dictionary() == before.to_dictionary()
    assert points(client, after) == points(client, before)
    assert stored == [before.info.run_id] * 2, "told once for each end that is surely stored"


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_run_that_failed_or_was_stopped_goes_on(uri: str, state: State) -> None:
    attempt(MlflowTracker(uri, CREATED_MS), TRIAL, range(3), 0.0, state)
    tracker = MlflowTracker(uri, CREATED_MS)
    tracker.close_cells(STUDY, "stopped")
    tracker.begin(TRIAL)
    client = MlflowClient(uri)
    assert {run.info.status for run in child_runs(client) + parent_runs(client)} == {"RUNNING"}
    attempt(tracker, TRIAL, range(6), 0.1, "finished")
    (run,) = child_runs(client)
    assert points(client, run) == {"train_loss": [*range(6)], "val_loss": [0, 5, 6], "val_score": [6]}


CREATES = ["create_experiment", "create_run", "log_batch", "set_terminated"]


@pytest.mark.parametrize("method", CREATES)
def test_an_answer_lost_after_the_commit_makes_no_ghost(uri: str, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Every call to `method` reaches the store, and every other answer is lost on the way back."""
    calls = lose_answers(monkeypatch, method)
    tracker = MlflowTracker(uri, CREATED_MS)
    for trial in (numbered(1), numbered(2)):
        for call in (
            lambda t=trial: tracker.begin(t),
            lambda t=trial: tracker.log(t, 1, {"val_loss": 1.0}),
            lambda t=trial: tracker.end(t, "diverged", FINAL),
        ):
            insist(call)
    assert calls[0], "an answer was lost"
    monkeypatch.undo()
    client = MlflowClient(uri)
    assert [run.info.status for run in child_runs(client)] == ["FINISHED", "FINISHED"]
    assert len(parent_runs(client)) == 1
    for run in child_runs(client):
        assert points(client, run) == {"val_loss": [1, 2], "val_score": [2]}
        assert run.data.tags["diverged"] == "true"
        assert run.data.params["rank"] == "8"


def lose_answers(monkeypatch: pytest.MonkeyPatch, method: str) -> list[int]:
    """The number of calls so far, which goes on counting."""
    inner = vars(MlflowClient)[method]
    calls = [0]

    def lost(self: MlflowClient, *args: object, **options: object) -> object:
        answer = inner(self, *args, **options)
        calls[0] += 1
        if calls[0] % 2:
            raise MlflowException("API request to http://me:pw@host failed with exception: connection reset")
        return answer

    monkeypatch.setattr(MlflowClient, method, lost)
    return calls


def insist(call: Callable[[], None]) -> None:
    for _ in range(10):
        try:
            return call()
        except ConnectionError:
            continue
    raise AssertionError("ten times is enough")


def test_a_ghost_that_commits_late_is_deleted_when_it_is_seen(uri: str) -> None:
    tracker = MlflowTracker(uri, CREATED_MS)
    attempt(tracker, TRIAL, range(3), 0.0, None)
    client = MlflowClient(uri)

    def haunt() -> str:
        (run,) = child_runs(client)
        (parent,) = parent_runs(client)
        client.create_run(parent.info.experiment_id, 1, dict(parent.data.tags))
        client.create_run(run.info.experiment_id, 1, dict(run.data.tags))  # older, and empty
        return run.info.run_id

    real = haunt()
    MlflowTracker(uri, CREATED_MS).begin(TRIAL)
    assert [run.info.run_id for run in child_runs(client)] == [real]
    tracker.end(TRIAL, "finished", FINAL)
    assert haunt() == real
    tracker.close_cells(STUDY, "finished")
    assert [run.info.run_id for run in child_runs(client)] == [real]
    assert [run.info.status for run in child_runs(client) + parent_runs(client)] == ["FINISHED", "FINISHED"]


def test_closing_a_study_leaves_nothing_running_and_touches_no_run_of_others(uri: str) -> None:
    tracker = MlflowTracker(uri, CREATED_MS)
    attempt(tracker, numbered(0), range(2), 0.0, "finished")
    attempt(tracker, numbered(1), range(2), 0.0, None)
    client = MlflowClient(uri)
    (parent,) = parent_runs(client)
    foreign = client.create_run(parent.info.experiment_id)
    tracker.close_cells(STUDY, "stopped")
    assert sorted(run.status for run in tracker.runs(STUDY)) == ["FINISHED", "KILLED"]
    assert [run.info.status for run in parent_runs(client)] == ["KILLED"]
    assert client.get_run(foreign.info.run_id).info.status == "RUNNING"
    tracker.close_cells(STUDY, "finished")
    assert [run.info.status for run in parent_runs(client)] == ["FINISHED"]
    tracker.close_cells("no such study", "finished")


def test_a_report_is_kept_once_and_is_the_last_one(uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    for words in ("first", "second"):
        (folder / "report.html").write_text(words)
        MlflowTracker(uri, 0).keep_report(STUDY, folder)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(STUDY)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("report", "FINISHED")
    assert Path(client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))).read_text() == "second"


def test_a_run_is_shown_under_its_experiment(uri: str) -> None:
    page = MlflowTracker(uri, 0).page(STUDY)
    experiment = MlflowClient(uri).get_experiment_by_name(STUDY)
    assert experiment is not None
    assert page == f"/#/experiments/{experiment.experiment_id}/runs/"


def test_runs_are_listed_page_by_page(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MlflowTracker(uri, CREATED_MS)
    for n in range(10):
        tracker.begin(replace(numbered(n), seed=n % 2))
    monkeypatch.setattr(mlflow_mirror, "PAGE", 3)
    assert sorted(run[:3] for run in tracker.runs(STUDY)) == [(numbered(n).key, n % 2, "RUNNING") for n in range(10)]
    assert tracker.runs("no such study") == []


def test_an_experiment_that_somebody_deleted_is_restored(uri: str) -> None:
    attempt(MlflowTracker(uri, CREATED_MS), TRIAL, range(2), 0.0, None)
    client = MlflowClient(uri)
    (run,) = child_runs(client)
    client.delete_experiment(run.info.experiment_id)
    attempt(MlflowTracker(uri, CREATED_MS), TRIAL, range(4), 0.0, "finished")
    assert [r.info.run_id for r in child_runs(client)] == [run.info.run_id]


def test_a_store_that_was_emptied_is_filled_again(uri: str) -> None:
    tracker = MlflowTracker(uri, CREATED_MS)
    tracker.begin(TRIAL)
    client = MlflowClient(uri)
    (run,) = child_runs(client)
    client.delete_run(run.info.run_id)
    with pytest.raises(MlflowException):
        tracker.log(TRIAL, 1, {"val_loss": 1.0})  # somebody wanted this run gone
    attempt(tracker, TRIAL, range(2), 0.0, "finished")
    (again,) = child_runs(client)
    assert again.info.status == "FINISHED"


def test_curves_longer_than_a_batch_arrive_whole(uri: str) -> None:
    tracker = MlflowTracker(uri, CREATED_MS)
    tracker.log_many(TRIAL, [(step, {"train_loss": 1.0, "val_loss": 2.0}) for step in range(1100)])
    client = MlflowClient(uri)
    (run,) = child_runs(client)
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(p.step, p.timestamp) for p in history] == [(step, CREATED_MS + step) for step in range(1100)]


def test_an_uri_that_is_neither_a_store_nor_a_server_is_bad_input() -> None:
    with pytest.raises(BadInput, match="postgresql://me:\\*\\*\\*@db"):
        MlflowTracker("postgresql://me:pw@db", CREATED_MS)


# --- several mirrors, and the thread that feeds them


class Recorder(Mirror):
    """Writes down what it was told; raises what `trouble` says of a call before it does."""

    def __init__(self, trouble: Callable[[str, Trial, int | None], Exception | None] = lambda *_: None) -> None:
        self.told: list[tuple[str, str, int | None]] = []
        self.batches: list[int] = []
        self._trouble = trouble

    def begin(self, trial: Trial) -> None:
        self._note("begin", trial, None)

    def log(self, trial: Trial, step: int, values: Mapping[str, float]) -> None:
        self._note("log", trial, step)

    def log_many(self, trial: Trial, points: Sequence[Point]) -> None:
        self.batches.append(len(points))
        super().log_many(trial, points)

    def end(self, trial: Trial, state: State, values: Mapping[str, float]) -> None:
        self._note("end", trial, None)

    def _note(self, kind: str, trial: Trial, step: int | None) -> None:
        error = self._trouble(kind, trial, step)
        if error is not None:
            raise error
        self.told.append((kind, trial.key, step))


def test_one_that_raises_does_not_stop_the_others() -> None:
    first, last = Recorder(lambda *_: ValueError("bad")), Recorder()
    with pytest.raises(RuntimeError, match="bad"):
        Many([first, last]).begin(TRIAL)
    assert last.told == [("begin", TRIAL.key, None)]
    down = Recorder(lambda *_: TimeoutError("later"))
    with pytest.raises(ConnectionError, match=r"bad.*later"):
        Many([first, down, last]).end(TRIAL, "finished", {})
    assert len(last.told) == 2


@pytest.fixture
def uploaders() -> Iterator[Callable[..., Uploader]]:
    started: list[Uploader] = []

    def start(folder: Path, open_mirror: Callable[[], Mirror]) -> Uploader:
        started.append(Uploader(SpoolReader(folder), open_mirror))
        return started[-1]

    yield start
    for uploader in started:
        uploader.stop()


def test_each_trials_calls_arrive_in_order_once_and_in_batches(
    tmp_path: Path, uploaders: Callable[..., Uploader]
) -> None:
    recorder = Recorder()
    writers = [SpoolWriter(tmp_path, f"worker-{n}") for n in range(4)]
    trials = [numbered(n) for n in range(4)]
    uploader = uploaders(tmp_path, lambda: recorder)

    def work(writer: SpoolWriter, trial: Trial) -> None:
        attempt(writer, trial, range(1000), 0.0, "finished")

    threads = [threading.Thread(target=work, args=pair) for pair in zip(writers, trials, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert uploader.drain(30) == 0
    for trial in trials:
        expected = Recorder()
        attempt(expected, trial, range(1000), 0.0, "finished")
        assert [call for call in recorder.told if call[1] == trial.key] == expected.told
    assert sum(recorder.batches) == 4 * 1200
    assert len(recorder.batches) < 100


def test_a_mirror_that_is_down_delays_calls_and_loses_none(tmp_path: Path, uploaders: Callable[..., Uploader]) -> None:
    up = threading.Event()
    tries: list[float] = []

    def trouble(kind: str, trial: Trial, step: int | None) -> Exception | None:
        tries.append(time.monotonic())
        down = not up.is_set() and step == 2
        return ConnectionError("http://me:pw@host\nis down") if down else None

    recorder = Recorder(trouble)
    script(SpoolWriter(tmp_path, "worker"))
    uploader = uploaders(tmp_path, lambda: recorder)
    everything = SpoolReader(tmp_path).backlog()
    assert uploader.drain(2.5) == everything
    assert uploader.last_error == "ConnectionError: http://me:***@host is down"
    assert len(tries) < 9, "it waits longer each time"
    up.set()
    assert uploader.drain(10) == 0
    assert uploader.last_error is None
    script(expected := Recorder())
    assert recorder.told[-len(expected.told) + 2 :] == expected.told[2:]


def test_an_uploader_that_is_stopped_leaves_what_it_did_not_deliver(
    tmp_path: Path, uploaders: Callable[..., Uploader]
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def trouble(kind: str, trial: Trial, step: int | None) -> Exception | None:
        entered.set()
        go_on.wait(10)
        return None

    recorder = Recorder(trouble)
    script(SpoolWriter(tmp_path, "worker"))
    uploader = uploaders(tmp_path, lambda: recorder)
    assert entered.wait(10)
    uploader.stop(0)
    go_on.set()
    uploader.stop()
    assert len(recorder.told) == 1
    assert SpoolReader(tmp_path).backlog() == 48


def test_a_mirror_that_cannot_be_opened_yet_is_opened_later(tmp_path: Path, uploaders: Callable[..., Uploader]) -> None:
    tries = iter([RuntimeError("half a schema"), None])
    recorder = Recorder()

    def open_mirror() -> Mirror:
        error = next(tries)
        if error is not None:
            raise error
        return recorder

    SpoolWriter(tmp_path, "worker").begin(TRIAL)
    assert uploaders(tmp_path, open_mirror).drain(10) == 0
    assert recorder.told == [("begin", TRIAL.key, None)]


def test_a_poisoned_call_is_set_aside_and_blocks_nothing(
    tmp_path: Path, uploaders: Callable[..., Uploader], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(lambda kind, trial, step: ValueError("a bad\nvalue") if step == 5 else None)
    attempt(SpoolWriter(tmp_path, "worker"), TRIAL, range(10), 0.0, "finished")
    uploader = uploaders(tmp_path, lambda: recorder)
    assert uploader.drain(10) == 0
    assert ("end", TRIAL.key, None) == recorder.told[-1]
    assert [step for kind, _, step in dict.fromkeys(recorder.told) if kind == "log"] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    rejected = [json.loads(line) for line in (tmp_path / REJECTED).read_text().splitlines()]
    assert [(entry["kind"], entry["step"], entry["error"]) for entry in rejected] == [
        ("log", 5, "ValueError: a bad value")
    ] * 2
    assert len(caplog.records) == 2
    assert uploader.last_error is None, "the mirror itself is not behind"


def test_a_begin_is_seen_in_mlflow_within_five_seconds(
    uri: str, tmp_path: Path, uploaders: Callable[..., Uploader]
) -> None:
    folder = tmp_path / "spool"
    uploaders(folder, lambda: MlflowTracker(uri, CREATED_MS))
    writer = SpoolWriter(folder, "worker")
    eye = MlflowTracker(uri, CREATED_MS)
    start = time.monotonic()
    writer.begin(TRIAL)
    while not eye.runs(STUDY) and time.monotonic() < start + 10:
        time.sleep(0.05)
    assert time.monotonic() - start < 5


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_hangs_hangs_nobody(
    tmp_path: Path, uploaders: Callable[..., Uploader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://me:pw@127.0.0.1:{silent.getsockname()[1]}"
        SpoolWriter(tmp_path, "worker").begin(TRIAL)
        uploader = uploaders(tmp_path, lambda: MlflowTracker(address, CREATED_MS))
        assert uploader.drain(2.5) == 1
        assert uploader.last_error is not None
        assert "timed out" in uploader.last_error
        assert "pw" not in uploader.last_error
        start = time.monotonic()
        uploader.stop()
        assert time.monotonic() - start < 3


def test_a_server_that_comes_up_late_is_told_everything(
    uri: str, tmp_path: Path, uploaders: Callable[..., Uploader], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, port = tmp_path / "spool", free_port()
    uploader = uploaders(folder, lambda: MlflowTracker(f"http://127.0.0.1:{port}", CREATED_MS))
    script(SpoolWriter(folder, "worker"))
    assert uploader.drain(1.5) == 48
    assert uploader.last_error is not None
    assert uploader.last_error.startswith("ConnectionError")
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--workers",
                "1",
                "--port",
                str(port),
                "--backend-store-uri",
                uri,
            ],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        assert uploader.drain(35) == 0, (tmp_path / "server.log").read_text()
        assert uploader.last_error is None
        assert_script(MlflowClient(uri))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.status == 200
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=10)
    assert capfd.readouterr() == ("", "")
