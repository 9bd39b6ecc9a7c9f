"""Kill -9, Ctrl-C, a frozen controller, a tracking server that is down: nothing is lost and nothing is there twice."""

import json
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from study.home import Home
from study.ledger import Ledger
from study.table import progress
from tests.test_study import (
    BAD_INPUT,
    DONE,
    FAILED,
    Command,
    Document,
    Tiny,
    left,
    lorascope,
    mirrored,
    require_agreement,
    tiny,
    with_budget,
    written,
)
from tests.test_trackers import free_port

__all__ = ["tiny"]  # a fixture

STEPS = 80
PATIENCE = 90.0  # seconds a study may take, on a busy machine, to come where a test waits for it
T = TypeVar("T")


# --- watching a study from outside


def until(command: Command, found: Callable[[], T]) -> T:
    """What `found` returns once that is true; fails where the command ends before."""
    deadline = time.monotonic() + PATIENCE
    while not (seen := found()):
        assert command.process.exitcode is None, f"ended too early: {command.err}"
        assert time.monotonic() < deadline, f"waited in vain: {command.err}"
        time.sleep(0.02)
    return seen


def accepted(home: Home) -> int:
    """How many results the home's ledger holds."""
    return len(left(home))


def workers(home: Home) -> dict[psutil.Process, Path]:
    """The living processes that have trained something here, and where each writes down what it does."""
    files = {int(path.name.split(".")[2]): path for path in home.path.glob("spool/**/worker.*.calls.jsonl")}
    return {psutil.Process(pid): path for pid, path in files.items() if psutil.pid_exists(pid)}


def in_training(home: Home) -> psutil.Process | None:
    """A worker that is in the middle of its trials: the last thing it wrote down is a step from the middle."""
    for worker, path in workers(home).items():
        lines = path.read_text().splitlines(keepends=True)
        if lines and lines[-1].endswith("\n"):
            call = json.loads(lines[-1])
            if call["call"] == "log" and STEPS / 4 < call["step"] < STEPS * 3 / 4:
                return worker
    return None


def mid_study(command: Command, home: Home, results: int) -> psutil.Process:
    """A worker in the middle of its trials once there are so many results."""
    return until(command, lambda: in_training(home) if accepted(home) >= results else None)


def counts(home: Home, study: str) -> dict[str, object]:
    """What `status --json` says of a study."""
    book = Ledger(home.storage)
    row = book.study(study)
    assert row is not None
    return progress(book, row)


def statuses(home: Home, study: str) -> Counter[str]:
    """How many of the study's runs have which status; cells and trials."""
    cells, runs = mirrored(home, study)
    return Counter(run.info.status for run in (*cells, *runs))


def opened(tiny: Tiny, folder: Path) -> Home:
    """A home whose ledger has its tables, so that it can be watched before anybody runs a study there."""
    home = tiny.home(folder / "home")
    Ledger(home.storage, migrate=True).engine.dispose()
    return home


# --- one study, cut off again and again


@dataclass
class Cut:
    """How a launch ended, and what it left behind."""

    code: int
    err: str
    outlived: list[psutil.Process]  # workers that are still there
    results: dict[tuple[str, int], float]  # when each was accepted
    statuses: Counter[str]
    state: object


@dataclass
class Story:
    """A study that was cut off in each of these ways, in this order, and then left alone."""

    home: Home
    cuts: dict[str, Cut] = field(default_factory=dict)


def hardy(document: Document) -> Document:
    """16 trials in 4 packs and 4 in 2, each of a second or more; one worker."""
    compute = {"dtype": "fp32", "pack_size": 4, "workers": 1}
    return with_budget(document, steps=STEPS) | {"name": "hardy", "compute": compute}


