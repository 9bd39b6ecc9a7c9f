"""The spool: a folder of JSON lines between training and a mirror, so that one which is down delays no trial.

Each writer appends to a file of its own and holds a lock on it while it lives, so a reader knows when a file will
grow no more. A call is a line; a line without its end is one whose writer is writing it, or died doing so.
"""

import fcntl
import heapq
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from study.trial import State, Trial
from trackers import Mirror

SEGMENT = 8 * 2**20  # bytes; a writer that has written more goes on in a new file, so that the old one can be removed
PATTERN = "*.calls.jsonl"


class Call(NamedTuple):
    """One call of a tracker, as it was spooled."""

    time: float  # seconds since 1970, when it was made
    kind: Literal["begin", "log", "end"]
    trial: Trial
    step: int | None  # of a log
    values: Mapping[str, float]
    state: State | None  # of an end
    file: str
    offset: int  # bytes from the start of its file to the end of its line


class SpoolWriter(Mirror):
    """Writes calls down for a reader elsewhere. One object may serve many threads.

    A call costs one write and waits for nobody. What cannot be written now (a full disk) is kept and goes first with
    the next call: mirroring never stops a trial.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._lock = threading.Lock()
        self._file: int | None = None
        self._written = 0  # bytes, in this file
        self._unwritten = b""
        self._last = 0.0

    def begin(self, trial: Trial) -> None:
        self._write("begin", trial)

    def log(self, trial: Trial, step: int, values: Mapping[str, float]) -> None:
        self._write("log", trial, step=step, values=values)

    def end(self, trial: Trial, state: State, values: Mapping[str, float]) -> None:
        self._write("end", trial, state=state, values=values)

    def close(self) -> None:
        """Give the file up. Raises OSError where calls are left that still cannot be written."""
        with self._lock:
            if self._unwritten:
                self._flush()
            self._release()

    def _write(
        self,
        kind: str,
        trial: Trial,
        step: int | None = None,
        values: Mapping[str, float] | None = None,
        state: State | None = None,
    ) -> None:
        with self._lock:
            self._last = max(self._last, time.time())  # a clock set back must not reorder a writer's calls
            line = {"time": self._last, "call": kind, "trial": vars(trial) | {"values": dict(trial.values)}}
            line |= {"step": step, "values": dict(values or {}), "state": state}
            self._unwritten += json.dumps(line, default=float).encode() + b"\n"
            try:
                self._flush()
            except OSError:
                return

    def _flush(self) -> None:
        if self._file is None:
            self._file = self._open()
        while self._unwritten:
            count = os.write(self._file, self._unwritten)
            self._unwritten = self._unwritten[count:]
            self._written += count
        if self._written > SEGMENT:
            self._release()

    def _open(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._name}.{time.time_ns()}.{os.getpid()}.calls.jsonl"
        hidden = path.with_suffix(".new")  # until it is locked a reader would take it for one whose writer is gone
        file = os.open(hidden, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX)
        hidden.rename(path)
        return file

    def _release(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file, self._written = None, 0


class SpoolReader:
    """Reads what all writers of a folder wrote, oldest first, and remembers durably how far it came.

    A call stays until it is committed, so whoever dies between reading and committing is told it again. One reader to
    a folder; `backlog` may be asked from any thread.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._positions = _load(folder / "position.json")  # file name -> bytes consumed

    def read(self, limit: int = 1000) -> list[Call]:
        """The oldest calls that are not committed, `limit` at most."""
        return list(islice(self._calls(), limit))

    def commit(self, calls: Sequence[Call]) -> None:
        """These calls, a start of what `read` returned, are delivered; files that hold nothing more are removed."""
        positions = dict(self._positions)
        for call in calls:
            positions[call.file] = call.offset
        self._positions = {path.name: positions.get(path.name, 0) for path in self._files()}
        _save(self.folder / "position.json", self._positions)
        self.sweep()

    def sweep(self) -> None:
        """Remove the files that are read to their end and whose writer is gone."""
        for path in self._files():
            if _abandoned(path) and next(self._calls_of(path), None) is None:
                path.unlink(missing_ok=True)

    def backlog(self, until: float = math.inf) -> int:
        """How many calls made up to `until` (seconds since 1970) are not committed."""
        return sum(1 for call in self._calls() if call.time <= until)

    def behind(self, until: float) -> bool:
        """Whether there is such a call; cheaper than to count them."""
        return any(call.time <= until for call in self.read(1))

    def _calls(self) -> Iterator[Call]:
        return heapq.merge(*map(self._calls_of, self._files()), key=lambda call: call.time)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(PATTERN))

    def _calls_of(self, path: Path) -> Iterator[Call]:
        """Complete lines from where the reader stands; a line that is no call was torn by a dying writer."""
        offset = self._positions.get(path.name, 0)
        try:
            file = path.open("rb")
        except FileNotFoundError:  # removed since it was listed
            return
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):  # the rest of it may come, and must be read together with this
                    return
                offset += len(line)
                call = _parse(line, path.name, offset)
                if call is not None:
                    yield call


def _parse(line: bytes, file: str, offset: int) -> Call | None:
    try:
        call = json.loads(line)
        trial = Trial(**call["trial"])
        return Call(call["time"], call["call"], trial, call["step"], call["values"], call["state"], file, offset)
    except (ValueError, KeyError, TypeError):
        return None


def _abandoned(path: Path) -> bool:
    """Whether nobody holds the lock of this file: its writer has closed it or is dead, and it grows no more."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _load(path: Path) -> dict[str, int]:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # none yet, or a machine that lost power: all is delivered again
        return {}


def _save(path: Path, positions: Mapping[str, int]) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(positions))
    draft.replace(path)
