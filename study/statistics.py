"""What data-driven starts know of the frozen model: one pre-pass per (task, seed), kept as the top singular triplets.

`gradient`: of the mean loss over the batches, with respect to each target weight, under that seed's head.
`inputs`: the second moment of what each target layer reads, padding left out; its U and Vh are the eigenvectors.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from study.frozen import Frozen, Layer, Layout
from study.pack import Batch, Pack, PerExample
from study.part import Member
from study.variants import head_only
from study.variants.base import Site, Spectrum

TRIPLETS = 64  # twice the largest rank: LoRA-GA reads 2 r of them


def measure(
    frozen: Frozen, needs: Iterable[str], seed: int, batches: Iterable[Batch], loss: PerExample
) -> dict[str, dict[str, Spectrum]]:
    """The statistics named in `needs`, by site, over the given batches of one trial."""
    untrained = Member(seed, {knob.name: knob.default for knob in head_only.HEAD.knobs})
    head, names = Pack(frozen, head_only.VARIANT, [untrained], 1, loss), sorted(needs)
    total: dict[tuple[str, str], Tensor] = {}
    for batch in batches:
        for name in names:
            for site, value in MEASURES[name](head, batch).items():
                total[site, name] = total.get((site, name), torch.zeros(())) + value
    return {site.name: {name: _top(total[site.name, name]) for name in names} for site in frozen.sites}


def _gradient(head: Pack, batch: Batch) -> Mapping[str, Tensor]:
    """O I each."""
    frozen, (inputs, targets) = head.frozen, batch
    weights = {site.name: site.W.detach().clone().requires_grad_() for site in frozen.sites}

    def layers(layout: Layout) -> Mapping[str, Layer]:
        return head.layers(layout) | {site.name: _with(site, weights[site.name]) for site in frozen.sites}

    losses = head.losses(frozen.run(inputs, layers, [len(targets)]), targets)
    gradients = torch.autograd.grad(losses.sum(), list(weights.values()))
    return {name: gradient.double() for name, gradient in zip(weights, gradients, strict=True)}


def _with(site: Site, W: Tensor) -> Layer:
    return lambda x: F.linear(x, W, site.bias)


@torch.no_grad()
def _inputs(head: Pack, batch: Batch) -> Mapping[str, Tensor]:
    """I I each."""
    seen: dict[str, Tensor] = {}

    def reading(site: Site, layout: Layout) -> Layer:
        def layer(x: Tensor) -> Tensor:
            rows = layout.split(x, site.name)  # 1 N I
            real = (rows * layout.valid(x, rows)[..., None])[0].double()
            seen[site.name] = real.T @ real
            return site.layer(x)

        return layer

    def layers(layout: Layout) -> Mapping[str, Layer]:
        return head.layers(layout) | {site.name: reading(site, layout) for site in head.frozen.sites}

    head.frozen.run(batch[0], layers, [len(batch[1])], every_token=True)
    return seen


MEASURES: Mapping[str, Callable[[Pack, Batch], Mapping[str, Tensor]]] = {"gradient": _gradient, "inputs": _inputs}


def _top(statistic: Tensor) -> Spectrum:
    U, S, Vh = torch.linalg.svd(statistic, full_matrices=False)
    return Spectrum(U[:, :TRIPLETS].clone(), S[:TRIPLETS].clone(), Vh[:TRIPLETS].clone())