@pytest.fixture(scope="module")
def story(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    story = Story(opened(tiny, folder))
    begin = ("launch", written(hardy(tiny.document), folder))
    cuts = {"SIGKILL": kill, "frozen": freeze, "SIGINT": interrupt, "SIGTERM": terminate}
    for n, (name, cut) in enumerate(cuts.items(), 1):
        command = Command(story.home, *begin)
        mid_study(command, story.home, results=4 * n)
        story.cuts[name] = ended(command, story.home, cut)
        begin = ("resume", "hardy")
    lorascope(story.home, *begin)
    return story


def ended(command: Command, home: Home, cut: Callable[[Command, Home], None]) -> Cut:
    """What is there once the command has been cut off."""
    below = list(workers(home))
    cut(command, home)
    code = command.wait(PATIENCE)
    _, outlived = psutil.wait_procs(below, timeout=5)
    return Cut(code, command.err, outlived, left(home), statuses(home, "hardy"), counts(home, "hardy")["state"])


def kill(command: Command, home: Home) -> None:
    command.signal(signal.SIGKILL)


def interrupt(command: Command, home: Home) -> None:
    command.signal(signal.SIGINT)


def terminate(command: Command, home: Home) -> None:
    command.signal(signal.SIGTERM)


def freeze(command: Command, home: Home) -> None:
    """Stop it until its lease has run out and been taken by somebody else, who leaves again; then let it go on."""
    book = Ledger(home.storage)
    command.signal(signal.SIGSTOP)
    while (epoch := book.take("hardy")) is None:
        time.sleep(0.1)
    command.signal(signal.SIGCONT)
    command.wait(PATIENCE)
    with book.controlling("hardy", epoch) as writer:
        writer.release("stopped", 0.0)


def test_a_study_cut_off_four_times_is_completed_with_nothing_lost_and_nothing_twice(story: Story) -> None:
    require_agreement(story.home, "hardy", 2 * 4 * 2 + 2 * 2)


def test_no_result_is_trained_again_after_a_cut(story: Story) -> None:
    seen = [cut.results for cut in story.cuts.values()] + [left(story.home)]
    for before, after in pairwise(seen):
        assert before.items() <= after.items()


@pytest.mark.parametrize("cut", ["SIGKILL", "frozen", "SIGINT", "SIGTERM"])
def test_no_worker_outlives_its_controller(story: Story, cut: str) -> None:
    assert story.cuts[cut].outlived == []


@pytest.mark.parametrize("cut", ["SIGINT", "SIGTERM"])
def test_a_polite_signal_stops_cleanly_and_says_how_to_go_on(story: Story, cut: str) -> None:
    stopped = story.cuts[cut]
    assert stopped.code == FAILED
    assert stopped.err.splitlines()[-1] == f"stopped; go on with: lorascope resume hardy --home {story.home.path}"
    assert "Traceback" not in stopped.err
    assert stopped.state == "stopped"
    assert set(stopped.statuses) == {"FINISHED", "KILLED"}, "no run is left RUNNING"


def test_a_controller_that_was_frozen_and_replaced_gives_up_in_one_line(story: Story) -> None:
    frozen = story.cuts["frozen"]
    assert frozen.code == FAILED
    assert frozen.err.splitlines()[-1] == "study hardy has been taken over by another controller"
    assert "Traceback" not in frozen.err


def test_a_killed_controller_leaves_a_study_that_says_so(story: Story) -> None:
    assert story.cuts["SIGKILL"].code == -signal.SIGKILL
    assert story.cuts["SIGKILL"].state in ("running", "interrupted"), "interrupted once its lease has run out"


# --- workers that die


@dataclass(frozen=True)
class Deaths:
    """A study of two packs whose first one killed its worker three times."""

    home: Home
    killed: list[int]
    code: int
    err: str
    counts: dict[str, object]
    statuses: Counter[str]


@pytest.fixture(scope="module")
def deaths(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Deaths:
    folder = tmp_path_factory.mktemp("deaths")
    home = opened(tiny, folder)
    document = hardy(tiny.document) | {"variants": ["lora"], "phases": ["explore"]}
    command = Command(home, "launch", written(document, folder))
    killed = [kill_one(command, home) for _ in range(3)]
    code = command.wait(PATIENCE)
    return Deaths(home, killed, code, command.err, counts(home, "hardy"), statuses(home, "hardy"))


def kill_one(command: Command, home: Home) -> int:
    """Kill the worker in the middle of its trials; its process id."""
    worker = mid_study(command, home, results=0)
    worker.kill()
    worker.wait(5)
    return worker.pid


def test_a_pack_whose_worker_dies_three_times_fails_and_the_others_complete(deaths: Deaths) -> None:
    assert len(set(deaths.killed)) == 3
    assert deaths.code == FAILED
    assert "4 trials failed" in deaths.err
    assert "its worker died 3 times" in deaths.err
    assert deaths.counts["state"] == "failed"
    assert [deaths.counts[name] for name in ("asked", "finished", "failed", "missing")] == [8, 4, 4, 0]
    assert deaths.statuses == {"FINISHED": 4 + 1, "FAILED": 4}, "the cell has come to its end"


def test_the_next_launch_tries_failed_trials_again_and_survives_a_worker_killed_once(deaths: Deaths) -> None:
    before = left(deaths.home)
    command = Command(deaths.home, "resume", "hardy")
    kill_one(command, deaths.home)
    assert command.wait(PATIENCE) == DONE, command.err
    assert "explore: 8 trials, 4 have a result already" in command.err
    assert before.items() <= left(deaths.home).items()
    require_agreement(deaths.home, "hardy", 8)


# --- a tracking server that is down, and two who want one study


def test_a_server_that_is_down_delays_the_mirror_and_no_trial_and_a_second_launch_is_refused(
    tiny: Tiny, tmp_path: Path
) -> None:
    home, port = opened(tiny, tmp_path), free_port()
    address = f"http://127.0.0.1:{port}"
    begin = ("launch", written(tiny.document, tmp_path), "--workers", "1", "--tracking-uri", address)
    first = Command(home, *begin)
    until(first, lambda: [row for row in Ledger(home.storage).studies() if row.epoch])
    second = Command(home, *begin)
    assert second.wait(PATIENCE) == BAD_INPUT
    assert f"error: study small: is being run by process {first.process.pid} on" in second.err
    assert len(second.err.splitlines()) == 2, "that it waits for the lease, and that it is refused"
    assert first.wait(PATIENCE) == DONE, first.err
    assert accepted(home) == 20
    assert f"calls still wait for {address}" in first.err
    assert "`lorascope resume small" in first.err
    server = Command(home, "ui", "--port", str(port))
    until(server, lambda: answers(address))
    lorascope(home, "resume", "small")
    server.signal(signal.SIGTERM)
    assert server.wait(PATIENCE) == DONE, server.err
    require_agreement(home, "small", 20)
    assert list(home.spool("small").rglob("*.calls.jsonl")) == []


def answers(address: str) -> bool:
    """Whether an MLflow server is up there."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
