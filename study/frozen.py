"""A frozen Hugging Face model that K trials share: a stand-in at every layer a method may adapt.

The model stays an ordinary model in eval mode that sees all trials' examples as one batch, trials outermost.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from study.errors import BadInput
from study.stack import Entered, Pass, Prefixes, find, keys
from study.tokens import Read, Tokens, copies, places
from study.variants.base import Site, Sites

Layer = Callable[[Tensor], Tensor]

PREFIX_BYTES = 512 << 20  # of remembered inputs of the first block in which trials differ, a worker


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


class Allowed(NamedTuple):
    """What a model's stack of blocks can do and still give the same answer."""

    share: bool = False  # run what all trials have in common once
    unpad: bool = False  # leave padding out
    read: Read | None = None  # and, after the last attention, all tokens but one


WAYS = [Allowed(share, True, read) for share in (True, False) for read in ("first", "last", None)] + [Allowed(True)]


class Layout:
    """How the tensors of one forward lie: K trials one after another, each with its own examples."""

    def __init__(self, sizes: Sequence[int], dtype: torch.dtype, mask: Tensor | None, tokens: Tokens | None) -> None:
        """`sizes`: examples of each trial. `mask`: 0 at padding. `tokens`: where padding is left out."""
        self.sizes, self.K, self.examples = sizes, len(sizes), sum(sizes)
        self.dtype, self._mask, self._tokens = dtype, mask, tokens  # dtype: what the model computes in

    def spread(self, x: Tensor) -> Tensor:
        """Ids that are one row for every example, as positions are, in a row of their own for each."""
        return x if x.is_floating_point() or len(x) > 1 else x.expand(self.examples, *x.shape[1:])

    def split(self, x: Tensor, name: str) -> Tensor:
        """The rows of each trial: (examples) ... I -> K N I, ids (examples) ... -> K N; the shorter repeat their last.

        Raises NotPackable where trials cannot be told apart.
        """
        rows = x.reshape(-1, x.shape[-1]) if x.is_floating_point() else x.reshape(-1)
        index = self._index(x, name)
        return rows.reshape(self.K, -1, *rows.shape[1:]) if index is None else rows[index]

    def join(self, z: Tensor, x: Tensor) -> Tensor:
        """The inverse of `split` for what came of x: K N O -> (examples) ... O, in the model's precision."""
        floats = x.is_floating_point()
        rows, shape = z.to(x.dtype if floats else self.dtype), x.shape[:-1] if floats else x.shape
        counts = None if self.K == 1 else self._counts(x)
        if counts is not None and len(set(counts)) > 1:
            rows = torch.cat([trial[:count] for trial, count in zip(rows, counts, strict=True)])
        return rows.reshape(*(shape if floats else (-1, *shape[1:])), z.shape[-1])

    def valid(self, x: Tensor, xs: Tensor) -> Tensor:
        """Which of the rows K N ... that came of x are real tokens: K N, 1 or 0."""
        counts = xs.new_tensor([xs.shape[1]] * self.K if self.K == 1 else self._counts(x))
        valid = (torch.arange(xs.shape[1], device=xs.device) < counts[:, None]).to(xs.dtype)
        padded = self._mask is not None and not self._flat(x) and x.shape[:2] == self._mask.shape
        return valid * self.split(self._mask[..., None].to(xs.dtype), "")[..., 0] if padded else valid  # type: ignore[index]

    def _flat(self, x: Tensor) -> bool:
        """Whether x is 1 N ...: the real tokens alone, or those alone that are read."""
        return (
            self._tokens is not None
            and x.dim() == 3
            and len(x) == 1
            and x.shape[1] in (len(self._tokens.index), self.examples)
        )

    def _counts(self, x: Tensor) -> list[int]:
        """Rows of each trial in x."""
        if self._tokens is not None and self._flat(x):
            if x.shape[1] == self.examples:
                return list(self.sizes)
            return [sum(part) for part in _pieces(self._tokens.counts, self.sizes)]
        an_example = x.numel() // (x.shape[-1] if x.is_floating_point() else 1) // self.examples
        return [size * an_example for size in self.sizes]

    def _index(self, x: Tensor, name: str) -> Tensor | None:
        if self.K == 1:
            return None
        if not self._flat(x) and (len(x) == 0 or len(x) % self.examples):
            raise NotPackable(f"{name}: input {tuple(x.shape)} for {self.examples} examples of {self.K} trials")
        index = places(self._counts(x))
        return None if index is None else index.to(x.device)


