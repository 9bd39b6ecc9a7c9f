"""From the spool to a mirror, on a thread of its own: what is down delays the mirror and never a trial."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from study.redact import redact
from trackers import Mirror
from trackers.spool import Call, SpoolReader

POLL = 0.5  # seconds between two looks at the spool, and the first pause after a failure
LONGEST_PAUSE = 15.0  # seconds; each failure in a row doubles the pause up to this
BATCH = 1000  # calls read at once
REJECTED = "rejected.jsonl"

_logger = logging.getLogger(__name__)


class Uploader:
    """Drains `reader` into the mirror that `open_mirror` opens, in a daemon thread that starts at once.

    Calls of one trial arrive in order, each at least once. While the mirror raises OSError or cannot be opened, the
    thread waits and asks again; a call that fails in any other way is set aside in `rejected.jsonl`, beside the spool.
    """

    def __init__(self, reader: SpoolReader, open_mirror: Callable[[], Mirror]) -> None:
        self.last_error: str | None = None  # why the mirror is behind: one line, no passwords; None while it is reached
        self._reader = reader
        self._open_mirror = open_mirror
        self._mirror: Mirror | None = None
        self._batch: list[Call] = []
        self._groups: deque[list[Call]] = deque()  # of the batch, what is not delivered
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="uploader", daemon=True)
        self._thread.start()

    def drain(self, timeout: float | None = None) -> int:
        """Wait until all that is spooled by now is delivered, for `timeout` seconds at most; how many calls are not."""
        now = time.time()
        deadline = time.monotonic() + (threading.TIMEOUT_MAX if timeout is None else timeout)
        while self._reader.behind(now) and time.monotonic() < deadline and self._thread.is_alive():
            self._thread.join(min(0.05, max(deadline - time.monotonic(), 0.0)))
        return self._reader.backlog(now)

    def stop(self, timeout: float = 15.0) -> None:
        """End the thread after the call it is in, and wait for that `timeout` seconds at most."""
        self._stopped.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        pause = POLL
        failing = False
        while not self._stopped.wait(pause if failing else POLL):
            try:
                self._upload()
            except Exception as error:  # the mirror is down, or the spool's own disk is full: waiting loses nothing
                pause = min(2 * pause, LONGEST_PAUSE) if failing else POLL
                failing = True
                self.last_error = _line(error)
            else:
                self.last_error = None
                failing = False

    def _upload(self) -> None:
        """All that is spooled. What a failure leaves undone is kept for the next time, so nothing is sent again."""
        if self._mirror is None:
            self._mirror = self._open_mirror()
        while not self._stopped.is_set():
            if not self._batch:
                self._batch = self._reader.read(BATCH)
                self._groups.extend(grouped(self._batch))
            if not self._batch:
                self._reader.sweep()
                return
            while self._groups and not self._stopped.is_set():
                self._deliver(self._mirror, self._groups[0])
                self._groups.popleft()
            if not self._groups:
                self._reader.commit(self._batch)
                self._batch = []

    def _deliver(self, mirror: Mirror, calls: Sequence[Call]) -> None:
        try:
            tell(mirror, calls)
        except OSError:
            raise
        except Exception as error:
            if len(calls) == 1:
                self._reject(calls[0], error)
            else:
                for call in calls:
                    self._deliver(mirror, [call])

    def _reject(self, call: Call, error: Exception) -> None:
        reason = _line(error)
        _logger.warning("set aside in %s: %s of %s: %s", REJECTED, call.kind, call.trial.key, reason)
        entry = call._asdict() | {"trial": vars(call.trial), "error": reason}
        with (self._reader.folder / REJECTED).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def grouped(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """Calls by trial, each trial's in order, with logs that follow each other in one group."""
    trials: dict[tuple[str, str, int], list[Call]] = {}
    for call in calls:
        trials.setdefault((call.trial.study, call.trial.key, call.trial.seed), []).append(call)
    for of_trial in trials.values():
        for kind, group in groupby(of_trial, key=lambda call: call.kind):
            if kind == "log":
                yield list(group)
            else:
                yield from ([call] for call in group)


def tell(mirror: Mirror, calls: Sequence[Call]) -> None:
    """Make these calls, all of one trial and of one kind; only logs come several at once."""
    first = calls[0]
    if first.kind == "begin":
        mirror.begin(first.trial)
    elif first.kind == "log":
        mirror.log_many(first.trial, [(call.step, call.values) for call in calls if call.step is not None])
    elif first.state is not None:
        mirror.end(first.trial, first.state, first.values)


def _line(error: Exception) -> str:
    return redact(" ".join(f"{type(error).__name__}: {error}".split()))
