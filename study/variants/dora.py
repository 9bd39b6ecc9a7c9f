"""DoRA: a trained length and a LoRA-trained direction for every row of W (Liu et al. 2024, arXiv:2402.09353)."""

import torch
from torch import Tensor

from study.variants import lora
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, low_rank


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """LoRA's pair, and the rows' lengths m: O."""
    return lora.VARIANT.init(site, h, generator) | {"m": site.row_norms.clone()}


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """m / |W + s B A| (W + s B A) x + bias (equation 5); the norm is a constant to the gradient (section 4.3)."""
    straight = (y if site.bias is None else y - site.bias) + low_rank(x, p, h["scale"])
    y = (p["m"] / lengths(site, p, h).detach()).to(x.dtype) * straight
    return y if site.bias is None else y + site.bias


def lengths(site: Site, p: Leaves, h: Lifted) -> Tensor:
    """|W + s B A| by rows: O, without forming the matrix: |w|^2 + 2 s (W A' . B) + s^2 B (A A') B'."""
    A, B = p["A"], h["scale"] * p["B"]
    if "A0" in p:
        A, B = torch.cat([A, p["A0"]]), torch.cat([B, -h["scale"] * p["B0"]], 1)
    cross = ((site.W.to(A.dtype) @ A.T) * B).sum(1)
    return (site.row_norms**2 + 2 * cross + ((B @ (A @ A.T)) * B).sum(1)).clamp_min(0).sqrt()


VARIANT = lora.VARIANT._replace(
    name="dora",
    axis=Axis.OPTIMIZATION,
    category="weight decomposition",
    paper="2402.09353",
    trainable="r * (I + O) + O",
    init=init,
    forward=forward,
)