class Frozen:
    """A frozen Hugging Face model with a stand-in at every site; a worker keeps one for all its packs."""

    def __init__(
        self,
        model: nn.Module,
        targets: str | None,
        heads: Iterable[str],
        *,
        unpad: bool = True,
        skip_unread: bool = True,
        cache_prefix: bool = True,
    ) -> None:
        """`targets`: a regular expression on layer names (their ends suffice; query, key and value find q_proj, k_proj
        and v_proj too); None: all linear layers of the blocks.

        `unpad`: compute nothing on padding inside the blocks, where the model allows it; `skip_unread`: nor, after the
        last attention, on tokens whose final state the head does not read. `cache_prefix`: keep what enters the first
        block in which trials differ. Raises BadInput where no layer matches, or where a layer's weight
        is also another layer's.
        """
        self.model, self.unpad, self.skip_unread = model, unpad, skip_unread
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
        self._stack = find(model, site_names)
        self._prefixes = Prefixes(PREFIX_BYTES if cache_prefix else 0)
        self._allowed: dict[tuple[frozenset[str], bool], Allowed] = {}

    def of(self, which: Sites) -> list[Site]:
        """What a method adapts: targets, norms, or all linear, norm and embedding layers but the heads."""
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

    def run(
        self,
        inputs: Mapping[str, Tensor],
        layers: Callable[[Layout], Mapping[str, Layer]],
        sizes: Sequence[int],
        *,
        shared: bool = False,
        every_token: bool = False,
    ) -> Tensor:
        """The model's answer, a row an example, trials outermost: (examples) C. Raises NotPackable.

        `sizes`: examples of each trial. `shared`: the inputs are one trial's examples, and every trial sees them.
        `every_token`: the layers are to see the tokens too whose final state the head does not read.
        """
        can = self.allows(inputs)
        if shared and not can.share:
            inputs, shared = _times(inputs, len(sizes)), False
        mask, read = inputs.get("attention_mask"), None if every_token or not self.skip_unread else can.read
        tokens = Tokens(mask, read) if can.unpad and self.unpad and mask is not None else None
        K = len(sizes) if shared else 1
        layout = Layout(
            sizes, self.dtype, None if mask is None else copies(mask, K), tokens.times(K) if tokens else None
        )
        adapted = layers(layout)
        first = self._first(adapted)
        if shared and first is None:
            return self.run(_times(inputs, K), layers, sizes, every_token=every_token)
        with self._adapted(adapted):
            return self._answer(inputs, Pass(K, first or 0, tokens))

    def allows(self, inputs: Mapping[str, Tensor]) -> Allowed:
        """What this model's stack of blocks can do with such inputs and still give the same answer; found by trying."""
        mask = inputs.get("attention_mask")
        kind = frozenset(inputs), mask is not None and bool((mask == 0).any())  # only padding shows what becomes of it
        if self._stack is not None and kind not in self._allowed:
            rows = slice(4) if mask is None else mask.sum(1).argsort()[:4]
            self._allowed[kind] = self._tried({name: value[rows] for name, value in inputs.items()})
        return self._allowed.get(kind, Allowed())

    @torch.no_grad()
    def _tried(self, few: dict[str, Tensor]) -> Allowed:
        expected = self.model(**_times(few, 2)).logits
        ways = [way for way in WAYS if "attention_mask" in few or not way.unpad]
        return next((way for way in ways if self._holds(way, few, expected)), Allowed())

    def _holds(self, way: Allowed, few: dict[str, Tensor], expected: Tensor) -> bool:
        given = few if way.share else _times(few, 2)
        tokens = Tokens(given["attention_mask"], way.read) if way.unpad else None
        try:
            answer = self._answer(given, Pass(2 if way.share else 1, 0, tokens))
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError):
            return False
        return answer.shape == expected.shape and _close(answer, expected)

    def _answer(self, inputs: Mapping[str, Tensor], now: Pass) -> Tensor:
        if self._stack is None:
            return self.model(**inputs).logits
        if now.first > 0 and self._prefixes.most:
            now = replace(now, entering=self._entering(inputs, now))
        with self._stack.passing(now):
            return self.model(**inputs).logits

    @torch.no_grad()
    def _entering(self, inputs: Mapping[str, Tensor], now: Pass) -> Tensor:
        """What enters the first block in which trials differ, remembered or computed: 1 N H, or B T H with padding."""
        assert self._stack is not None
        known = self._prefixes.get(now.first, names := keys(inputs))
        missing = [b for b, hidden in enumerate(known) if hidden is None]
        if missing:
            rows = {name: value[missing] for name, value in inputs.items()}
            for b, hidden in zip(missing, self._computed(rows, now.first), strict=True):
                known[b] = hidden
                self._prefixes.put(now.first, names[b], hidden)
        real = torch.cat([hidden for hidden in known if hidden is not None])[None]
        mask = inputs.get("attention_mask")
        if now.tokens is not None:
            return real
        return real[0].unflatten(0, (len(known), -1)) if mask is None else Tokens(mask).pad(real)

    def _computed(self, inputs: Mapping[str, Tensor], first: int) -> list[Tensor]:
        """T H for each example, padding left out."""
        assert self._stack is not None
        mask = inputs.get("attention_mask")
        try:
            with self._stack.passing(Pass(1, first, None, stop=True)):
                self.model(**inputs)
        except Entered as entered:
            hidden = entered.hidden
        return list(hidden) if mask is None else [row[real] for row, real in zip(hidden, mask != 0, strict=True)]

    def _first(self, names: Iterable[str]) -> int | None:
        """The first block in which trials differ: how many there are where none does, None where they do before it."""
        if self._stack is None:
            return None
        heads = {site.name for site in self.heads}
        blocks = [self._stack.block_of(name) for name in names if name not in heads]
        known = [block for block in blocks if block is not None]
        return min(known, default=len(self._stack.blocks)) if len(known) == len(blocks) else None

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


