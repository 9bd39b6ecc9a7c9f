"""RaSA: k ranks of each layer go into a pool that all layers of its kind use (He et al. 2025, arXiv:2503.12576).

alpha enters where the released code has it: as the start of the weights e, half of it on a layer's own ranks, half on
the pool; there is no other scale.
"""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from study.space import Levels
from study.variants import inits
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant
from study.variants.lora import PAIR_KNOBS

KNOBS = (*PAIR_KNOBS, Levels("pool_share", (0.125, 0.25, 0.5), default=0.125))  # k / r; the paper's runs have 1/8


def by_kind(site: Site) -> str:
    """Layers that differ in depth alone are one group."""
    return f"{site.kind} {site.O}x{site.I}"


def pooled(h: Plain) -> int:
    """k: how many ranks each layer gives to the pool."""
    return ceil(int(h["rank"]) * float(h["pool_share"]))


def start(ranks: int, h: Plain) -> Tensor:
    """e: half of alpha, spread evenly over so many ranks, which may be none."""
    return torch.full((ranks,), float(h["alpha"]) / 2 / max(ranks, 1))


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """The layer's own ranks: A: r-k I, B: O r-k, e: r-k."""
    own = int(h["rank"]) - pooled(h)
    return inits.kaiming(site, {**h, "rank": own}, generator) | {"e": start(own, h)}


def shared(sites: Sequence[Site], h: Plain, generator: torch.Generator) -> Leaves:
    """The pool of L layers: A_S: kL I, B_S: O kL, and every layer's weights of it: kL."""
    ranks = pooled(h) * len(sites)
    pair = inits.kaiming(sites[0], {**h, "rank": ranks}, generator)
    return {"A_S": pair["A"], "B_S": pair["B"]} | {weights(site): start(ranks, h) for site in sites}


def weights(site: Site) -> str:
    """The name of a layer's weights of the pool: they are kept with it, where L is known."""
    return f"e_S of {site.name}"


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + B diag(e) A x + B_S diag(e_S) A_S x: two products, so that padding stays at the end of each leaf."""
    A, B, e, A_S, B_S, e_S = (p[name].to(x.dtype) for name in ("A", "B", "e", "A_S", "B_S", weights(site)))
    return y + (e * (x @ A.T)) @ B.T + (e_S * (x @ A_S.T)) @ B_S.T


VARIANT = Variant(
    name="rasa",
    axis=Axis.RANK,
    category="sharing",
    paper="2503.12576",
    knobs=KNOBS,
    trainable="(r - ceil(r * pool_share)) * (I + O + 1)",
    init=init,
    forward=forward,
    scaling=lambda h: 1.0,
    shared=shared,
    group=by_kind,
    trainable_shared="L * ceil(r * pool_share) * (I + O + L)",
)
