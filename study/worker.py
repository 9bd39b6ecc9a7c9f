"""A worker: trains the trials of a job in packs, records each result, mirrors each trial. One thread, one process."""

import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from study import hardware
from study.adapters import Adapter, save
from study.errors import BadInput
from study.frozen import Frozen, NotPackable
from study.ledger import Ledger
from study.optim import scheduled
from study.pack import Batch, Pack
from study.part import Member
from study.spec import Compute, DataSpec, TaskSpec, VariantSpec
from study.statistics import BATCHES, Kept, Measured, measure
from study.streams import order
from study.tasks import attention
from study.tasks import task as registered
from study.tasks.base import Examples, Prepared
from study.tracking import Tracker
from study.trial import Curves, Result, State, Trial
from study.variants import variant
from study.variants.head_only import HEAD

COMPUTE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
EVALUATED_AT_ONCE = 128  # rows, trials x examples: large enough for the matrix products, small enough for the caches
ETA = 3  # successive halving keeps one setting in so many, after 1 / ETA^2 and 1 / ETA of the steps
CURVE_POINTS = 25  # of each curve, whatever the number of steps


@dataclass(frozen=True)
class Job:
    """Trials of one cell that can share a pack, on their way to a worker."""

    number: int
    spec: TaskSpec
    chosen: VariantSpec
    trials: tuple[Trial, ...]
    width: int  # trials trained at once
    room: int  # bytes for them
    compute: Compute
    start: str  # which start (loss0, score0) these trials have: a digest of the task
    test: bool  # whether they are scored on the test split
    halving: bool = False  # whether the worse settings of a pack are stopped early
    retried: str = ""  # why it is trained in narrower packs than planned

    @property
    def cell(self) -> tuple[str, str]:
        """The labels of its task and variant."""
        return self.spec.label, self.chosen.label

    def narrower(self, reason: str) -> "Job":
        """The same trials in packs of half the width."""
        return replace(self, width=max(1, self.width // 2), retried=f"{reason} at pack size {self.width}")


@dataclass(frozen=True)
class Event:
    """What a worker says while it works."""

    kind: Literal["begin", "steps", "end"]
    job: int
    trial: Trial | None = None
    state: State | None = None
    steps: int = 0  # trial-steps since the last event


@dataclass(frozen=True)
class Ended:
    """What an engine says of a job that is over: `error` is None, or says why its missing trials have no result."""

    job: Job
    error: str | None = None


@dataclass(frozen=True)
class Setup:
    """What a worker process needs to begin: where ledger, cache and adapters are, how to mirror, what runs here."""

    storage: str
    cache: Path
    tracker: Callable[[], Tracker]
    provenance: dict[str, str]
    adapters: Path | None = None  # where trained adapters are kept, None: nowhere


class Bench:
    """What a worker process keeps between jobs: the ledger, the tracker, prepared tasks, frozen models."""

    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        self.setup, self.ledger, self.tracker = setup, Ledger(setup.storage), setup.tracker()
        self.widest: dict[tuple[str, str], int] = {}  # trials that fit, by cell, as far as a step has shown
        self.statistics = Kept(setup.cache / "statistics")
        self._tasks: dict[str, tuple[Prepared, Frozen]] = {}

    def task(self, spec: TaskSpec, compute: Compute) -> tuple[Prepared, Frozen]:
        """The task's data and its frozen model on its device, loaded once."""
        name = f"{spec.model_dump_json()} {compute.model_dump_json()}"
        if name not in self._tasks:
            prepared = prepare(spec, self.setup.cache)
            model, heads = prepared.load(COMPUTE_DTYPES[compute.dtype], attention.NAME)
            frozen = Frozen(
                model.to(compute.device),
                spec.targets,
                heads,
                unpad=compute.unpad,
                skip_unread=compute.skip_unread,
                cache_prefix=compute.cache_prefix,
            )
            self._tasks[name] = (prepared, frozen)
        return self._tasks[name]


def prepare(spec: TaskSpec, cache: Path) -> Prepared:
    """The data and model a task spec names. Raises BadInput."""
    task = registered(spec.task)
    model = spec.model or task.model
    data = spec.data.source() if isinstance(spec.data, DataSpec) else spec.data or task.data
    if model is None or data is None:
        raise BadInput("data" if data is None else "model", "is missing", f"task {spec.task} has none of its own")
    return task.prepare(model, data, spec.budget.length, cache, {str(split): rows for split, rows in spec.rows.items()})


def work(bench: Bench, job: Job, say: Callable[[Event], None]) -> None:
    """Train every trial of a job; in packs of half the width once memory ran out, of one where layers mix trials."""
    while True:
        try:
            _Run(bench, job, say).go()
            return
        except NotPackable:
            if job.width == 1:
                raise
            job = replace(job, width=1)
        except (RuntimeError, MemoryError) as error:
            if job.retried or job.width == 1 or not _out_of_memory(error):
                raise
            job = job.narrower("out of memory")
            bench.widest[job.cell] = job.width


def _out_of_memory(error: Exception) -> bool:
    """Whether a device or the processor's allocator had no more; torch tells the latter in words alone."""
    told = re.search("DefaultCPUAllocator|not enough memory", str(error))
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or told is not None


@dataclass
class _Row:
    """A trial in training and what it has cost so far."""

    trial: Trial
    curves: Curves = field(default_factory=dict)
    cpu: float = 0.0
    wall: float = 0.0


class _Run:
    """A job in work: packs one after another, freed rows refilled from the waiting trials."""

    def __init__(self, bench: Bench, job: Job, say: Callable[[Event], None]) -> None:
        self.bench, self.job, self.say = bench, job, say
        self.prepared, self.frozen = bench.task(job.spec, job.compute)
        self.budget, self.variant = job.spec.budget, variant(job.chosen.name, job.chosen.combine)
        done = bench.ledger.results(job.trials[0].study)  # a job that comes back after a crash has some already
        self.waiting = deque(trial for trial in job.trials if (trial.key, trial.seed) not in done)
        self.starts = {seed: self._start(seed) for seed in sorted({trial.seed for trial in self.waiting})}
        self.statistics = {seed: self._statistics(seed) for seed in self.starts}
        self.log_every = max(1, self.budget.steps // CURVE_POINTS)
        self.rungs = {self.budget.steps // ETA**2, self.budget.steps // ETA}

    def go(self) -> None:
        """Train until no trial waits."""
        while self.waiting:
            widest = self.bench.widest.get(self.job.cell, self.job.width)
            self.width = min(self.job.width, widest, len(self.waiting))
            before = hardware.memory(self.job.compute.device)
            self.rows = [_Row(self.waiting.popleft()) for _ in range(self.width)]
            self.pack = Pack(
                self.frozen,
                self.variant,
                [_member(row.trial) for row in self.rows],
                self.budget.steps,
                self.prepared.loss,
                self.statistics,
            )
            for row in self.rows:
                self._begin(row.trial)
            self._step()
            self._fit(hardware.peak_memory(self.job.compute.device) - before)
            while self.rows:
                self._step()

    def _fit(self, taken: int) -> None:
        """Later packs of this cell are only as wide as what the first step of this one took allows."""
        if taken > 0:
            widest = max(1, self.width * self.job.room // taken)
            self.bench.widest[self.job.cell] = min(widest, self.bench.widest.get(self.job.cell, widest))

    def _begin(self, trial: Trial) -> None:
        self.bench.tracker.begin(trial)
        self.say(Event("begin", self.job.number, trial))

    def _step(self) -> None:
        with self._charged(self.rows):
            losses, finite = self._stepped()
            self._log(losses)
        self.say(Event("steps", self.job.number, steps=len(self.rows)))
        broken = [k for k, ok in enumerate(finite.tolist()) if not ok]
        over = [k for k, t in enumerate(self.pack.t) if t == self.budget.steps and k not in broken]
        if broken or over:
            self._end(broken, over)
        if self.job.halving and self.rows and self.pack.t[0] in self.rungs:
            self._halve()

    def _halve(self) -> None:
        """Stop the settings of the pack that have the larger validation losses, in the mean over their seeds.

        Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) with eta = ETA.
        """
        (losses, scores, _), _ = self._evaluated(range(len(self.rows)))
        finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
        keys = [row.trial.key for row in self.rows]
        means = {key: fmean(loss for loss, other in zip(finite, keys, strict=True) if other == key) for key in keys}
        stay = sorted(means, key=lambda key: means[key])[: math.ceil(len(means) / ETA)]
        stopped = [k for k, key in enumerate(keys) if key not in stay]
        for k in stopped:
            if math.isfinite(losses[k]):
                self._record(k, "stopped", losses[k], scores[k])
            else:
                self._diverged(k)
        self._drop(stopped)

    def _stepped(self) -> tuple[Tensor, Tensor]:
        """One step on each row's own examples, or on those that all rows see."""
        sizes = [self.budget.examples(member.values) for member in self.pack.members]
        places = list(zip([member.seed for member in self.pack.members], self.pack.t, sizes, strict=True))
        shared = self.job.compute.share_batches and len(set(places)) == 1
        examples = len(self.prepared.splits["train"])
        chosen = [i for place in (places[:1] if shared else places) for i in order(*place, examples)]
        ragged = sizes if len(set(sizes)) > 1 else None
        return self.pack.step(batch(self.prepared, "train", chosen, self.frozen.device), shared=shared, sizes=ragged)

    def _log(self, losses: Tensor) -> None:
        for row, t, loss in zip(self.rows, self.pack.t, losses.tolist(), strict=True):
            if math.isfinite(loss) and (t % self.log_every == 0 or t == 1):
                values = {"train_loss": loss, "learning_rate": scheduled(row.trial.values, t - 1, self.budget.steps)}
                for name, value in values.items():
                    row.curves.setdefault(name, []).append((t, value))
                self.bench.tracker.log(row.trial, t, values)

    def _end(self, broken: Sequence[int], over: Sequence[int]) -> None:
        """Record the trials that diverged or are done; refill or drop their rows."""
        for k in broken:
            self._diverged(k)
        if over:
            (losses, scores, _), test = self._evaluated(over)
            for i, k in enumerate(over):
                if math.isfinite(losses[i]):
                    self._keep(k)
                    on_test = (test.scores[i], test.correct[i]) if test else (None, None)
                    self._record(k, "finished", losses[i], scores[i], *on_test)
                else:
                    self._diverged(k)
        self._drop([k for k in (*broken, *over) if not self._refill(k)])

    def _drop(self, rows: Sequence[int]) -> None:
        if rows:
            stay = [k for k in range(len(self.rows)) if k not in rows]
            self.pack.keep(stay)
            self.rows = [self.rows[k] for k in stay]

    def _evaluated(self, over: Sequence[int]) -> tuple["Scored", "Scored | None"]:
        """These rows on the validation split, and on the test split where the phase looks at it."""
        with self._charged([self.rows[k] for k in over]):
            pack = self.pack.rows(over)
            test = evaluate(pack, self.prepared, "test") if self.job.test else None
            return evaluate(pack, self.prepared, "validation"), test

    def _diverged(self, k: int) -> None:
        loss0, score0 = self.starts[self.rows[k].trial.seed]
        self._record(k, "diverged", loss0, score0, score0 if self.job.test else None)

    def _record(
        self, k: int, state: State, loss: float, score: float, test: float | None = None, correct: bytes | None = None
    ) -> None:
        row = self.rows[k]
        loss0, score0 = self.starts[row.trial.seed]
        result = Result(
            key=row.trial.key,
            seed=row.trial.seed,
            state=state,
            val_loss=loss,
            val_score=score,
            test_score=test,
            loss0=loss0,
            score0=score0,
            steps=self.pack.t[k],
            cpu_seconds=row.cpu,
            wall_seconds=row.wall,
            peak_memory=hardware.peak_memory("cpu"),
            trainable=self.pack.trainable(k),
            test_correct=correct,
            curves=row.curves,
            provenance=self.bench.setup.provenance | self._packing(),
        )
        self.bench.ledger.accept(result)
        self.bench.tracker.end(row.trial, state, numbers(result))
        self.say(Event("end", self.job.number, row.trial, state))

    def _keep(self, k: int) -> None:
        """Save what trial k has learned where the study keeps it: before its result says that it was trained."""
        if self.bench.setup.adapters is None:
            return
        trial, chosen, task = self.rows[k].trial, self.job.chosen, self.job.spec.model_dump(mode="json")
        kept = Adapter(
            key=trial.key,
            seed=trial.seed,
            variant=chosen.name,
            combine=chosen.combine,
            values=dict(trial.values),
            steps=self.budget.steps,
            task=task,
            model=self.prepared.fingerprints["model"],
            heads=tuple(site.name for site in self.frozen.heads),
            leaves={leaf: p for part in self.pack.parts for leaf, p in (part.leaves(k) | part.common).items()},
        )
        save(self.bench.setup.adapters, kept)

    def _packing(self) -> dict[str, str]:
        retried = {"retried": self.job.retried} if self.job.retried else {}
        return {"pack": str(self.width), "device": self.job.compute.device} | retried

    def _refill(self, k: int) -> bool:
        """Whether the next waiting trial took row k; one that does not fit waits for a pack of its own.

        So does every one where batches are shared or settings compared: it would be behind the rows under way.
        """
        if not self.waiting or self.job.compute.share_batches or self.job.halving:
            return False
        try:
            self.pack.refill(k, _member(self.waiting[0]))
        except ValueError:
            return False
        self.rows[k] = _Row(self.waiting.popleft())
        self._begin(self.rows[k].trial)
        return True

    def _start(self, seed: int) -> tuple[float, float]:
        """Validation loss and score of the base model with this seed's head; measured once per (task, seed)."""
        known = self.bench.ledger.start(self.job.start, seed)
        if known is None:
            untrained = Member(seed, {knob.name: knob.default for knob in HEAD.knobs})
            pack = Pack(self.frozen, variant("head_only"), [untrained], 1, self.prepared.loss)
            (loss,), (score,), _ = evaluate(pack, self.prepared, "validation")
            self.bench.ledger.put_start(self.job.start, seed, loss, score)
            known = self.bench.ledger.start(self.job.start, seed) or (loss, score)
        return known

    def _statistics(self, seed: int) -> Measured:
        """What the method needs to know of the frozen model for this seed's trials, from the seed's own first batches.

        Of the budget's batch size, whatever the trial's, so that all trials of a seed start from the same numbers.
        """
        mine = [{**trial.values, **self.variant.fixed} for trial in self.waiting if trial.seed == seed]
        names = sorted({name for values in mine for name in self.variant.needs(values)})
        if not names:
            return {}
        size = self.budget.batch_size
        targets, length = self.job.spec.targets, self.budget.length
        of = {"start": self.job.start, "targets": targets, "length": length, "batch_size": size, "seed": seed}

        def measured() -> Measured:
            batches = first_batches(self.prepared, seed, size, self.frozen.device)
            return measure(self.frozen, names, seed, batches, self.prepared.loss)

        return self.bench.statistics.get({**of, "names": names}, measured)

    @contextmanager
    def _charged(self, rows: Sequence[_Row]) -> Iterator[None]:
        """What happens inside is paid by these trials in equal shares."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        for row in rows:
            row.cpu += (time.process_time() - cpu) / len(rows)
            row.wall += (time.perf_counter() - wall) / len(rows)


class Scored(NamedTuple):
    """What a pack's K trials came to on a split of N examples."""

    losses: list[float]  # K, in the mean
    scores: list[float]  # K
    correct: list[bytes]  # K of N, 1 where the prediction is the target, in the same order for every pack


def evaluate(pack: Pack, prepared: Prepared, split: str) -> Scored:
    """Every trial of a pack on a whole split."""
    examples = prepared.splits[split]
    by_length = sorted(
        range(len(examples)), key=lambda i: _length(examples, i)
    )  # little padding; the result does not depend on it
    at_once = max(1, EVALUATED_AT_ONCE // pack.K)
    chunks = [by_length[i : i + at_once] for i in range(0, len(by_length), at_once)]
    batches = (batch(prepared, split, chunk, pack.frozen.device) for chunk in chunks)
    losses, predictions, targets = pack.evaluate(batches, prepared.predict)
    scores = [prepared.metric(mine, targets) for mine in predictions]
    return Scored(losses.tolist(), scores, [bytes((mine == targets).tolist()) for mine in predictions])


def batch(prepared: Prepared, split: str, chosen: Sequence[int], device: torch.device) -> Batch:
    """These examples of a split, on the device."""
    inputs = {name: value.to(device) for name, value in prepared.collate(split, chosen).items()}
    return inputs, prepared.targets(split, chosen).to(device)


def first_batches(prepared: Prepared, seed: int, size: int, device: torch.device) -> list[Batch]:
    """What a seed trains on first: the batches that statistics of the frozen model are measured on."""
    chosen = [order(seed, step, size, len(prepared.splits["train"])) for step in range(BATCHES)]
    return [batch(prepared, "train", each, device) for each in chosen]


def _length(examples: Examples, i: int) -> int:
    return max(len(values) for values in examples.inputs[i].values())


def numbers(result: Result) -> dict[str, float]:
    """A result's final numbers, as a tracker shows them."""
    shown = ("val_loss", "val_score", "test_score", "loss0", "score0", "steps", "cpu_seconds", "trainable")
    values = asdict(result)
    return {name: float(values[name]) for name in shown if values[name] is not None}


def _member(trial: Trial) -> Member:
    return Member(trial.seed, trial.values)
