"""Jobs on this machine's cores: one worker process a core, one thread a worker.

Each worker is a pool of one process, so that a worker killed at any moment breaks its own pool and nobody else's:
its job is handed out again and trains what has no result yet. A worker whose controller is gone exits by itself.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection

from study.errors import BadInput
from study.worker import Bench, Ended, Event, Job, Setup, work

# Read by the allocator and OpenMP when a process starts. One thread a worker: two on busy cores spin for each other.
# glibc's default gives every activation back to the system each step, which costs a packed step about 30 %.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
# Workers are forked from a process that has imported their libraries once: 5 seconds of a core for each worker saved.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["study.worker"])

ATTEMPTS = 3  # a job that kills its worker this often is not handed out again
TICK_SECONDS = 0.2


class Local:
    """An engine: `run` turns a queue of jobs into a stream of events; closing it ends its workers."""

    def __init__(self, setup: Setup, workers: int) -> None:
        self._workers = [_Worker(setup) for _ in range(workers)]

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def run(self, queue: deque[Job]) -> Iterator[Event | Ended | None]:
        """Work on the queue, which may grow meanwhile, until it is empty and no worker is busy. None: a tick."""
        while queue or any(worker.job for worker in self._workers):
            for worker in self._workers:
                if queue and worker.job is None:
                    worker.take(queue.popleft())
            wait([w.future for w in self._workers if w.future], TICK_SECONDS, FIRST_COMPLETED)
            for worker in self._workers:
                yield from worker.events()
                ended = worker.ended()
                if ended is not None:
                    yield ended
            yield None

    def pids(self) -> list[int]:
        """The worker processes that are alive now."""
        return [pid for worker in self._workers for pid in worker.pids()]


class _Worker:
    """One process and the job it has."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.job: Job | None = None
        self.future: Future[None] | None = None
        self._attempts = 0
        self._open()

    def _open(self) -> None:
        self._inbox, self._outbox = multiprocessing.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(1, CONTEXT, _begin, (self.setup, self._outbox))

    def take(self, job: Job) -> None:
        self.job, self._attempts = job, 1
        self._submit(job)

    def _submit(self, job: Job) -> None:
        with _inherited():
            self.future = self._pool.submit(_work, job)

    def events(self) -> Iterator[Event]:
        """What the worker has said since the last call."""
        try:
            while self._inbox.poll():
                yield self._inbox.recv()
        except (EOFError, OSError):  # it died in the middle of a word; `ended` sees to the rest
            pass

    def ended(self) -> Ended | None:
        """The job's end, None while it goes on or when it was handed out again."""
        if self.job is None or self.future is None or not self.future.done():
            return None
        job, error = self.job, self.future.exception()
        if isinstance(error, BrokenProcessPool):
            self.stop()
            self._open()
            if self._attempts < ATTEMPTS:
                self._attempts += 1
                self.job = job.narrower("its worker died")  # most likely of the memory it asked for
                self._submit(self.job)
                return None
            error = RuntimeError(f"its worker died {ATTEMPTS} times")
        self.job = self.future = None
        if isinstance(error, BadInput):
            raise error
        return Ended(job, None if error is None else f"{type(error).__name__}: {error}".splitlines()[0])

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes() if process.is_alive() and process.pid]

    def _processes(self) -> list[multiprocessing.Process]:
        return list((self._pool._processes or {}).values())

    def stop(self) -> None:
        """End the process now, whatever it does."""
        for process in self._processes():
            process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._inbox.close()
        self._outbox.close()


@contextmanager
def _inherited() -> Iterator[None]:
    """What a process started inside is born with: ENVIRONMENT, and deaf to Ctrl-C, which the controller answers."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, answer)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


# In the worker process

_bench: Bench
_controller: Connection


def _begin(setup: Setup, controller: Connection) -> None:
    global _bench, _controller
    threading.Thread(target=_leave_with_controller, daemon=True).start()
    _bench, _controller = Bench(setup), controller


def _work(job: Job) -> None:
    work(_bench, job, _controller.send)


def _leave_with_controller() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
