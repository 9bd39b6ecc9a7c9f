"""RandLoRA: a full-rank update summed from frozen random low-rank bases under trained diagonals (Albert et al. 2025).

arXiv:2502.00987: sum_j B_j diag(lambda_j) A diag(gamma_j), j = 1..n, n = ceil(min(I, O) / r), so that a smaller r
trains more. A stands on the shorter side. The bases have unit deviation and are as large as the largest layer; each
layer reads its corner, and all trials read one draw. lambda starts at zero, as in peft; in the authors'
code gamma does.
"""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from study.optim import ADAMW_KNOBS
from study.space import Levels, LogFloat
from study.streams import generator as stream
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant

KNOBS = (*ADAMW_KNOBS, Levels("rank", (8, 16, 32, 64), default=32), LogFloat("alpha", 40, 2560, default=640))


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """lambda: R n, zero; gamma: n min(I, O), constant."""
    shorter = min(site.I, site.O)
    n = ceil(shorter / int(h["rank"]))
    return {"lambda": torch.zeros(int(h["rank"]), n), "gamma": torch.full((n, shorter), 1 / shorter)}


def shared(sites: Sequence[Site], h: Plain, generator: torch.Generator) -> Leaves:
    """A: R M, B: R n D, uniform, M and D the largest short and long side; the trial's own stream is left alone."""
    rank, fixed = int(h["rank"]), stream(0, "randlora")
    shorter, longer = max(min(site.I, site.O) for site in sites), max(max(site.I, site.O) for site in sites)
    A = torch.empty(rank, shorter).uniform_(-1, 1, generator=fixed)
    B = torch.empty(rank, ceil(shorter / rank), longer).uniform_(-1, 1, generator=fixed)
    return {"A": A / A.std(), "B": B / B.std()}


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + s sum_j B_j diag(lambda_j) A diag(gamma_j) x; the transposed sum where the output is shorter."""
    n, shorter = p["gamma"].shape
    scaled = (h["scale"] * p["lambda"])[:, :, None] * p["A"][:, None, :shorter] * p["gamma"]  # R n M
    down = scaled.flatten(0, 1).to(x.dtype)  # Rn M
    up = p["B"][:, :n, : max(site.I, site.O)].flatten(0, 1).to(x.dtype)  # Rn D
    return y + ((x @ down.T) @ up if site.I <= site.O else (x @ up.T) @ down)


VARIANT = Variant(
    name="randlora",
    axis=Axis.RANK,
    category="expansion",
    paper="2502.00987",
    knobs=KNOBS,
    trainable="ceil(min(I, O) / r) * (r + min(I, O))",
    init=init,
    forward=forward,
    shared=shared,
    common=frozenset({"A", "B"}),
    pack_key=lambda h: h["rank"],
)
