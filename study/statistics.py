"""What data-driven starts know of the frozen model: one pre-pass per (task, seed), kept as the top singular triplets.

`gradient`: of the mean loss over the batches, with respect to each target weight, under that seed's head.
`inputs`: the second moment of what each target layer reads, padding left out, over its trace; S is the share of the
variance that each eigenvector in Vh explains.
`places`: where the components of `inputs` stand among those of all target layers. U: C M; at [c - 1, i] is the place of
component i among the first c of every layer, over the number of layers. S and Vh are empty.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from study.files import put
from study.frozen import Frozen, Layer, Layout
from study.pack import Batch, Pack, PerExample
from study.part import Member
from study.trial import digest
from study.variants import head_only
from study.variants.base import Site, Spectrum
from study.variants.inits import TRIPLETS

BATCHES = 8  # of a seed's own first ones, as LoRA-GA and LoRA-One take
DENSE = 1 << 30  # bytes of statistics not yet decomposed; layers beyond them wait for a pre-pass of their own

Measured = Mapping[str, Mapping[str, Spectrum]]  # by site, then by statistic


class Measure(NamedTuple):
    """How a statistic comes about."""

    batch: Callable[[Pack, Sequence[Site], Batch], Mapping[str, Tensor]]  # what one batch adds, by site
    whole: Callable[[Tensor, int], Tensor]  # (the sum over all batches, how many they are) -> the statistic


class Kept:
    """Statistics in memory and in a folder that workers share, by the document that determines them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Measured] = {}

    def get(self, document: Mapping[str, Any], measured: Callable[[], Measured]) -> Measured:
        """What the document stands for; measured where no worker has done so."""
        name = digest(document)
        if name not in self._known:
            path = self.folder / f"{name}.safetensors"
            if not path.exists():
                _write(measured(), path)
            self._known[name] = _read(path)  # what others will read, to the last digit
        return self._known[name]


def _write(measured: Measured, path: Path) -> None:
    """Whole or not at all: the file appears under its name when it is complete."""
    spectra = [(f"{site}/{name}", spectrum) for site, of in measured.items() for name, spectrum in of.items()]
    leaves = {f"{key}/{part}": leaf for key, s in spectra for part, leaf in s._asdict().items()}
    put(path, lambda unfinished: save_file(leaves, unfinished))


def _read(path: Path) -> Measured:
    leaves = load_file(path)
    measured: dict[str, dict[str, Spectrum]] = {}
    for site, name in {tuple(key.split("/")[:2]) for key in leaves}:
        measured.setdefault(site, {})[name] = Spectrum(*(leaves[f"{site}/{name}/{part}"] for part in Spectrum._fields))
    return measured


def measure(
    frozen: Frozen, needs: Collection[str], seed: int, batches: Sequence[Batch], loss: PerExample, dense: int = DENSE
) -> Measured:
    """The statistics named in `needs`, by site, over the given batches of one trial.

    `dense`: bytes that the statistics of the layers of one pre-pass may take before they are decomposed.
    """
    untrained = Member(seed, {knob.name: knob.default for knob in head_only.HEAD.knobs})
    head = Pack(frozen, head_only.VARIANT, [untrained], 1, loss)
    found: dict[str, dict[str, Spectrum]] = {site.name: {} for site in frozen.sites}
    for name in sorted({"inputs" if need == "places" else need for need in needs}):
        for sites in _pieces(frozen.sites, dense):
            total = _summed(MEASURES[name], head, sites, batches)
            for site in sites:
                found[site.name][name] = _top(MEASURES[name].whole(total.pop(site.name), len(batches)))
    if "places" in needs:
        places = _places([of["inputs"].S for of in found.values()])
        for of, U in zip(found.values(), places, strict=True):
            of["places"] = Spectrum(U, U.new_empty(0), U.new_empty(0, 0))
    return found


def _pieces(sites: Sequence[Site], dense: int) -> Iterator[list[Site]]:
    """The sites in pieces whose statistics are at most so many bytes, or one site."""
    piece: list[Site] = []
    for site in sites:
        if piece and sum(max(s.O, s.I) * s.I * _precision(s).itemsize for s in (*piece, site)) > dense:
            yield piece
            piece = []
        piece.append(site)
    yield piece


def _precision(site: Site) -> torch.dtype:
    return torch.promote_types(site.W.dtype, torch.float32)


def _summed(measure: Measure, head: Pack, sites: Sequence[Site], batches: Sequence[Batch]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for batch in batches:
        for name, value in measure.batch(head, sites, batch).items():
            total[name] = total[name].add_(value) if name in total else value
    return total


@torch.enable_grad()
def _gradient(head: Pack, sites: Sequence[Site], batch: Batch) -> Mapping[str, Tensor]:
    """O I each."""
    frozen, (inputs, targets) = head.frozen, batch
    weights = [site.W.detach().requires_grad_() for site in sites]  # the frozen numbers, no copy

    def layers(layout: Layout) -> Mapping[str, Layer]:
        trained = {site.name: _with(site, W) for site, W in zip(sites, weights, strict=True)}
        return head.layers(layout) | trained

    losses = head.losses(frozen.run(inputs, layers, [len(targets)]), targets)
    gradients = torch.autograd.grad(losses.sum(), weights)
    return {site.name: gradient.to(_precision(site)) for site, gradient in zip(sites, gradients, strict=True)}


def _with(site: Site, W: Tensor) -> Layer:
    return lambda x: F.linear(x, W, site.bias)


@torch.no_grad()
def _inputs(head: Pack, sites: Sequence[Site], batch: Batch) -> Mapping[str, Tensor]:
    """I I each."""
    seen: dict[str, Tensor] = {}

    def reading(site: Site, layout: Layout) -> Layer:
        def layer(x: Tensor) -> Tensor:
            rows = layout.split(x, site.name)  # 1 N I
            real = (rows * layout.valid(x, rows)[..., None])[0].to(_precision(site))
            seen[site.name] = real.T @ real
            return site.layer(x)

        return layer

    def layers(layout: Layout) -> Mapping[str, Layer]:
        return head.layers(layout) | {site.name: reading(site, layout) for site in sites}

    head.frozen.run(batch[0], layers, [len(batch[1])], every_token=True)
    return seen


MEASURES: Mapping[str, Measure] = {
    "gradient": Measure(_gradient, lambda total, batches: total / batches),
    "inputs": Measure(_inputs, lambda total, batches: total / total.trace()),
}


def _top(statistic: Tensor) -> Spectrum:
    """The largest triplets, each with the sign that makes the largest entry of its left vector positive."""
    U, S, Vh = torch.linalg.svd(statistic.double(), full_matrices=False)
    U, S, Vh = U[:, :TRIPLETS], S[:TRIPLETS], Vh[:TRIPLETS]
    sign = U.gather(0, U.abs().argmax(0, keepdim=True)).sign()  # 1 M
    return Spectrum(*(part.to("cpu", statistic.dtype).contiguous() for part in (U * sign, S, Vh * sign.T)))


def _places(shares: Sequence[Tensor]) -> list[Tensor]:
    """C M for each layer's M shares; of equal ones the earlier layer's comes first."""
    most = max(len(share) for share in shares)
    places = [share.new_full((most, len(share)), torch.inf) for share in shares]
    for c in range(1, most + 1):
        first = [share[:c] for share in shares]
        place = torch.cat(first).argsort(descending=True, stable=True).argsort()
        for layer, own in zip(places, place.split([len(share) for share in first]), strict=True):
            layer[c - 1, : len(own)] = own / len(shares)
    return places
