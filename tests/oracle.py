"""HF peft as the oracle: its model and our pack in training on the same data, and ours merged to a plain model."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from study.pack import Pack
from study.variants.base import merged
from tests import small

STEPS, RATE = 20, 3e-3


def adamw(theirs: nn.Module, decay: float = 0.0) -> torch.optim.Optimizer:
    """Torch's rule over all that peft trains."""
    return torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=RATE, weight_decay=decay)


def together(
    pack: Pack, theirs: nn.Module, rule: torch.optim.Optimizer, before_the_step: Callable[[], None] = lambda: None
) -> Iterator[int]:
    """Both train on the same data; the number of steps done, after each. The losses must agree."""
    for t in range(STEPS):
        inputs, targets = small.batch(pack.members, t)
        rule.zero_grad()
        loss = nn.functional.cross_entropy(theirs(**inputs).logits, targets)
        loss.backward()
        before_the_step()
        rule.step()
        ours, _ = pack.step((inputs, targets))
        assert abs(loss.item() - ours.item()) < 1e-8
        yield t + 1


def trained(pack: Pack, theirs: nn.Module, rule: torch.optim.Optimizer) -> None:
    """All of the steps."""
    for _ in together(pack, theirs, rule):
        pass


def their_head(theirs: nn.Module) -> nn.Module:
    """Peft's copy of the classifier, the one that learns."""
    return theirs.base_model.model.classifier.modules_to_save["default"]


def merged_model(pack: Pack) -> nn.Module:
    """The trial as a plain model in float32."""
    model, (part, head) = small.model(torch.float32), pack.parts
    h = {name: value[0] for name, value in part.h.items()}
    for site in part.sites:
        W, bias = merged(part.variant, site, part.site_leaves(0)[site.name], h)
        model.get_submodule(site.name).load_state_dict({"weight": W, "bias": bias})
    model.classifier.load_state_dict(head.site_leaves(0)["classifier"])
    return model
