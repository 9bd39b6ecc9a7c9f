"""VeRA: two trained vectors around one frozen random pair that every layer uses (Kopiczko et al. 2023).

arXiv:2310.11454, equation 2. The pair is He-uniform and as large as the largest layer; each layer reads its corner, and
all trials read one draw.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from study.optim import ADAMW_KNOBS
from study.space import Levels, LogFloat
from study.streams import generator as stream
from study.variants.base import Axis, Leaves, Lifted, Plain, Site, Variant

KNOBS = (
    *ADAMW_KNOBS,
    Levels("rank", (16, 64, 256, 1024), default=256),  # a rank costs one number a layer
    LogFloat("d_initial", 1e-3, 1.0, default=0.1),
)


def init(site: Site, h: Plain, generator: torch.Generator) -> Leaves:
    """d: R, constant; b: O, zero (section 3.3)."""
    return {"d": torch.full((int(h["rank"]),), float(h["d_initial"])), "b": torch.zeros(site.O)}


def shared(sites: Sequence[Site], h: Plain, generator: torch.Generator) -> Leaves:
    """A: R I, B: O R, uniform in +-sqrt(6 / inputs); the trial's own stream is left alone, since trials share them."""
    rank, fixed = int(h["rank"]), stream(0, "vera")
    inputs, outputs = max(site.I for site in sites), max(site.O for site in sites)
    return {
        "A": torch.empty(rank, inputs).uniform_(-1, 1, generator=fixed) * (6 / inputs) ** 0.5,
        "B": torch.empty(outputs, rank).uniform_(-1, 1, generator=fixed) * (6 / rank) ** 0.5,
    }


def forward(x: Tensor, y: Tensor, site: Site, p: Leaves, h: Lifted) -> Tensor:
    """W x + bias + b * B (d * A x)."""
    A, B, d, b = (p[name].to(x.dtype) for name in ("A", "B", "d", "b"))
    return y + b * ((d * (x @ A[:, : site.I].T)) @ B[: site.O].T)


VARIANT = Variant(
    name="vera",
    axis=Axis.RANK,
    category="sharing",
    paper="2310.11454",
    knobs=KNOBS,
    trainable="r + O",
    init=init,
    forward=forward,
    scaling=lambda h: 1.0,
    shared=shared,
    common=frozenset({"A", "B"}),
    pack_key=lambda h: h["rank"],
)
