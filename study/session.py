"""Before a study runs: may it, does it fit its models, what will it cost."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from study import design
from study.controller import CPU_PACK_SIZE
from study.errors import BadInput
from study.hardware import cores, fast_dtype
from study.ledger import Ledger, StudyRow
from study.pack import Frozen, StandIn
from study.space import LogFloat, named
from study.spec import Compute, StudySpec, space
from study.tasks.base import Prepared
from study.worker import COMPUTE_DTYPES

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
    seconds: float  # of the whole cell on all workers


def admit(ledger: Ledger, asked: StudySpec, where: str) -> StudySpec:
    """The spec as it will run: its dtype decided, and nothing changed that a study of that name already fixed.

    Raises BadInput with every field that differs by more than widening.
    """
    row = ledger.study(asked.name)
    if asked.compute.dtype == "auto":
        dtype = row.spec["compute"]["dtype"] if row else fast_dtype()
        asked = asked.model_copy(update={"compute": Compute(**(asked.compute.model_dump() | {"dtype": dtype}))})
    if row is not None:
        changed = differences(parse(row.spec, f"study {asked.name}"), asked)
        if changed:
            fields = "; ".join(f"{path}: was {old!r}, is {new!r}" for path, old, new in changed)
            problem = f"study {asked.name} exists and differs: {fields}"
            raise BadInput(where, problem, "widen it, or run this one --as NEW-NAME")
    return asked


def differences(old: StudySpec, new: StudySpec) -> list[tuple[str, Any, Any]]:
    """Where `new` asks for something else than `old`, and not only for more: (key path, old, new)."""
    before, after = _settled(old), _settled(new)
    found = [(path, before.get(path), after.get(path)) for path in {**before, **after}]
    return [entry for entry in found if entry[1] != entry[2]] + _narrowed(old, new) + _changed_knobs(old, new)


def _settled(spec: StudySpec) -> dict[str, Any]:
    """What may not change, by key path. `workers` and `pack_size` may."""
    document = {"tasks": {task.label: task.model_dump() for task in spec.tasks}}
    document["design"] = {"kind": spec.design.kind, "seed": spec.design.seed}
    return _flat(document | {"focus": spec.focus, "margin": spec.margin, "compute": {"dtype": spec.compute.dtype}})


def _flat(document: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their paths."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        found |= _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return found


def _narrowed(old: StudySpec, new: StudySpec) -> list[tuple[str, Any, Any]]:
    """What may only grow, and shrank."""
    found: list[tuple[str, Any, Any]] = []
    listed = [("phases", old.phases, new.phases)]
    listed += [("variants", tuple(v.label for v in old.variants), tuple(v.label for v in new.variants))]
    found += [(path, list(before), list(after)) for path, before, after in listed if not set(before) <= set(after)]
    counted = [("design.points", old.design.points, new.design.points)]
    counted += [(f"seeds.{phase}", old.seeds.count(phase), new.seeds.count(phase)) for phase in ("explore", "confirm")]
    return found + [(path, before, after) for path, before, after in counted if after < before]


def _changed_knobs(old: StudySpec, new: StudySpec) -> list[tuple[str, Any, Any]]:
    """Knobs of the old variants that mean something else now; a list that only gained levels does not."""
    found: dict[str, tuple[Any, Any]] = {}
    chosen = {variant.label: variant for variant in new.variants}
    for variant in old.variants:
        if variant.label in chosen:
            before, after = (_ways(space(spec, each)) for spec, each in ((old, variant), (new, chosen[variant.label])))
            own = {*variant.knobs, *chosen[variant.label].knobs}
            for name in before:
                if before[name] != after[name] and not _more_levels(before[name], after[name]):
                    path = f"variants.{variant.label}.knobs.{name}" if name in own else f"knobs.{name}"
                    found[path] = (_written(before[name]), _written(after[name]))
    return [(path, *values) for path, values in found.items()]


def _ways(cell: Space) -> dict[str, Knob | Value]:
    """What each knob may be: the knob itself where it varies, else its one value."""
    return {**cell.fixed, **named(cell.varied)}


def _more_levels(before: Knob | Value, after: Knob | Value) -> bool:
    """Whether every value there was is still one of the levels."""
    if isinstance(before, LogFloat) or not isinstance(after, Levels):
        return False
    return set(before.values if isinstance(before, Levels) else [before]) <= set(after.values)


def _written(way: Knob | Value) -> Any:
    """As a spec would write it."""
    if isinstance(way, LogFloat):
        return [way.low, way.high]
    return list(way.values) if isinstance(way, Levels) else way


def check_ranks(spec: StudySpec, prepared: Mapping[str, Prepared], where: str) -> dict[str, Frozen]:
    """Each task's frozen model, by label. Raises BadInput where a rank exceeds the smaller side of a target layer."""
    models = {}
    for task in spec.tasks:
        model, heads = prepared[task.label].load(torch.float32, "sdpa")
        frozen = models[task.label] = Frozen(model, task.targets, heads)
        smallest = min(frozen.sites, key=lambda site: min(site.I, site.O))
        side = min(smallest.I, smallest.O)
        for chosen in spec.variants:
            cell = space(spec, chosen)
            ranks = next((knob.grid(0) for knob in cell.varied if knob.name == "rank"), [cell.fixed.get("rank", 1)])
            if max(ranks) > side:
                allowed = f"at most {side}, the smaller side of {smallest.name}"
                raise BadInput(f"{where}: knobs.rank", f"{max(ranks)} for {chosen.label} on {task.label}", allowed)
    return models


