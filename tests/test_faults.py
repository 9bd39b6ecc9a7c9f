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

STEPS = 120
PATIENCE = 90.0  # seconds a study may take, on a busy machine, to come where a test waits for it
SOON = 5.0  # seconds a worker may take, on a busy machine, to notice that its controller is gone
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
    longer = hardy(tiny.document) | {"seeds": {"explore": 6, "confirm": 2}}  # 12 packs: work is left after every cut
    begin = ("launch", written(longer, folder))
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
    _, outlived = psutil.wait_procs(below, timeout=SOON)
    for worker in outlived:
        worker.kill()
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
    require_agreement(story.home, "hardy", 2 * 4 * 6 + 2 * 2)


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


# --- a study in trouble: its first pack kills its workers, its tracking server is down, and another wants it


@dataclass(frozen=True)
class Trouble:
    """How that study's first launch went: two packs, of which one worker after another died in the first."""

    home: Home
    port: int  # where its tracking server should be
    killed: list[int]
    code: int
    err: str
    refused: Command  # a launch of the same study meanwhile

    @property
    def address(self) -> str:
        """Of the tracking server."""
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def trouble(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Trouble:
    folder, port = tmp_path_factory.mktemp("trouble"), free_port()
    home = opened(tiny, folder)
    document = hardy(tiny.document) | {"variants": ["lora"], "phases": ["explore"]}
    begin = ("launch", written(document, folder), "--tracking-uri", f"http://127.0.0.1:{port}")
    first = Command(home, *begin)
    until(first, lambda: [row for row in Ledger(home.storage).studies() if row.epoch])
    second = Command(home, *begin)
    killed = [kill_one(first, home) for _ in range(3)]
    second.wait(PATIENCE)
    return Trouble(home, port, killed, first.wait(PATIENCE), first.err, second)


def kill_one(command: Command, home: Home) -> int:
    """Kill the worker in the middle of its trials; its process id."""
    worker = mid_study(command, home, results=0)
    worker.kill()
    worker.wait(SOON)
    return worker.pid


def test_a_second_launch_of_a_running_study_is_refused_in_one_line(trouble: Trouble) -> None:
    assert trouble.refused.wait() == BAD_INPUT
    waiting, refusal = trouble.refused.err.splitlines()
    assert waiting.startswith("waiting for the lease of process ")
    assert refusal.startswith("error: study hardy: is being run by process ")


def test_a_pack_whose_worker_dies_three_times_fails_and_the_others_complete(trouble: Trouble) -> None:
    assert len(set(trouble.killed)) == 3
    assert trouble.code == FAILED
    assert "4 trials failed" in trouble.err
    assert "its worker died 3 times" in trouble.err
    told = counts(trouble.home, "hardy")
    assert told["state"] == "failed"
    assert [told[name] for name in ("asked", "finished", "failed", "missing")] == [8, 4, 4, 0]


def test_a_tracking_server_that_is_down_stops_no_trial_and_its_backlog_is_named(trouble: Trouble) -> None:
    assert accepted(trouble.home) == 4
    assert f"calls still wait for {trouble.address}" in trouble.err
    assert "`lorascope resume hardy" in trouble.err


def test_the_next_launch_tries_failed_trials_again_survives_a_killed_worker_and_sends_all_that_waited(
    trouble: Trouble,
) -> None:
    home, before = trouble.home, left(trouble.home)
    server = Command(home, "ui", "--port", str(trouble.port))
    command = Command(home, "resume", "hardy")
    kill_one(command, home)
    until(server, lambda: answers(trouble.address))
    assert command.wait(PATIENCE) == DONE, command.err
    assert "explore: 8 trials, 4 have a result already" in command.err
    assert before.items() <= left(home).items()
    if "still wait" in command.err:  # the server was slower than the study
        lorascope(home, "resume", "hardy")
    server.signal(signal.SIGTERM)
    assert server.wait(PATIENCE) == DONE, server.err
    require_agreement(home, "hardy", 8)
    retried = {result.provenance.get("retried") for result in Ledger(home.storage).results("hardy").values()}
    assert "its worker died at pack size 4" in retried
    assert list(home.spool("hardy").rglob("*.calls.jsonl")) == []


def answers(address: str) -> bool:
    """Whether an MLflow server is up there."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
