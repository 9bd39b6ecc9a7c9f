"""LoRAMoE: E low-rank experts and a router that weighs them token by token (Dou et al. 2023, arXiv:2312.09979).

`rank` is what the experts have together: each is a LoRA of rank r / E, rounded up, with the scale of that rank, so that
equal gates give LoRA of rank r. The paper's router weighs every expert; `top_k` below E keeps a token's k largest gates
and lets them sum to 1.
"""

from math import ceil

import torch
from torch import Tensor

from study.space import Levels, LogFloat, named
from study.variants import inits, lora
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, low_rank, refuses

EXPERT_KNOBS = (Levels("rank", (4, 8, 16, 32), default=8), Levels("experts", (2, 4, 8), default=4))
OWN = (Levels("top_k", (1, 2, 4), default=4), LogFloat("balance", 1e-3, 1, default=0.1))
RANKS = {"A": 0, "A0": 0, "B": 1, "B0": 1}  # the axis of the ranks; the experts' stands behind it


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """LoRA's pair dealt out to the experts, A: R E I and B: O R E with R = r / E, and the router G: E I."""
    E = int(h["experts"])
    pair = inits.pair(site, {**h, "rank": E * ceil(int(h["rank"]) / E)}, generator)
    return {name: leaf.unflatten(RANKS[name], (-1, E)) for name, leaf in pair.items()} | router(site, E, generator)


def router(site: Site, E: int, generator: torch.Generator) -> Leaves:
    """G: E I, uniform in +-1/sqrt(I) as in the released code."""
    return {"G": inits.uniform(generator, E, site.I)}


def gates(x: Tensor, G: Tensor, top_k: Tensor | int) -> Tensor:
    """softmax(G x) over the k largest of each token, 0 elsewhere: N E, in the precision of G."""
    logits = (x @ G.T.to(x.dtype)).to(G.dtype)
    place = logits.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)  # 0 for a token's largest
    return logits.masked_fill(place >= top_k, -torch.inf).softmax(-1)


def mixture(x: Tensor, p: Leaves, weights: Tensor) -> Tensor:
    """The sum over experts of w_e B_e A_e x, less the start where there is one: weights N E -> N O."""
    flat = {name: p[name].flatten(axis, axis + 1) for name, axis in RANKS.items() if name in p}  # (R E) I and O (R E)
    return low_rank(x, flat, weights.to(x.dtype).repeat(1, p["A"].shape[0]))


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + s sum_e G(x)_e B_e A_e x."""
    return y + mixture(x, p, h["scale"] * gates(x, p["G"], h["top_k"]))


def penalty(x: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """The localized balancing constraint for data of one type: balance * var(Q) / mean(Q)^2, Q: all gates by expert.

    As the released code; the paper divides by mean(Q), which grows with the number of tokens.
    """
    Q = (h["valid"][:, None] * gates(x, p["G"], len(p["G"]))).sum(0)  # E
    return h["balance"] * Q.var(correction=0) / Q.mean() ** 2


VARIANT = lora.VARIANT._replace(
    name="loramoe",
    axis=Axis.MOE,
    category="dense routing",
    paper="2312.09979",
    knobs=tuple(named((*lora.KNOBS, *EXPERT_KNOBS, *OWN)).values()),
    trainable="experts * (ceil(r / experts) * (I + O) + I)",
    init=init,
    forward=forward,
    scaling=lambda h: h["alpha"] / ceil(h["rank"] / h["experts"]),
    penalty=penalty,
    pack_key=lambda h: (inits.has_start(h), h["experts"]),
    merge=refuses("the weights of its experts depend on the token"),
)
