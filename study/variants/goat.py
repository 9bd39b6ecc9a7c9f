"""GOAT: routed experts that start from segments of the spectrum of W (Fan et al. 2025, arXiv:2502.16894, section 3).

The paper takes the expected start off W, s / E times the sum of all B0 A0. A drawn router's gates are not 1 / E, so
here the start is taken off as it is routed, by a frozen copy G0 of the router: the model begins at the base model.
"""

from math import ceil

import torch
from torch import Tensor

from study.optim import ADAMW_KNOBS
from study.space import Levels, LogFloat
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant, refuses
from study.variants.loramoe import EXPERT_KNOBS, gates, mixture, router

KNOBS = (
    *ADAMW_KNOBS,
    *EXPERT_KNOBS,
    Levels("top_k", (1, 2, 4), default=2),
    LogFloat("eta", 0.1, 10, default=1.0),
    LogFloat("rho", 1, 100, default=10.0),
    LogFloat("balance", 1e-4, 1e-1, default=1e-3),
)


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """Expert e: the first R = r / E triplets of segment e of the SVD, over s rho. A: R E I, B: O R E, router G: E I."""
    U, S, Vh = site.svd
    E = int(h["experts"])
    ranks, starts = torch.arange(ceil(int(h["rank"]) / E)), torch.arange(E) * (len(S) // E)
    at = ranks[:, None] + starts  # R E
    root = (S[at] / (float(h["scale"]) * site.I**0.5 * float(h["rho"]))).sqrt()
    start = {"A": root[..., None] * Vh[at], "B": U[:, at] * root} | router(site, E, generator)
    return start | {f"{name}0": leaf.clone() for name, leaf in start.items()}


def scaling(h: Plain) -> float:
    """sqrt(3 eta / R), what a trial brings to s = sqrt(3 eta I / R); I is the site's."""
    return (3 * float(h["eta"]) / ceil(int(h["rank"]) / int(h["experts"]))) ** 0.5


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + s sum_e (w_e B_e A_e - w0_e B0_e A0_e) x, as differences so that no small update is rounded away."""
    s, w, w0 = h["scale"] * site.I**0.5, gates(x, p["G"], h["top_k"]), gates(x, p["G0"], h["top_k"])
    return y + mixture(x, p, s * w) + mixture(x, {"A": p["A0"], "B": p["B0"]}, s * (w - w0))


def penalty(x: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """balance * E sum_e f_e P_e: f_e the share of real tokens expert e gets, P_e its mean gate before the top-k."""
    E, share = len(p["G"]), (h["valid"] / h["valid"].sum())[:, None]  # N 1
    f = (share * (gates(x, p["G"], h["top_k"]) > 0)).sum(0)  # E
    P = (share * gates(x, p["G"], E)).sum(0)
    return h["balance"] * E * (f * P).sum()


VARIANT = Variant(
    name="goat",
    axis=Axis.MOE,
    category="sparse routing",
    paper="2502.16894",
    knobs=KNOBS,
    trainable="experts * (ceil(r / experts) * (I + O) + I)",
    init=init,
    forward=forward,
    scaling=scaling,
    penalty=penalty,
    frozen=frozenset({"A0", "B0", "G0"}),
    pack_key=lambda h: h["experts"],
    merge=refuses("the weights of its experts depend on the token"),
)
