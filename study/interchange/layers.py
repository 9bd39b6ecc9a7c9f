"""A kept trial's layers: what each one's forward sees, and the weight and bias that stand for it."""

from copy import deepcopy

import torch
from torch import Tensor

from study.adapters import Adapter
from study.errors import BadInput
from study.variants.base import Leaves, Refused, Site, merged


def leaves_at(one: Adapter, site: Site) -> Leaves:
    """What one layer's forward sees: its own leaves and those of its group."""
    owners = (site.name, f"shared by {one.method.group(site)}")
    return {name: leaf for (owner, name), leaf in one.leaves.items() if owner in owners}


@torch.no_grad()
def merged_layer(one: Adapter, site: Site, where: str) -> tuple[Tensor, Tensor | None]:
    """The layer's weight and bias, in float64. Raises BadInput, which begins with `where`, where none stand for it."""
    exact = Site(site.name, deepcopy(site.layer).double())
    p = {name: leaf.double() for name, leaf in leaves_at(one, site).items()}
    h = {name: torch.tensor(float(value), dtype=torch.float64)
         for name, value in one.plain().items() if not isinstance(value, str)}  # fmt: skip
    try:
        return merged(one.method, exact, p, h)
    except Refused as error:
        raise BadInput(where, str(error), "methods whose layers merge: `lorascope variants`") from None
