"""How many trials make a pack, and which: what there is for them, what trains fastest, who goes with whom.

The speeds behind the constants are those of encoders of width 128 and 384 on one core: 8 trials take most of what
packing gives, small trials go on gaining, and a step is fastest while its widest activation stays near the caches.
"""

import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import ceil
from typing import NamedTuple, Protocol, TypeVar

from study.errors import BadInput
from study.frozen import Frozen
from study.grouping import grouped
from study.needs import largest, linear_shapes, model_bytes, needs
from study.space import Space, Value
from study.spec import Budget, Compute, StudySpec
from study.trial import Phase
from study.variants.base import Variant
from study.worker import COMPUTE_DTYPES

USUAL, NARROWEST, WIDEST, WIDEST_ON_CUDA = 8, 4, 32, 64  # trials a pack
# Bytes of a pack's widest activation: more trials below the first, fewer above the second.
ACTIVATION = {"bf16": (8 << 20, 16 << 20), "fp32": (2 << 20, 4 << 20), "fp64": (2 << 20, 4 << 20)}
PROCESS = 560 << 20  # bytes of a worker that has imported its libraries
USED = 0.8  # of the free memory: the rest is for what is not counted here
APART = 4  # times the smallest rank of a pack is the largest, where padding costs
SMALL = 0.25  # of the frozen layer's work: low-rank work up to that costs too little to keep ranks apart


class Plan(NamedTuple):
    """The packs of one cell."""

    width: int = USUAL  # trials a pack
    trial: int = 0  # bytes that its largest trial needs
    worker: int = 0  # bytes that a worker needs with such a pack
    room: int = sys.maxsize  # bytes that a worker has for a pack
    side: int = sys.maxsize  # the smaller side of the smallest target layer


class Placed(Protocol):
    """What packs are made of: a seed, and every knob's value."""

    @property
    def seed(self) -> int: ...

    @property
    def values(self) -> Mapping[str, Value]: ...


T = TypeVar("T", bound=Placed)
Item = TypeVar("Item")


def plan(
    variant: Variant, frozen: Frozen, cell: Space, budget: Budget, compute: Compute, free: int, workers: int
) -> Plan:
    """The packs of a cell, whose workers share `free` bytes. Raises BadInput where not even one trial fits."""
    dtype = COMPUTE_DTYPES[compute.dtype]
    values = largest(cell, lambda values: needs(variant, frozen, values, budget, dtype).trial)
    need = needs(variant, frozen, values, budget, dtype)
    fixed = PROCESS + model_bytes(frozen, dtype)
    room = int(free * USED) // workers - fixed - need.common
    if need.trial > room:
        needed, has = shown(fixed + need.common + need.trial), shown(int(free * USED) // workers)
        problem = f"one trial needs {needed}, each of {workers} workers has {has} of {shown(free)} free"
        raise BadInput(variant.name, problem, "fewer workers, shorter examples or smaller batches")
    activation = budget.tokens(values) * dtype.itemsize * max(map(max, linear_shapes(frozen)))
    size = compute.pack_size
    width = min(fastest(activation, compute), room // need.trial) if size == "auto" else size
    side = min(min(site.O, site.I) for site in frozen.sites)
    return Plan(width, need.trial, fixed + need.common + width * need.trial, room, side)


def fastest(activation: int, compute: Compute) -> int:
    """The number of trials that trains fastest, by the bytes of one trial's widest activation."""
    if compute.device == "cuda":
        return WIDEST_ON_CUDA
    low, high = ACTIVATION[compute.dtype]
    return min(max(USUAL, ceil(low / activation)), max(NARROWEST, high // activation), WIDEST)


def shown(size: int) -> str:
    """Bytes, for people."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


def packs(
    trials: Sequence[T], variant: Variant, budget: Budget, plan: Plan, spec: StudySpec, phase: Phase
) -> list[list[T]]:
    """A cell's trials in even packs: of those that can be stacked, and where padding costs of ranks near each other."""
    top = buckets((_rank(trial) for trial in trials), plan.side)

    def stacked(trial: T) -> Hashable:
        return variant.pack_key({**trial.values, **variant.fixed}), top[_rank(trial)]

    found: list[list[T]] = []
    for group in grouped(trials, stacked).values():
        if spec.halves(phase):
            found += _whole(group, plan.width)
        elif spec.compute.share_batches:
            found += [pack for sharing in _sharing(group, budget) for pack in _even(sharing, plan.width)]
        else:
            found += _even(sorted(group, key=lambda trial: trial.seed), plan.width)
    return found


def _rank(trial: Placed) -> int:
    return int(trial.values.get("rank", 1))


def buckets(ranks: Iterable[int], side: int) -> dict[int, int]:
    """Each rank's bucket, named by its largest rank R: within a factor APART where 2 R is not small beside the side."""
    bucket: dict[int, int] = {}
    top = 0
    for rank in sorted(set(ranks), reverse=True):
        if not top or (2 * top > SMALL * side and top > APART * rank):
            top = rank
        bucket[rank] = top
    return bucket


def _sharing(trials: Sequence[T], budget: Budget) -> list[list[T]]:
    """Those of one seed and batch size can read the same batches; the few mix, since packing gives more than that."""
    alike = grouped(trials, lambda trial: (trial.seed, budget.examples(trial.values))).values()
    few = [trial for group in alike if len(group) < NARROWEST for trial in group]
    return [group for group in alike if len(group) >= NARROWEST] + ([few] if few else [])


def _whole(trials: Sequence[T], width: int) -> list[list[T]]:
    """Every setting with all its seeds, so that a pack can tell which setting is worse."""
    settings = list(grouped(trials, lambda trial: tuple(sorted(trial.values.items()))).values())
    pieces = _even(settings, max(1, width // max(map(len, settings))))
    return [[trial for setting in piece for trial in setting] for piece in pieces]


def _even(items: Sequence[Item], width: int) -> list[list[Item]]:
    pieces = ceil(len(items) / width)
    return [list(items[i * len(items) // pieces : (i + 1) * len(items) // pieces]) for i in range(pieces)]
