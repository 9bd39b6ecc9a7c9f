"""What methods made of several small factors share: equal blocks of a layer, and a factor's uniform start."""

import torch
from torch import Tensor

from study.errors import BadInput
from study.variants.base import Site


def sides(site: Site, count: int, knob: str) -> tuple[int, int]:
    """Outputs and inputs of one of `count` equal parts. Raises BadInput where the layer does not divide."""
    if site.O % count or site.I % count:
        raise BadInput(knob, f"{count} does not divide {site.name}, {site.O} x {site.I}", "a divisor of both sides")
    return site.O // count, site.I // count


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Uniform in +-1/sqrt(inputs), inputs last (He et al. 2015, arXiv:1502.01852, a = sqrt 5)."""
    return torch.empty(shape).uniform_(-1, 1, generator=generator) * shape[-1] ** -0.5
