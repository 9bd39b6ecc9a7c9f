"""ReLoRA: the pair is merged and drawn anew several times, so that ranks add up (Lialin et al. 2023, arXiv:2307.05695).

A restart is algorithm 1's: B A into the layer, A and B fresh, 99 % of their moments pruned by size; Adam's step count
and all other states stay (the released code also has random pruning of 99.9 %). The rate of A and B then climbs back to
the schedule: section 3's jagged cosine where `schedule` is cosine. The paper's rate is one for all parameters; the
head's is left alone here, since nothing of it restarts. The full-rank warm start is the pretrained model.
"""

import torch
from torch import Tensor

from study import optim
from study.optim import Columns, State, Transform
from study.space import LogFloat
from study.variants import inits, lora
from study.variants.base import Axis, Event, Leaves, Lifted, Plain, Site

KNOBS = (
    *lora.PAIR_KNOBS,
    LogFloat("restart_every", 0.05, 0.5, default=0.1),  # a share of the steps
    LogFloat("restart_warmup", 0.02, 0.5, default=0.1),  # a share of the time between restarts; 0.01-0.02 in the paper
)
PRUNED = 0.99


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """LoRA's pair, and what was merged so far, D: O I."""
    return lora.VARIANT.init(site, h, generator) | {"D": torch.zeros(site.O, site.I)}


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + D x + s B A x."""
    return lora.forward(x, y, site, p, h) + x @ p["D"].T.to(x.dtype)


def optimizer(h: Lifted) -> Transform:
    """AdamW, slow after a restart."""
    return optim.chain(optim.adamw(h), warm_again(h["restart_warmup"] * h["restart_every"] * h["steps"]))


def warm_again(steps: Tensor) -> Transform:
    """The step times age / steps, at most 1: the age counts a leaf's steps since its restart."""

    def update(u: Tensor, state: State, p: Tensor, at: Columns) -> tuple[Tensor, State]:
        age = state["age"] + 1
        return u * (age / steps.clamp(min=1)).clamp(max=1), {"age": age}

    return Transform(lambda p, at: {"age": torch.full_like(p, torch.inf)}, update)


def due(h: Plain, t: int) -> bool:
    """Every so many steps, and not after the last."""
    return t < int(h["steps"]) and t % max(1, round(float(h["restart_every"]) * int(h["steps"]))) == 0


def restart(
    leaves: dict[str, Leaves], state: dict[str, dict[str, Leaves]], h: Plain, t: int, generator: torch.Generator
) -> None:
    """Merge and draw anew; the layer's function stays."""
    for owner, p in leaves.items():
        p["D"] += float(h["scale"]) * (p["B"] @ p["A"])
        p["A"].copy_(inits.uniform(generator, *p["A"].shape))
        p["B"].zero_()
        for name in ("A", "B"):
            prune(state["0.m"][owner][name])
            prune(state["0.v"][owner][name])
            state["1.age"][owner][name].zero_()


def prune(moment: Tensor) -> None:
    """Zero the smallest entries, in place."""
    size = moment.abs()
    moment[size <= size.flatten().kthvalue(max(1, int(PRUNED * size.numel()))).values] = 0


VARIANT = lora.VARIANT._replace(
    name="relora",
    axis=Axis.RANK,
    category="expansion",
    paper="2307.05695",
    knobs=KNOBS,
    init=init,
    forward=forward,
    optimizer=optimizer,
    events=(Event(due, restart),),
    frozen=frozenset({"D"}),
    fixed={"init": "kaiming"},
)
