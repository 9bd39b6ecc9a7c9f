"""Before a study runs: may it, does it fit its models, what will it cost."""

import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from study import design
from study.errors import BadInput
from study.frozen import Frozen
from study.hardware import cores, fast_device, fast_dtype, free_memory
from study.ledger import Ledger, StudyRow
from study.needs import linear_shapes
from study.part import Member
from study.planner import Plan, packs, plan
from study.space import Knob, Levels, LogFloat, Space, Value, named
from study.spec import Compute, StudySpec, TaskSpec, parse, space
from study.tasks.base import Prepared
from study.trial import Phase
from study.variants import variant
from study.worker import COMPUTE_DTYPES, prepare

EFFICIENCY = 0.75  # of a step's matrix products against the same products alone; measured on MiniLM, batch 8
START_SECONDS = 15.0  # until workers have imported their libraries and loaded a model


@dataclass(frozen=True)
class Estimate:
    """What one cell will cost."""

    task: str
    variant: str
    settings: int
    trials: int
    packs: int
    pack: int  # trials in one
    memory: int  # bytes of a worker that trains one
    seconds: float  # of the whole cell on all workers


def admit(ledger: Ledger, asked: StudySpec, where: str) -> StudySpec:
    """The spec as it will run: device and dtype decided, and nothing changed that a study of that name already fixed.

    Raises BadInput with every field that differs by more than widening, and where the device is not here.
    """
    row = ledger.study(asked.name)
    known = None if row is None else parse(row.spec, f"study {asked.name}")
    asked = asked.model_copy(update={"compute": _decided(asked.compute, known.compute if known else Compute())})
    if asked.compute.device == "cuda" and fast_device() != "cuda":
        raise BadInput(f"{where}: compute.device", "cuda, and there is none here", "cpu, or a machine that has one")
    if known is not None:
        changed = differences(known, asked)
        if changed:
            fields = "; ".join(f"{path}: was {old!r}, is {new!r}" for path, old, new in changed)
            problem = f"study {asked.name} exists and differs: {fields}"
            raise BadInput(where, problem, "widen it, or run this one --as NEW-NAME")
    return asked


def _decided(asked: Compute, before: Compute) -> Compute:
    """Device and dtype as asked, else as the study began, else the fastest here."""
    device = next((d for d in (asked.device, before.device) if d != "auto"), fast_device())
    dtype = next((d for d in (asked.dtype, before.dtype) if d != "auto"), fast_dtype(device))
    return Compute(**(asked.model_dump() | {"device": device, "dtype": dtype}))


def differences(old: StudySpec, new: StudySpec) -> list[tuple[str, Any, Any]]:
    """Where `new` asks for something else than `old`, and not only for more: (key path, old, new)."""
    return _changed_fields(old, new) + _shrunk(old, new) + _changed_knobs(old, new)


def _changed_fields(old: StudySpec, new: StudySpec) -> list[tuple[str, Any, Any]]:
    """What may not change at all, and did."""
    shared = {task.label for task in old.tasks} & {task.label for task in new.tasks}
    before, after = _settled(old, shared), _settled(new, shared)
    found = [(path, before.get(path), after.get(path)) for path in {**before, **after}]
    return [(path, was, now) for path, was, now in found if was != now]


def _settled(spec: StudySpec, tasks: Collection[str]) -> dict[str, Any]:
    """The values of these fields by key path, and of these tasks."""
    document = {
        "tasks": {task.label: task.model_dump() for task in spec.tasks if task.label in tasks},
        "focus": spec.focus,
        "design": {"kind": spec.design.kind, "seed": spec.design.seed, "halving": spec.design.halving},
        "margin": spec.margin,
        "compute": {"dtype": spec.compute.dtype},
    }
    return _flat(document) | {"tasks": sorted(task.label for task in spec.tasks)}


