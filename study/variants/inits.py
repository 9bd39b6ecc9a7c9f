"""Where A and B start: the levels of the `init` knob.

Each draws one site's pair: A: R I, B: O R. A start that is not zero is taken off again: it comes with frozen copies
A0, B0, and `low_rank` computes the difference from them, so every trial begins at the base model.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from study.variants.base import Leaves, Plain, Site


def kaiming(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """A uniform in +-1/sqrt(I) (He et al. 2015, arXiv:1502.01852, a = sqrt 5), B = 0: the reference code's LoRA."""
    bound = site.I**-0.5
    return _from_A(site, torch.empty(int(h["rank"]), site.I).uniform_(-bound, bound, generator=generator))


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
    A = torch.empty(rank, site.I).uniform_(-bound, bound, generator=generator)
    return compensated(A, torch.empty(site.O, rank).uniform_(-bound, bound, generator=generator))


def pissa(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """The r largest singular triplets of W, divided by s (Meng et al. 2024, arXiv:2404.02948, equations 2-4)."""
    U, S, Vh = site.svd
    rank = int(h["rank"])
    root = (S[:rank] / float(h["scale"])).sqrt()
    return compensated(root[:, None] * Vh[:rank], U[:, :rank] * root)


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
}
COMPENSATED = frozenset({"nonzero", "pissa"})


def pair(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """The start that the trial's `init` knob names."""
    return INITS[str(h["init"])](site, h, generator)


def has_start(h: Plain) -> bool:
    """Whether the pair carries A0, B0: trials with and without them do not share a pack."""
    return h["init"] in COMPENSATED
