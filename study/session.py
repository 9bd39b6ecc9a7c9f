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
from study.spec import Compute, StudySpec, resolved, space
from study.tasks.base import Prepared
from study.variants import VARIANTS
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
        changed = differences(row.spec, resolved(asked))
        if changed:
            fields = "; ".join(f"{path}: was {old!r}, is {new!r}" for path, old, new in changed)
            raise BadInput(where, f"study {asked.name} exists and differs: {fields}", "widen it, or run this one --as NEW-NAME")
    return asked


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where `new` asks for something else than `old`, and not only for more: (path, old, new)."""
    found = [(name, old[name], new[name]) for name in ("tasks", "focus", "margin") if old[name] != new[name]]
    kept = [variant for variant in new["variants"] if variant in old["variants"]]
    found += [(f"variants.{v['name']}", v, None) for v in old["variants"] if v not in kept]
    for name in {**old["knobs"], **new["knobs"]}:
        before, after = old["knobs"].get(name), new["knobs"].get(name)
        if before != after and not _more_levels(name, before, after):
            found.append((f"knobs.{name}", before, after))
    found += [(f"design.{name}", old["design"][name], new["design"][name]) for name in ("kind", "seed") if old["design"][name] != new["design"][name]]
    grown = [("design.points", old["design"]["points"], new["design"]["points"])]
    grown += [(f"seeds.{phase}", old["seeds"][phase], new["seeds"][phase]) for phase in old["seeds"]]
    found += [(path, before, after) for path, before, after in grown if after < before]
    if not set(old["phases"]) <= set(new["phases"]):
        found.append(("phases", old["phases"], new["phases"]))
    if old["compute"]["dtype"] != new["compute"]["dtype"]:
        found.append(("compute.dtype", old["compute"]["dtype"], new["compute"]["dtype"]))
    return found


def _more_levels(name: str, before: Any, after: Any) -> bool:
    """Whether a list of levels only grew; a range is no list of levels."""
    if not isinstance(before, list) or not isinstance(after, list):
        return False
    is_log = any(isinstance(named(method.knobs).get(name), LogFloat) for method in VARIANTS.values())
    return not (is_log and 2 in (len(before), len(after))) and set(before) <= set(after)


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


def estimate(spec: StudySpec, row: StudyRow | None, models: Mapping[str, Frozen], prepared: Mapping[str, Prepared]) -> list[Estimate]:
    """What every cell will cost here, from this machine's speed at matrix products."""
    rate = gemm_rate(COMPUTE_DTYPES[spec.compute.dtype])
    columns = design.owners(row.columns if row else [], [space(spec, chosen) for chosen in spec.variants])
    found = []
    for task in spec.tasks:
        layers = [module for module in models[task.label].model.modules() if isinstance(module, torch.nn.Linear | StandIn)]
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
            found.append(Estimate(task.label, chosen.label, settings, explore + confirm, packs, work / rate / EFFICIENCY / workers(spec)))
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
