"""The controller: runs a study's phases, hands packs to an engine, selects, confirms."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from study import adapters, design, table
from study.analysis.response import response_of
from study.cell import Cell
from study.errors import BadInput
from study.ledger import Ledger, Superseded
from study.planner import Plan, packs
from study.proposer import Proposer
from study.spec import StudySpec, resolved, space
from study.tasks.base import Prepared
from study.tracking import Tracker
from study.trial import Phase, Trial, digest
from study.worker import Ended, Event, Job, numbers

RENEW_SECONDS = 5.0


class Engine(Protocol):
    """Where packs run."""

    def run(self, queue: deque[Job]) -> Iterator[Event | Ended | None]:
        """Work on the queue, which may grow meanwhile, until it is empty and nothing runs. None: time passes."""
        ...


class Watcher(Protocol):
    """Who is told how a study goes: the CLI's progress display."""

    def expect(self, trials: Sequence[Trial], done: Sequence[Trial], phase: Phase) -> None: ...
    def see(self, event: Event | Ended | None) -> None: ...


class Lease:
    """The right to run a study: taken on entry, renewed by a thread, released on exit.

    A lease left by a controller that died is waited out by the database's clock; `waiting(holder, seconds)` is told.
    Raises BadInput where it is renewed meanwhile: somebody is running the study.
    """

    def __init__(self, ledger: Ledger, name: str, waiting: Callable[[str, float], None]) -> None:
        self.ledger, self.name, self.waiting = ledger, name, waiting
        self.state = "stopped"  # what the study is left as; the holder says when it is more
        self._over = threading.Event()
        self.lost = False  # to another controller

    def __enter__(self) -> "Lease":
        self._began = time.monotonic()
        self.epoch = self._take()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with suppress(Superseded), self.ledger.controlling(self.name, self.epoch) as writer:
            writer.release(self.state, time.monotonic() - self._began)

    def check(self) -> None:
        """Raises Superseded where another controller has taken the study over."""
        if self.lost:
            raise Superseded(f"study {self.name} has been taken over by another controller")

    def _take(self) -> int:
        seen: float | None = None
        while (epoch := self.ledger.take(self.name)) is None:
            (row,) = self.ledger.studies(self.name)
            if seen is None:
                seen = row.expires
                self.waiting(row.holder, self.ledger.lease_left(self.name))
            elif row.expires != seen:
                raise BadInput(f"study {self.name}", f"is being run by {row.holder}", "stop that one first, or wait")
            time.sleep(0.5)
        return epoch

    def _renew(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            try:
                with self.ledger.controlling(self.name, self.epoch) as writer:
                    writer.renew()
            except Superseded:
                self.lost = True
                return


@dataclass
class Controller:
    """Runs one study, whose lease it holds, to its end."""

    spec: StudySpec
    ledger: Ledger
    lease: Lease
    engine: Engine
    tracker: Tracker
    place: str  # where the tracker mirrors to, as the ledger's mirrors call it
    watcher: Watcher
    prepared: Mapping[str, Prepared]  # by task label
    plans: Mapping[tuple[str, str], Plan]  # by the labels of task and variant
    adapters: Path | None = None  # where those of settings that are not selected are dropped, None: nowhere
    _jobs: int = field(default=0, init=False)

    def run(self) -> None:
        """Every phase of the spec, in order. Raises Superseded where another controller has taken over."""
        columns = self._columns()
        self._proposers = [Proposer(cell, self.spec, columns) for cell in self.cells()]
        with self.ledger.controlling(self.spec.name, self.lease.epoch) as writer:
            writer.forgive()
            writer.widen(resolved(self.spec), columns, self.place)
        self._search("explore")
        if "extend" in self.spec.phases:
            self._extend()
        if "refine" in self.spec.phases:
            self._search("refine")
        if "confirm" in self.spec.phases:
            self._confirm()

    def cells(self) -> list[Cell]:
        """Every (task, variant) pair."""
        name, dtype, halving = self.spec.name, self.spec.compute.dtype, self.spec.design.halving
        return [
            Cell(name, task, chosen, self.prepared[task.label], space(self.spec, chosen), dtype, halving)
            for task in self.spec.tasks
            for chosen in self.spec.variants
        ]

    def mirror(self) -> None:
        """Send the tracker every accepted trial that it does not surely hold: the mirror can always be rebuilt."""
        held = self.ledger.run_ids(self.spec.name, self.place)
        results = self.ledger.results(self.spec.name)
        for trial in self.ledger.trials(self.spec.name):
            result = results.get((trial.key, trial.seed))
            if result is None or (trial.key, trial.seed) in held:
                continue
            self.tracker.begin(trial)
            for step, values in _by_step(self.ledger.curves(trial.key, trial.seed)):
                self.tracker.log(trial, step, values)
            self.tracker.end(trial, result.state, numbers(result))

    def _columns(self) -> list[str]:
        row = self.ledger.study(self.spec.name)
        return design.owners(row.columns if row else [], [space(self.spec, chosen) for chosen in self.spec.variants])

    def _search(self, phase: Phase) -> None:
        """Propose, train and learn, until nothing more is proposed."""
        self._remember(phase)
        for again in itertools.count():
            more = [proposer.propose(self.plans[proposer.cell.label].width, phase) for proposer in self._proposers]
            if again and not any(more):
                break
            self._train([trial for proposer in self._proposers for trial in proposer.trials(phase)], phase)
            self._tell()
        self._settle()

    def _extend(self) -> None:
        """Go on past the end of the focus knob's range where a variant's response is still best there."""
        self._remember("extend")
        found, plan = table.trials(self.ledger, self.spec.name), table.plan(self.spec)
        for proposer in self._proposers:
            response = response_of(found, plan, *proposer.cell.label).values
            if response.get("boundary") and response["located"]:  # noise alone has its best anywhere
                proposer.extend(response["boundary"])
        self._train([trial for proposer in self._proposers for trial in proposer.trials("extend")], "extend")
        self._settle()

    def _remember(self, phase: Phase) -> None:
        """What the phase has asked for in an earlier launch, and every result so far."""
        before = self.ledger.trials(self.spec.name, phase)
        for proposer in self._proposers:
            for trial in before:
                if (trial.task, trial.variant) == proposer.cell.label:
                    proposer.ask(trial.values, phase)
        self._tell()

    def _confirm(self) -> None:
        """Each variant's selected setting on fresh paired seeds, scored on the test split."""
        chosen = [(proposer.cell, proposer.best()) for proposer in self._proposers]
        seeds = self.spec.seeds.of("confirm")
        trials = [cell.trial(best, "confirm", seed) for cell, best in chosen if best is not None for seed in seeds]
        self._train(trials, "confirm")

    def _tell(self) -> None:
        results = self.ledger.results(self.spec.name)
        for proposer in self._proposers:
            proposer.tell(results)

    def _settle(self) -> None:
        """Learn what has ended, and drop the adapters of settings that are not the best of their cell.

        They can be no more, whatever comes. What another study lists too is left to it.
        """
        self._tell()
        if self.adapters is None:
            return
        best = {proposer.selected() for proposer in self._proposers}
        beaten = {key for proposer in self._proposers for key in proposer.told} - best
        mine = [identity for identity in adapters.held(self.adapters) if identity[0] in beaten]
        others = [row.name for row in self.ledger.studies() if mine and row.name != self.spec.name]
        theirs = {(trial.key, trial.seed) for name in others for trial in self.ledger.trials(name)}
        for identity in mine:
            if identity not in theirs:
                adapters.drop(self.adapters, identity)

    def _train(self, trials: Sequence[Trial], phase: Phase) -> None:
        """Enroll these trials, and train those that have no result."""
        by_label = {cell.label: cell for cell in self.cells()}
        with self.ledger.controlling(self.spec.name, self.lease.epoch) as writer:
            writer.enroll(
                (trial, by_label[trial.task, trial.variant].document(trial.values, phase)) for trial in trials
            )
        done = self.ledger.results(self.spec.name)
        missing = [trial for trial in trials if (trial.key, trial.seed) not in done]
        self.watcher.expect(trials, [trial for trial in trials if (trial.key, trial.seed) in done], phase)
        jobs = [job for cell in self.cells() for job in self._jobs_of(cell, missing, phase)]
        for event in self.engine.run(deque(sorted(jobs, key=lambda job: -len(job.trials)))):
            self.lease.check()
            if isinstance(event, Ended) and event.error:
                self._fail(event)
            if isinstance(event, Ended) and phase != "confirm":
                self._settle()
            self.watcher.see(event)

    def _jobs_of(self, cell: Cell, missing: Sequence[Trial], phase: Phase) -> Iterator[Job]:
        """A cell's missing trials in packs."""
        mine = [trial for trial in missing if (trial.task, trial.variant) == cell.label]
        plan, start = self.plans[cell.label], digest(cell.start)
        for pack in packs(mine, cell.method, cell.spec.budget, plan, self.spec, phase):
            self._jobs += 1
            how = (plan.width, plan.room, self.spec.compute, start, phase == "confirm", self.spec.halves(phase))
            yield Job(self._jobs, cell.spec, cell.chosen, tuple(pack), *how)

    def _fail(self, ended: Ended) -> None:
        done = self.ledger.results(self.spec.name)
        with self.ledger.controlling(self.spec.name, self.lease.epoch) as writer:
            for trial in ended.job.trials:
                if (trial.key, trial.seed) not in done:
                    writer.fail(trial, str(ended.error))
                    self.tracker.end(trial, "failed", {})


def _by_step(curves: Mapping[str, Sequence[Sequence[float]]]) -> list[tuple[int, dict[str, float]]]:
    steps: dict[int, dict[str, float]] = {}
    for name, points in curves.items():
        for step, value in points:
            steps.setdefault(int(step), {})[name] = value
    return sorted(steps.items())
