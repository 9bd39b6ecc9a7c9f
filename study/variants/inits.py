"""Where A and B start: the levels of the `init` knob.

Each draws one site's pair: A: R I, B: O R. A start that is not zero is taken off again: it comes with frozen copies
A0, B0, and `low_rank` computes the difference from them, so that the trial begins at the base model. LoRA-One alone
keeps its start, which is a step of its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from study.errors import BadInput
from study.variants.base import Leaves, Plain, Site

GAMMA, GAMMA_ONE, RHO = 16.0, 128.0, 1.0  # of `lora_ga`, `lora_one` and `eva` in methods without that knob
TRIPLETS = 64  # are kept of a statistic: twice the usual largest rank


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Uniform in +-1/sqrt(inputs), inputs last (He et al. 2015, arXiv:1502.01852, a = sqrt 5)."""
    bound = shape[-1] ** -0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def kaiming(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """A uniform in +-1/sqrt(I), B = 0: the reference code's LoRA."""
    return _from_A(site, uniform(generator, int(h["rank"]), site.I))


def gaussian(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """A normal with standard deviation 1/r, B = 0 (Hu et al. 2021, arXiv:2106.09685, section 4.1)."""
    rank = int(h["rank"])
    return _from_A(site, torch.randn(rank, site.I, generator=generator) / rank)


def orthogonal(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """A with orthonormal rows (Saxe et al. 2013, arXiv:1312.6120), B = 0."""
    normal = torch.randn(site.I, int(h["rank"]), generator=generator, dtype=torch.float64)
    Q, triangle = torch.linalg.qr(normal)
    return _from_A(site, (Q * triangle.diagonal().sign()).T.float())  # the sign makes the draw uniform


def nonzero(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """Init[AB]: A and B both uniform in +-1/sqrt(I), the start taken off (arXiv:2505.23194, arXiv:2602.04998)."""
    bound, rank = site.I**-0.5, int(h["rank"])
    A = uniform(generator, rank, site.I)
    return compensated(A, torch.empty(site.O, rank).uniform_(-bound, bound, generator=generator))


def pissa(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """The r largest singular triplets of W, divided by s (Meng et al. 2024, arXiv:2404.02948, equations 2-4)."""
    return _of_weight(site, h, slice(int(h["rank"])))


def milora(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """The r smallest singular triplets of W, divided by s (Wang et al. 2024, arXiv:2406.09044, section 3)."""
    M = min(site.O, site.I)
    return _of_weight(site, h, slice(M - int(h["rank"]), M))


def olora(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """W = Q R: B the first r columns of Q, A the first r rows of R (Büyükakyüz 2024, arXiv:2406.01775, algorithm 1)."""
    rank = int(h["rank"])
    Q, R = torch.linalg.qr(site.W.double())
    return compensated(R[:rank], Q[:, :rank])


def lora_ga(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """A the first r right and B the next r left singular vectors of the gradient, both times O^(1/4) / sqrt gamma.

    Wang et al. 2024, arXiv:2407.05000, algorithm 1. Raises BadInput where fewer than 2 r triplets are kept.
    """
    (U, _, Vh), rank = site.stats["gradient"], int(h["rank"])
    _kept(site, Vh, 2 * rank)
    size = site.O**0.25 / float(h.get("gamma", GAMMA)) ** 0.5
    return compensated(size * Vh[:rank], size * U[:, rank : 2 * rank])


def lora_one(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """B A = -G_r / (gamma S_1), the best rank-r descent step, and it is kept (Zhang et al. 2025, arXiv:2502.01235).

    S_1, by which the released code divides, makes the step's largest singular value s / gamma at every layer. Raises
    BadInput where fewer than r triplets are kept.
    """
    (U, S, Vh), rank = site.stats["gradient"], int(h["rank"])
    _kept(site, Vh, rank)
    root = (S[:rank] / (S[0] * float(h.get("gamma", GAMMA_ONE)))).sqrt()
    return {"A": root[:, None] * Vh[:rank], "B": -U[:, :rank] * root}


def eva(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """A the directions in which the inputs vary most, B = 0 (Paischer et al. 2024, arXiv:2410.07170, section 3).

    r a layer is shared out to the components that explain the largest share of their layer's variance, at most r rho to
    a layer, so ranks differ by site. Raises BadInput where r rho is more than are kept.
    """
    rank, most = int(h["rank"]), round(int(h["rank"]) * float(h.get("rho", RHO)))
    if most > TRIPLETS:
        raise BadInput("rank", f"{rank} asks for up to {most} components of a layer's inputs", f"{TRIPLETS} are kept")
    places = site.stats["places"].U[:most][-1, :most]
    return _from_A(site, site.stats["inputs"].Vh[: int((places < rank).sum())].clone())


def _of_weight(site: Site, h: Plain, at: slice) -> Leaves:
    U, S, Vh = site.svd
    root = (S[at] / float(h["scale"])).sqrt()
    return compensated(root[:, None] * Vh[at], U[:, at] * root)


def _kept(site: Site, triplets: Tensor, wanted: int) -> None:
    if wanted > len(triplets):
        problem = f"asks for {wanted} singular triplets of the gradient of {site.name}"
        raise BadInput("rank", problem, f"there are {len(triplets)}")


def compensated(A: Tensor, B: Tensor) -> Leaves:
    """A pair that does not start at zero, with the copies that take its start off."""
    return {"A": A, "B": B, "A0": A.clone(), "B0": B.clone()}


def _from_A(site: Site, A: Tensor) -> Leaves:
    return {"A": A, "B": torch.zeros(site.O, A.shape[0])}


INITS: dict[str, Callable[[Site, Plain, torch.Generator], Leaves]] = {
    "kaiming": kaiming,
    "gaussian": gaussian,
    "orthogonal": orthogonal,
    "nonzero": nonzero,
    "pissa": pissa,
    "milora": milora,
    "olora": olora,
    "lora_ga": lora_ga,
    "lora_one": lora_one,
    "eva": eva,
}
COMPENSATED = frozenset({"nonzero", "pissa", "milora", "olora", "lora_ga"})
NEEDS = {  # what a start reads of the frozen model, see statistics.py
    "lora_ga": frozenset({"gradient"}),
    "lora_one": frozenset({"gradient"}),
    "eva": frozenset({"inputs", "places"}),
}


def pair(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """The start that the trial's `init` knob names."""
    return INITS[str(h["init"])](site, h, generator)


def has_start(h: Plain) -> bool:
    """Whether the pair carries A0, B0: trials with and without them do not share a pack."""
    return h["init"] in COMPENSATED


def starts_off(h: Plain) -> float:
    """How far from W a layer starts: LoRA-One keeps its step, of largest singular value s / gamma."""
    return float(h["scale"]) / float(h.get("gamma", GAMMA_ONE)) if h.get("init") == "lora_one" else 0.0


def needs(h: Plain) -> frozenset[str]:
    """The statistics that the trial's start reads."""
    return NEEDS.get(str(h.get("init")), frozenset())
