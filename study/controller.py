"""The controller: proposes settings, hands packs to an engine, selects, confirms. The only file that knows Optuna.

Optuna keeps one study per cell, in memory, rebuilt from the ledger at every start: there is nothing to reconcile.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from study import adapters, design
from study.errors import BadInput
from study.ledger import Ledger, Superseded
from study.planner import Plan, packs
from study.space import Knob, LogFloat, Space, Value
from study.spec import StudySpec, TaskSpec, VariantSpec, resolved, space
from study.tasks import task as registered
from study.tasks.base import Prepared
from study.tracking import Tracker
from study.trial import TRAINING_VERSION, Phase, Result, Trial, digest
from study.variants import variant
from study.variants.base import Variant
from study.worker import Ended, Event, Job, numbers

RENEW_SECONDS = 5.0

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Engine(Protocol):
    """Where packs run."""

    def run(self, queue: deque[Job]) -> Iterator[Event | Ended | None]:
        """Work on the queue, which may grow meanwhile, until it is empty and nothing runs. None: time passes."""
        ...


class Watcher(Protocol):
    """Who is told how a study goes: the CLI's progress display."""

    def expect(self, trials: Sequence[Trial], done: Sequence[Trial], phase: Phase) -> None: ...
    def see(self, event: Event | Ended | None) -> None: ...


@dataclass(frozen=True)
class Cell:
    """One (task, variant) pair of a study."""

    study: str
    spec: TaskSpec
    chosen: VariantSpec
    prepared: Prepared
    space: Space
    dtype: str
    halving: bool = False

    @property
    def label(self) -> tuple[str, str]:
        """What the ledger calls its task and its variant."""
        return self.spec.label, self.chosen.label

    @property
    def method(self) -> Variant:
        """What it trains."""
        return variant(self.chosen.name, self.chosen.combine)

    @cached_property
    def start(self) -> dict[str, Any]:
        """What determines loss0 and score0: the task without its training."""
        prints = self.prepared.fingerprints
        data = {name: prints[name] for name in ("train", "validation")}
        return {
            "task": self.spec.task,
            "model": prints["model"],
            "data": data,
            "dtype": self.dtype,
            "version": TRAINING_VERSION,
        }

    def document(self, values: Mapping[str, Value], phase: Phase) -> dict[str, Any]:
        """What determines a trial's numbers, but the seed: hashed, it is the key."""
        test = {"test": self.prepared.fingerprints["test"]} if phase == "confirm" else {}
        # A search that may stop a trial early has no result of the same setting trained to its end.
        early = {"halving": True} if self.halving and phase == "explore" else {}
        budget = self.spec.budget.model_dump()
        cell = {
            "variant": self.chosen.name,
            "combine": list(self.chosen.combine),
            "targets": self.spec.targets,
            "budget": budget,
        }
        return self.start | test | early | cell | {"values": dict(values)}

    def trial(self, values: Mapping[str, Value], phase: Phase, seed: int) -> Trial:
        """The study's claim on this setting and seed."""
        key = digest(self.document(values, phase))
        return Trial(self.study, self.spec.label, self.chosen.label, phase, key, seed, values)


class Proposer:
    """A cell's Optuna study: settings in, mean validation scores back, the best one out."""

    def __init__(self, cell: Cell, spec: StudySpec, columns: Sequence[str]) -> None:
        self.cell, self.spec = cell, spec
        direction = registered(cell.spec.task).direction
        sampler = optuna.samplers.TPESampler(seed=spec.design.seed)
        self.study = optuna.create_study(direction=direction, sampler=sampler)
        self.distributions = {knob.name: _distribution(knob) for knob in cell.space.varied}
        kind, points = spec.design.kind, spec.design.points
        self.planned = [] if kind == "tpe" else design.settings(kind, points, spec.design.seed, columns, cell.space)
        self.asked: dict[str, tuple[optuna.Trial, Mapping[str, Value]]] = {}
        self.told: set[str] = set()

    def ask(self, values: Mapping[str, Value]) -> None:
        """Put one given setting on the study's list."""
        key = self.cell.trial(values, "explore", 0).key
        if key in self.asked:
            return
        if all(_inside(knob, values[knob.name]) for knob in self.cell.space.varied):
            self.study.enqueue_trial({knob.name: values[knob.name] for knob in self.cell.space.varied})
            self.asked[key] = (self.study.ask(self.distributions), values)

    def propose(self, most: int) -> None:
        """At most `most` more settings: what is left of the design, or what the sampler suggests."""
        if self.spec.design.kind != "tpe":
            for values in self.planned:
                self.ask(values)
            return
        for _ in range(min(most, self.spec.design.points - len(self.asked))):
            trial = self.study.ask(self.distributions)
            values = dict(self.cell.space.fixed) | {name: _rounded(value) for name, value in trial.params.items()}
            self.asked.setdefault(self.cell.trial(values, "explore", 0).key, (trial, values))

    def trials(self) -> list[Trial]:
        """Every setting asked so far with every seed."""
        seeds = self.spec.seeds.of("explore")
        return [self.cell.trial(values, "explore", seed) for _, values in self.asked.values() for seed in seeds]

    def tell(self, results: Mapping[tuple[str, int], Result]) -> None:
        """Close every setting all of whose seeds have a result; one that was stopped early is pruned."""
        for key in [key for key in self.asked if key not in self.told]:
            mine = [results[key, seed] for seed in self.spec.seeds.of("explore") if (key, seed) in results]
            if len(mine) == self.spec.seeds.explore:
                self.told.add(key)
                self._close(self.asked[key][0], mine)

    def _close(self, trial: optuna.Trial, mine: Sequence[Result]) -> None:
        score = fmean(result.val_score for result in mine)
        if any(result.state == "stopped" for result in mine):
            trial.report(score, max(result.steps for result in mine))
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, score)

    def best(self) -> Mapping[str, Value] | None:
        """The setting with the best mean validation score, the first of equals; None before there is one."""
        complete = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if not complete:
            return None
        better = max if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else min
        best = better(complete, key=lambda trial: trial.values[0])
        return next(values for trial, values in self.asked.values() if trial.number == best.number)

    def selected(self) -> str | None:
        """The key of the best setting, None before there is one."""
        best = self.best()
        return None if best is None else self.cell.trial(best, "explore", 0).key


def _distribution(knob: Knob) -> BaseDistribution:
    if isinstance(knob, LogFloat):
        return FloatDistribution(knob.low, knob.high, log=True)
    return CategoricalDistribution(knob.values)


def _inside(knob: Knob, value: Value) -> bool:
    return knob.low <= float(value) <= knob.high if isinstance(knob, LogFloat) else value in knob.values


def _rounded(value: Value) -> Value:
    return float(f"{value:.6g}") if isinstance(value, float) else value


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
        self._explore()
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

    def _explore(self) -> None:
        before = self.ledger.trials(self.spec.name, "explore")
        for proposer in self._proposers:
            for trial in before:
                if (trial.task, trial.variant) == proposer.cell.label:
                    proposer.ask(trial.values)
        while True:
            self._tell()
            known = sum(len(proposer.asked) for proposer in self._proposers)
            for proposer in self._proposers:
                proposer.propose(self.plans[proposer.cell.label].width)
            trials = [trial for proposer in self._proposers for trial in proposer.trials()]
            self._train(trials, "explore")
            if self.spec.design.kind != "tpe" or known == sum(len(proposer.asked) for proposer in self._proposers):
                break
        self._settle()

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
            if isinstance(event, Ended) and phase == "explore":
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