def _flat(document: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their paths."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        found |= _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return found


def _shrunk(old: StudySpec, new: StudySpec) -> list[tuple[str, Any, Any]]:
    """What may only grow, and did not."""
    listed: list[tuple[str, Any, Any]] = [("phases", list(old.phases), list(new.phases))]
    listed += [("variants", [chosen.label for chosen in old.variants], [chosen.label for chosen in new.variants])]
    seeds = zip(old.seeds.model_dump().items(), new.seeds.model_dump().values(), strict=True)
    counted = [("design.points", old.design.points, new.design.points)]
    counted += [("design.refine", old.design.refine, new.design.refine)]
    counted += [(f"seeds.{phase}", was, now) for (phase, was), now in seeds]
    found = [(path, was, now) for path, was, now in listed if not set(was) <= set(now)]
    return found + [(path, was, now) for path, was, now in counted if now < was]


def _changed_knobs(old: StudySpec, new: StudySpec) -> list[tuple[str, Any, Any]]:
    """Knobs of the variants there were that mean something else now, wherever they are written."""
    found: dict[str, tuple[Any, Any]] = {}
    later = {chosen.label: chosen for chosen in new.variants}
    for was, now in ((chosen, later[chosen.label]) for chosen in old.variants if chosen.label in later):
        before, after = _ways(space(old, was)), _ways(space(new, now))
        for name in (name for name in {**before, **after} if not _kept(before.get(name), after.get(name))):
            place = f"variants.{was.label}.knobs" if name in {**was.knobs, **now.knobs} else "knobs"
            found[f"{place}.{name}"] = (_written(before.get(name)), _written(after.get(name)))
    return [(path, *values) for path, values in found.items()]


def _ways(cell: Space) -> dict[str, Knob | Value]:
    """What each knob may be: the knob itself where it varies, else its one value."""
    return {**cell.fixed, **named(cell.varied)}


def _kept(before: Knob | Value | None, after: Knob | Value | None) -> bool:
    """Whether the knob is the same, or every value it had is still one of its levels; None: left to the budget."""
    if before == after or isinstance(before, LogFloat) or not isinstance(after, Levels):
        return before == after
    return set(before.values if isinstance(before, Levels) else [before]) <= set(after.values)


def _written(way: Knob | Value | None) -> Any:
    """As a spec would write it."""
    if isinstance(way, LogFloat):
        return [way.low, way.high]
    if not isinstance(way, Levels):
        return way
    like_a_range = len(way.values) == 2 and isinstance(way.values[0], float)
    return {"levels": list(way.values)} if like_a_range else list(way.values)


def prepared(spec: StudySpec, cache: Path, where: str) -> dict[str, Prepared]:
    """Each task's data and model, by label. Raises BadInput that says which field of which task they cannot follow."""
    found = {}
    for at, task in enumerate(spec.tasks):
        with _of_task(where, at):
            found[task.label] = prepare(task, cache)
    return found


def check_ranks(spec: StudySpec, prepared: Mapping[str, Prepared], where: str) -> dict[str, Frozen]:
    """Each task's frozen model, by label. Raises BadInput where a rank exceeds the smaller side of a target layer."""
    models = {}
    for at, task in enumerate(spec.tasks):
        with _of_task(where, at):
            model, heads = prepared[task.label].load(torch.float32, "sdpa")
            frozen = models[task.label] = Frozen(model, task.targets, heads)
        smallest = min(frozen.sites, key=lambda site: min(site.I, site.O))
        side = min(smallest.I, smallest.O)
        for chosen in spec.variants:
            rank = _largest_rank(space(spec, chosen))
            if rank > side:
                path = f"variants.{chosen.label}.knobs.rank" if "rank" in chosen.knobs else "knobs.rank"
                allowed = f"at most {side}, the smaller side of {smallest.name}"
                raise BadInput(f"{where}: {path}", f"{rank:g} for {chosen.label} on {task.label}", allowed)
    return models


@contextmanager
def _of_task(where: str, at: int) -> Iterator[None]:
    """What cannot be used inside is told with the file and the task it stands in."""
    try:
        yield
    except BadInput as error:
        joint = "." if error.where.partition(".")[0] in TaskSpec.model_fields else ": "
        raise BadInput(f"{where}: tasks.{at}{joint}{error.where}", error.problem, error.allowed) from None


def _largest_rank(cell: Space) -> int:
    """0 where the variant has no rank."""
    ranks = next((knob.grid(0) for knob in cell.varied if knob.name == "rank"), [cell.fixed.get("rank", 0)])
    return max(int(rank) for rank in ranks)


def workers(spec: StudySpec) -> int:
    """Worker processes of a study on this machine: one a core, or one for a CUDA device."""
    if spec.compute.workers != "auto":
        return spec.compute.workers
    return 1 if spec.compute.device == "cuda" else cores()


def plans(
    spec: StudySpec, models: Mapping[str, Frozen], prepared: Mapping[str, Prepared]
) -> dict[tuple[str, str], Plan]:
    """Every cell's packs here, by the labels of task and variant.

    Raises BadInput where not even one trial fits into a worker's memory.
    """
    free, count = free_memory(spec.compute.device), workers(spec)
    found = {}
    for task in spec.tasks:
        tokens = prepared[task.label].tokens
        budget = task.budget if tokens is None else task.budget.model_copy(update={"length": tokens})
        for chosen in spec.variants:
            method, cell = variant(chosen.name, chosen.combine), space(spec, chosen)
            try:
                planned = plan(method, models[task.label], cell, budget, spec.compute, free, count)
            except BadInput as error:
                raise BadInput(
                    f"study {spec.name}: {chosen.label} on {task.label}", error.problem, error.allowed
                ) from None
            found[task.label, chosen.label] = planned
    return found


def estimate(
    spec: StudySpec, row: StudyRow | None, models: Mapping[str, Frozen], prepared: Mapping[str, Prepared]
) -> list[Estimate]:
    """What every cell will cost here, from this machine's speed at matrix products. Raises BadInput as `plans` does."""
    rate = gemm_rate(COMPUTE_DTYPES[spec.compute.dtype], spec.compute.device) * EFFICIENCY * workers(spec)
    columns = design.owners(row.columns if row else [], [space(spec, chosen) for chosen in spec.variants])
    planned = plans(spec, models, prepared)
    found = []
    for task in spec.tasks:
        tokens = _tokens(task, prepared[task.label], spec.compute.unpad)
        example = 2 * tokens * sum(O * I for O, I in linear_shapes(models[task.label]))  # one forward
        for chosen in spec.variants:
            cell, method = planned[task.label, chosen.label], variant(chosen.name, chosen.combine)
            settings = _settings(spec, columns, space(spec, chosen))
            phases = {phase: _members(spec, settings, phase) for phase in spec.phases}
            trials = sum(len(members) for members in phases.values())
            formed = sum(
                len(packs(members, method, task.budget, cell, spec, phase)) for phase, members in phases.items()
            )
            seen = sum(_examples(task, prepared[task.label], members, phase) for phase, members in phases.items())
            costs = (len(settings), trials, formed, cell.width, cell.worker, seen * example / rate)
            found.append(Estimate(task.label, chosen.label, *costs))
    return found


def _members(spec: StudySpec, settings: Sequence[Mapping[str, Value]], phase: Phase) -> list[Member]:
    """The trials of a phase; which settings results will ask for is not known yet, nor whether any beyond a range."""
    asked = {"explore": len(settings), "extend": 0, "refine": spec.design.refine, "confirm": 1}
    chosen = list(itertools.islice(itertools.cycle(settings), asked[phase]))
    return [Member(seed, values) for values in chosen for seed in spec.seeds.of(phase)]


def _tokens(task: TaskSpec, prepared: Prepared, unpad: bool) -> float:
    """What an example has: what the model makes of it, its own tokens, or those it is padded to."""
    if prepared.tokens is not None:
        return prepared.tokens
    if not unpad:
        return task.budget.length
    return fmean(len(next(iter(inputs.values()))) for inputs in prepared.splits["train"].inputs)


def _examples(task: TaskSpec, prepared: Prepared, trials: Sequence[Member], phase: Phase) -> int:
    """How often a phase sends an example forward; the gradient of a step costs as much as its forward."""
    seen = len(prepared.splits["validation"]) + (len(prepared.splits["test"]) if phase == "confirm" else 0)
    return sum(2 * task.budget.steps * task.budget.examples(trial.values) + seen for trial in trials)


def _settings(spec: StudySpec, columns: Sequence[str], cell: Space) -> list[dict[str, Value]]:
    """The settings one variant is tried at; of a search, as many as it will make."""
    if spec.design.kind == "tpe":
        unknown = {**cell.fixed, **{knob.name: knob.default for knob in cell.varied}}
        return [unknown] * spec.design.points
    return design.settings(spec.design.kind, spec.design.points, spec.design.seed, columns, cell)


def gemm_rate(dtype: torch.dtype, device: str, seconds: float = 0.3) -> float:
    """FLOP per second of one thread, or of a CUDA device, at the shapes of a small encoder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x, W = torch.randn(2048, 384).to(device, dtype), torch.randn(1536, 384).to(device, dtype)
    began, products = 0.0, -1  # the first product is not counted
    while products < 0 or time.perf_counter() - began < seconds:
        torch.nn.functional.linear(x, W)[0, 0].item()  # waits for the device
        products += 1
        began = began or time.perf_counter()
    torch.set_num_threads(threads)
    return 2 * products * x.numel() * len(W) / (time.perf_counter() - began)
