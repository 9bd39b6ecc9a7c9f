"""DeLoRA: every rank-1 term has length 1 and a learned lambda bounds their sum (Bini et al. 2025, arXiv:2503.18225).

Weight' = W + (lambda / r) B Xi A |W| minus the same at the start, Xi = diag(1 / (|b_i| |a_i|)) (equations 5, 8 and 9).
|W| is the length of each column of W, as in the authors' code and in the peft library; the paper writes |W| alone.
The paper may give lambda its own learning rate; here it has the trial's.
"""

import torch
from torch import Tensor
from torch.linalg import vector_norm

from study.optim import ADAMW_KNOBS
from study.space import LogFloat
from study.variants import inits, lora
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, low_rank

KNOBS = (
    *ADAMW_KNOBS,
    lora.RANK,
    LogFloat("delora_lambda", 1, 64, default=12),  # its start; the paper's table 9 has 4 and 12
)
SHORTEST = 1e-4  # no row is divided by less: padding has length 0


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """A: R I uniform in +-1/sqrt(I), B: O R in +-1/sqrt(R), lambda: 1, their copies, and the columns' lengths w: I."""
    rank = int(h["rank"])
    A, B = inits.uniform(generator, rank, site.I), inits.uniform(generator, site.O, rank)
    bound = torch.tensor([float(h["delora_lambda"])])
    w = vector_norm(site.W, dim=0, dtype=torch.float64)
    return inits.compensated(A, B) | {"lambda": bound, "lambda0": bound.clone(), "w": w}


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + (lambda / r) B Xi A (|W| x), the start taken off."""
    return y + low_rank(x, directions(p), h["scale"])


def directions(p: Leaves) -> Leaves:
    """The pair of unit terms that `low_rank` sees, now and at the start: a_i / |a_i| times w, lambda b_i / |b_i|."""
    unit: Leaves = {}
    for start in ("", "0"):
        A, B = p[f"A{start}"], p[f"B{start}"]
        unit[f"A{start}"] = A / vector_norm(A, dim=1, keepdim=True).clamp_min(SHORTEST) * p["w"]
        unit[f"B{start}"] = B / vector_norm(B, dim=0).clamp_min(SHORTEST) * p[f"lambda{start}"]
    return unit


VARIANT = lora.VARIANT._replace(
    name="delora",
    axis=Axis.OPTIMIZATION,
    category="weight decomposition",
    paper="2503.18225",
    knobs=KNOBS,
    trainable="r * (I + O) + 1",
    init=init,
    forward=forward,
    frozen=frozenset({"A0", "B0", "lambda0", "w"}),
    common=frozenset({"w"}),
    scaling=lambda h: h["alpha"] / h["rank"],  # its own, so that no other scaling is combined: lambda is the bound
    fixed={"alpha": 1.0, "init": "kaiming"},
)