def workers(spec: StudySpec) -> int:
    """Worker processes of a study on this machine."""
    return cores() if spec.compute.workers == "auto" else spec.compute.workers


def estimate(
    spec: StudySpec, row: StudyRow | None, models: Mapping[str, Frozen], prepared: Mapping[str, Prepared]
) -> list[Estimate]:
    """What every cell will cost here, from this machine's speed at matrix products."""
    rate = gemm_rate(COMPUTE_DTYPES[spec.compute.dtype])
    columns = design.owners(row.columns if row else [], [space(spec, chosen) for chosen in spec.variants])
    found = []
    for task in spec.tasks:
        layers = [
            module for module in models[task.label].model.modules() if isinstance(module, torch.nn.Linear | StandIn)
        ]
        weights = sum(layer.weight.numel() for layer in layers)
        splits = prepared[task.label].splits
        per_step = 4 * task.budget.batch_size * task.budget.length * weights  # forward, and the gradient of the input
        validation = 2 * len(splits["validation"]) * task.budget.length * weights
        test = 2 * len(splits["test"]) * task.budget.length * weights
        for chosen in spec.variants:
            cell = space(spec, chosen)
            if spec.design.kind == "tpe":
                settings = spec.design.points
            else:
                settings = len(design.settings(spec.design.kind, spec.design.points, spec.design.seed, columns, cell))
            explore, confirm = settings * spec.seeds.explore, spec.seeds.confirm * ("confirm" in spec.phases)
            work = (explore + confirm) * (task.budget.steps * per_step + validation) + confirm * test
            width = CPU_PACK_SIZE if spec.compute.pack_size == "auto" else spec.compute.pack_size
            packs = math.ceil(explore / width) + math.ceil(confirm / width)
            found.append(
                Estimate(
                    task.label,
                    chosen.label,
                    settings,
                    explore + confirm,
                    packs,
                    work / rate / EFFICIENCY / workers(spec),
                )
            )
    return found


def gemm_rate(dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP per second of one thread at the shapes of a small encoder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x, W = torch.randn(2048, 384).to(dtype), torch.randn(1536, 384).to(dtype)
    torch.nn.functional.linear(x, W)
    began, products = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        torch.nn.functional.linear(x, W)
        products += 1
    torch.set_num_threads(threads)
    return 2 * products * x.numel() * len(W) / (time.perf_counter() - began)
