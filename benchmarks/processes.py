"""Processes that train side by side, one thread each, with the allocator settings of our own workers."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import psutil

from study.engines.local import ENVIRONMENT

ROOT = Path(__file__).parent.parent
WATCH_SECONDS = 0.3  # between two looks at what processes have used
QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
QUIET |= {"PYTHONWARNINGS": "ignore"}


def environment() -> dict[str, str]:
    """What every measured process is born with, ours and theirs."""
    return {**os.environ, **ENVIRONMENT, **QUIET}


class Turn(NamedTuple):
    """What the processes of one side did in one turn, together."""

    rate: float  # trial-steps per second: each process by its own clock, summed
    cpu_rate: float  # trial-steps per CPU second: the mean over the processes
    pss: int  # bytes


class Crew:
    """The processes of one side of a cell, warm and waiting; leaving the context ends them."""

    def __init__(self, side: str, cell: str, place: Path, size: int) -> None:
        command = [sys.executable, "-m", "benchmarks.sides", side, cell, str(place)]
        self.side = side
        self._processes = [
            subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(size)
        ]

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def wait(self) -> int:
        """Until every process is warm; the trials that each trains at once."""
        return int(self._answers()[0]["trials"])

    def train(self, seconds: float) -> Turn:
        """All processes at once, for so long."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
        told = self._answers()
        rate, cpu_rate = sum(answer["rate"] for answer in told), fmean(answer["cpu_rate"] for answer in told)
        return Turn(rate, cpu_rate, sum(int(answer["pss"]) for answer in told))

    def _answers(self) -> list[dict[str, float]]:
        return [_answer(self.side, process) for process in self._processes]


def _answer(side: str, process: "subprocess.Popen[str]") -> dict[str, float]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process of {side} ended with {process.wait()}")
    return json.loads(line)


class Done(NamedTuple):
    """A command that has ended."""

    output: str
    wall: float  # seconds
    cpu: float  # seconds, of the process and of all its descendants, as last seen


def finish(command: Sequence[str]) -> Done:
    """Run a command to its end. Raises RuntimeError where it fails."""
    began = time.perf_counter()
    used: dict[int, float] = {}
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        threading.Thread(target=_watch, args=(psutil.Process(process.pid), used), daemon=True).start()
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ended with {process.returncode}")
    return Done(output, time.perf_counter() - began, sum(used.values()))


def _watch(root: psutil.Process, used: dict[int, float]) -> None:
    """Note the CPU seconds of a process and its descendants until it ends: workers are not its children to wait for."""
    with suppress(psutil.NoSuchProcess):
        while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    spent = process.cpu_times()
                    used[process.pid] = spent.user + spent.system
            time.sleep(WATCH_SECONDS)
