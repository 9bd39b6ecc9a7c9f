"""A kept trial as a whole model: every layer merged, a folder that the transformers library reads."""

from pathlib import Path

import torch

from study.adapters import Adapter
from study.frozen import Frozen
from study.interchange.layers import merged_layer
from study.tasks.saving import save_classifier


@torch.no_grad()
def write(one: Adapter, frozen: Frozen, folder: Path) -> None:
    """The merged model, head included, in `folder`; `frozen` becomes that model.

    Merged in float64 and saved in the precision of `frozen`: float32, since small updates would be lost in a coarser
    one. Raises BadInput where the method does not merge; then nothing is written.
    """
    for site in frozen.of(one.method.sites):
        W, bias = merged_layer(one, site, "--format merged")
        site.W.copy_(W)
        if site.bias is not None and bias is not None:
            site.bias.copy_(bias)
    weights = frozen.model.state_dict()
    for (owner, name), leaf in one.leaves.items():
        if owner in one.heads:
            weights[f"{owner}.{name}"].copy_(leaf)
    save_classifier(frozen.model, folder)