def _times(inputs: Mapping[str, Tensor], K: int) -> dict[str, Tensor]:
    """K copies of a batch, one after another."""
    return {name: copies(value, K) for name, value in inputs.items()}


def _close(answer: Tensor, expected: Tensor) -> bool:
    """Equal up to the rounding of their precision."""
    rounding = max(8 * torch.finfo(expected.dtype).eps, 1e-5)
    return bool((answer - expected).abs().max() <= rounding * expected.abs().max())


def _pieces(values: Sequence[int], sizes: Sequence[int]) -> Iterator[Sequence[int]]:
    start = 0
    for size in sizes:
        yield values[start : start + size]
        start += size


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
    pattern = blocks if targets is None else rf"(.*\.)?({targets})"
    found = [name for name in names if any(re.fullmatch(pattern, way) for way in (name, _long(name)))]
    if not found:
        kinds = sorted({".".join(p for p in name.split(".") if not p.isdigit()) for name in names})
        asked = "its absence" if targets is None else repr(targets)
        raise BadInput("targets", f"{asked} matches no linear layer", f"layers: {', '.join(kinds)}")
    return found


def _long(name: str) -> str:
    """With q_proj, k_proj or v_proj as query, key or value: vision models had these names before transformers 5."""
    layer, dot, last = name.rpartition(".")
    return layer + dot + {"q_proj": "query", "k_proj": "key", "v_proj": "value"}.get(last, last)


def _refuse_tied(model: nn.Module, names: Sequence[str]) -> None:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    tied = next((o for o in owners.values() if len(o) > 1 and any(f"{n}.weight" in o for n in names)), None)
    if tied:
        raise BadInput("targets", f"{' and '.join(tied)} are one weight", "target layers with a weight of their own")
