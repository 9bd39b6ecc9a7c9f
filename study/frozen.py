"""A frozen Hugging Face model that K trials share: a stand-in at every layer a method may adapt.

The model stays an ordinary model in eval mode that sees all trials' examples as one batch, trials outermost.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from study.errors import BadInput
from study.variants.base import Site, Sites

Layer = Callable[[Tensor], Tensor]


class NotPackable(Exception):
    """An adapted layer was called with a shape in which trials cannot be told apart; such a cell runs with K = 1."""


class StandIn(nn.Module):
    """Takes the place of one layer: the frozen layer, or what the pack in charge makes of it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, parameter in layer.named_parameters(recurse=False):  # under the names that model code reads
            self.register_parameter(name, parameter)
        if isinstance(layer, nn.Linear):
            self.in_features, self.out_features = layer.in_features, layer.out_features
        self.frozen: Layer = layer.forward
        self.adapted: Layer | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) if self.adapted is None else self.adapted(x)


class Layout:
    """How the tensors of one forward lie: K trials outermost, each with as many rows as the others."""

    def __init__(self, K: int, examples: int, dtype: torch.dtype, mask: Tensor | None) -> None:
        self.K, self.examples, self.dtype = (
            K,
            examples,
            dtype,
        )  # examples: of all trials
        self._mask = mask  # (K B) T: 0 where a token is padding

    def split(self, x: Tensor, name: str) -> Tensor:
        """The rows of each trial: (K B) ... I -> K N I, ids (K B) ... -> K N.

        Raises NotPackable where trials cannot be told apart.
        """
        ids = not x.is_floating_point()
        if ids and len(x) == 1:  # positions, the same for every example
            x = x.expand(self.examples, *x.shape[1:])
        if self.K > 1 and (len(x) == 0 or len(x) % self.examples):
            raise NotPackable(f"{name}: input {tuple(x.shape)} for {self.examples} examples of {self.K} trials")
        return x.reshape(self.K, -1) if ids else x.reshape(self.K, -1, x.shape[-1])

    def join(self, z: Tensor, x: Tensor) -> Tensor:
        """The inverse of `split` for what came of x: K N O -> (K B) ... O, in the model's precision."""
        if x.is_floating_point():
            return z.to(x.dtype).reshape(*x.shape[:-1], z.shape[-1])
        return z.to(self.dtype).reshape(-1, *x.shape[1:], z.shape[-1])

    def valid(self, xs: Tensor) -> Tensor:
        """Which of the rows K N ... are no padding: K N, 1 or 0."""
        if self._mask is None or self._mask.numel() != xs.shape[0] * xs.shape[1]:
            return xs.new_ones(xs.shape[:2])
        return self._mask.reshape(xs.shape[:2]).to(xs.dtype)


class Frozen:
    """A frozen Hugging Face model with a stand-in at every site; a worker keeps one for all its packs."""

    def __init__(self, model: nn.Module, targets: str | None, heads: Iterable[str]) -> None:
        """`targets`: a regular expression on layer names (their ends suffice); None: all linear layers of the blocks.

        Raises BadInput where no layer matches, or where a layer's weight is also another layer's.
        """
        self.model = model
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        head_names = _linear_heads(heads, linear)
        site_names = _matching(targets, [name for name in linear if name not in head_names])
        _refuse_tied(model, site_names)
        self.stand_ins: dict[str, StandIn] = {}
        self._sites: dict[str, Site] = {}
        self.sites = [self._site(name) for name in site_names]
        self.heads = [self._site(name) for name in head_names]
        self.dtype = next(model.parameters()).dtype
        self.device = next(model.parameters()).device

    def of(self, which: Sites) -> list[Site]:
        """The layers a method adapts: the targets, the norms of the body, or all of its linear, norm and embedding
        layers."""
        if which == "targets":
            return self.sites
        heads = {site.name for site in self.heads}
        layers = {name: m for name, m in self.model.named_modules() if _owns_weight(m) and name not in heads}
        chosen = [name for name, m in layers.items() if which == "all" or _is_norm(m)]
        _refuse_tied(self.model, chosen)
        return [self._site(name) for name in chosen]

    def _site(self, name: str) -> Site:
        if name not in self._sites:
            layer = self.model.get_submodule(name)
            self._sites[name], self.stand_ins[name] = Site(name, layer), StandIn(layer)
            self.model.set_submodule(name, self.stand_ins[name])
        return self._sites[name]

    def run(self, inputs: Mapping[str, Tensor], layers: Callable[[Layout], Mapping[str, Layer]], K: int) -> Tensor:
        """The model's answer for K B examples, trials outermost: (K B) C. Raises NotPackable."""
        layout = Layout(K, len(next(iter(inputs.values()))), self.dtype, inputs.get("attention_mask"))
        with self._adapted(layers(layout)):
            return self.model(**inputs).logits

    @contextmanager
    def _adapted(self, layers: Mapping[str, Layer]) -> Iterator[None]:
        """The model with these layers in place, for one forward."""
        for name, layer in layers.items():
            self.stand_ins[name].adapted = layer
        try:
            yield
        finally:
            for name in layers:
                self.stand_ins[name].adapted = None


def _owns_weight(layer: nn.Module) -> bool:
    """Whether a layer is a leaf of the model with a weight of one or two axes: linear, norm or embedding."""
    weight = dict(layer.named_parameters(recurse=False)).get("weight")
    return weight is not None and weight.dim() <= 2 and not list(layer.children())


def _is_norm(layer: nn.Module) -> bool:
    return all(parameter.dim() == 1 for parameter in layer.parameters())


def _linear_heads(heads: Iterable[str], linear: Mapping[str, nn.Linear]) -> list[str]:
    names = sorted(heads)
    for name in names:
        if name not in linear:
            raise BadInput("model", f"the checkpoint lacks {name}, which is not a linear layer", "a complete backbone")
    return names


def _matching(targets: str | None, names: Sequence[str]) -> list[str]:
    blocks = r".*\.\d+\..*"  # layers of a numbered list of blocks
    found = [name for name in names if re.fullmatch(rf"(.*\.)?({targets})" if targets is not None else blocks, name)]
    if not found:
        kinds = sorted({".".join(p for p in name.split(".") if not p.isdigit()) for name in names})
        asked = "its absence" if targets is None else repr(targets)
        raise BadInput("targets", f"{asked} matches no linear layer", f"layers: {', '.join(kinds)}")
    return found


def _refuse_tied(model: nn.Module, names: Sequence[str]) -> None:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    tied = next((o for o in owners.values() if len(o) > 1 and any(f"{n}.weight" in o for n in names)), None)
    if tied:
        raise BadInput("targets", f"{' and '.join(tied)} are one weight", "target layers with a weight of their own")
