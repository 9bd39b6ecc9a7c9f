"""AdaLoRA: singular triplets compete for one budget over all layers (Zhang et al. 2023, arXiv:2303.10512, algorithm 1).

The importance is taken from weight and gradient of one step (equations 8-11); the released code reads the weight after
it. The penalty is equation 4's squared norms, summed; the released code has their roots, averaged. The budget follows
equation 12 with t - t_i in it, as the released code has it: with the printed t - t_i - t_f it would not begin at b(0).
"""

from math import ceil

import torch
from torch import Tensor

from study import optim
from study.optim import Columns, State, Transform
from study.space import Levels, LogFloat
from study.variants.base import Axis, Event, Leaves, Lifted, Plain, Site, Variant
from study.variants.lora import PAIR_KNOBS

KNOBS = (
    *PAIR_KNOBS,  # rank: the mean over layers at the end
    LogFloat("orthogonality", 1e-2, 1.0, default=0.1),  # gamma
    Levels("t_initial", (0.0, 0.1, 0.2), default=0.1),  # t_i, t_f: shares of the steps
    LogFloat("t_final", 0.25, 0.75, default=0.5),
)
EXCESS = 1.5  # the first budget over the last (section 3.3)
BETA = 0.85  # of both averages
INTERVAL = 0.01  # between two allocations, a share of the steps: the paper's 1 to 100 steps


def first_rank(h: Plain) -> int:
    """The rank of every layer at the start."""
    return ceil(EXCESS * int(h["rank"]))


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """P: O R and Q: R I, normal with standard deviation 0.02; e: R, zero; kept: R, what the last allocation spares."""
    rank = first_rank(h)
    P, Q = (0.02 * torch.randn(*shape, generator=generator) for shape in ((site.O, rank), (rank, site.I)))
    return {"P": P, "e": torch.zeros(rank), "Q": Q, "kept": torch.ones(rank)}


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + s P diag(e) Q x."""
    return y + ((h["scale"] * p["e"] * p["kept"]).to(x.dtype) * (x @ p["Q"].T.to(x.dtype))) @ p["P"].T.to(x.dtype)


def penalty(x: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """gamma (|P'P - 1|^2 + |Q Q' - 1|^2) over the ranks the trial owns."""
    owned = torch.arange(len(p["e"]), device=p["e"].device) < (EXCESS * h["rank"]).ceil()
    one = torch.diag(owned.to(p["e"].dtype))
    return h["orthogonality"] * ((p["P"].T @ p["P"] - one).square().sum() + (p["Q"] @ p["Q"].T - one).square().sum())


def optimizer(h: Lifted) -> Transform:
    """AdamW, the importance noted before it."""
    return optim.chain(importance(), optim.adamw(h))


def importance() -> Transform:
    """Passes the gradient on; keeps the averages of |w g| and of its distance from its average."""

    def update(g: Tensor, state: State, p: Tensor, at: Columns) -> tuple[Tensor, State]:
        now = (p * g).abs()
        mean = BETA * state["mean"] + (1 - BETA) * now
        return g, {"mean": mean, "spread": BETA * state["spread"] + (1 - BETA) * (now - mean).abs()}

    return Transform(lambda p, at: {"mean": torch.zeros_like(p), "spread": torch.zeros_like(p)}, update)


def phases(h: Plain) -> tuple[int, int]:
    """The steps after which the budget begins to fall and is final."""
    steps = int(h["steps"])
    return round(float(h["t_initial"]) * steps), max(1, steps - round(float(h["t_final"]) * steps))


def budget(h: Plain, t: int, layers: int) -> int:
    """How many triplets live after t steps, over all layers: a cubic fall from the first to the final."""
    (begin, end), final = phases(h), int(h["rank"]) * layers
    left = 1 - (t - begin) / (end - begin) if t < end else 0.0
    return int((first_rank(h) * layers - final) * left**3 + final)


def due(h: Plain, t: int) -> bool:
    """At intervals while the budget falls, and when it is final."""
    begin, end = phases(h)
    return t == end or (begin < t < end and t % max(1, round(INTERVAL * int(h["steps"]))) == 0)


def allocate(
    leaves: dict[str, Leaves], state: dict[str, dict[str, Leaves]], h: Plain, t: int, generator: torch.Generator
) -> None:
    """Zero every e but those of the most important triplets; the last allocation is for good."""
    score = torch.cat([triplets(state["0.mean"][owner], state["0.spread"][owner]) for owner in leaves])
    chosen = torch.zeros_like(score)
    chosen[score.topk(budget(h, t, len(leaves))).indices] = 1
    for p, kept in zip(leaves.values(), chosen.split([len(p["e"]) for p in leaves.values()]), strict=True):
        p["e"] *= kept
        if t == phases(h)[1]:
            p["kept"].copy_(kept)


def triplets(mean: Leaves, spread: Leaves) -> Tensor:
    """The importance of a layer's triplets: R."""
    s = {name: mean[name] * spread[name] for name in ("P", "e", "Q")}
    return s["e"] + s["P"].mean(0) + s["Q"].mean(1)


VARIANT = Variant(
    name="adalora",
    axis=Axis.RANK,
    category="budgeting",
    paper="2303.10512",
    knobs=KNOBS,
    trainable="ceil(1.5 * r) * (I + O + 1)",
    init=init,
    forward=forward,
    optimizer=optimizer,
    scaling=lambda h: h["alpha"] / ceil(EXCESS * h["rank"]),
    penalty=penalty,
    events=(Event(due, allocate),),
    frozen=frozenset({"kept"}),
)
