"""K trials trained as one batch on one frozen model.

Every parameter, gradient, moment and hyperparameter has a leading trial axis, also for K = 1: there is no other path.
Storage is one matrix K P per kind and part, so dropping or refilling a trial is a row operation. Nothing reduces over
the trial axis: losses are a vector, clipping and finite checks are per row, and randomness comes from (seed, site,
purpose).
"""

import copy
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from study import optim
from study.errors import BadInput
from study.optim import Columns, Leaf, State
from study.space import Value
from study.variants.base import Leaves, Plain, Site, Variant
from study.variants.head_only import HEAD

Batch = tuple[dict[str, Tensor], Tensor]  # model inputs and targets, one row an example, trials outermost
PerExample = Callable[[Tensor, Tensor], Tensor]  # outputs, targets -> one loss an example


class NotPackable(Exception):
    """An adapted layer was called with a shape in which trials cannot be told apart; such a cell runs with K = 1."""


class Member(NamedTuple):
    """What makes a trial's numbers in a pack: its seed and every knob's value."""

    seed: int
    values: Plain


class StandIn(nn.Module):
    """Takes the place of one linear layer: the frozen layer, or what the pack in charge makes of it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.adapted: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) if self.adapted is None else self.adapted(x)


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
        self.stand_ins = {name: StandIn(linear[name]) for name in (*site_names, *head_names)}
        for name, stand_in in self.stand_ins.items():
            model.set_submodule(name, stand_in)
        self.sites = [Site(name, linear[name].weight, linear[name].bias) for name in site_names]
        self.heads = [Site(name, linear[name].weight, linear[name].bias) for name in head_names]
        self.dtype = next(model.parameters()).dtype

    @contextmanager
    def adapted(self, layers: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """The model with these layers in place, for one forward."""
        for name, layer in layers.items():
            self.stand_ins[name].adapted = layer
        try:
            yield
        finally:
            for name in layers:
                self.stand_ins[name].adapted = None


class Part:
    """The trials' leaves for one variant over some sites: a pack has one for the method and one for the heads."""

    def __init__(self, variant: Variant, sites: Sequence[Site], members: Sequence[Member], dtype: torch.dtype) -> None:
        self.variant, self.sites, self.dtype = variant, sites, dtype
        rows = [self._draw(member) for member in members]
        shapes = {leaf: _largest([row[leaf].shape for row in rows]) for leaf in rows[0]}
        frozen = variant.frozen
        self.trained = Columns({leaf: shape for leaf, shape in shapes.items() if leaf[1] not in frozen})
        self.carried = Columns({leaf: shape for leaf, shape in shapes.items() if leaf[1] in frozen})
        K = len(members)
        self.W = torch.zeros(K, self.trained.size, dtype=dtype)
        self.frozen = torch.zeros(K, self.carried.size, dtype=dtype)
        self.live = torch.zeros(K, self.trained.size, dtype=torch.bool)  # the entries a trial really owns
        self.h: dict[str, Tensor] = {}  # numeric knobs: K each
        self.shapes: list[dict[Leaf, tuple[int, ...]]] = [{} for _ in rows]
        self.state: State = {}
        for k, (member, row) in enumerate(zip(members, rows, strict=True)):
            self._write(k, member, row)
        self.state = vmap(lambda p, h: variant.optimizer(h).init(p))(self.W, self.h)
        self.W.requires_grad_()

    def draw(self, member: Member) -> dict[Leaf, Tensor]:
        """A new trial's leaves for this part. Raises ValueError where one is larger than the pack's."""
        row = self._draw(member)
        for leaf, room in (*self.trained.shapes.items(), *self.carried.shapes.items()):
            if any(have < want for have, want in zip(room, row[leaf].shape, strict=True)):
                raise ValueError(f"{leaf} of shape {tuple(row[leaf].shape)} does not fit the pack's {tuple(room)}")
        return row

    def refill(self, k: int, member: Member, row: dict[Leaf, Tensor]) -> None:
        """Row k becomes a new trial: fresh leaves, ownership, knobs and optimizer state."""
        with torch.no_grad():
            self._write(k, member, row)
            p, h = self.W[k], {name: value[k] for name, value in self.h.items()}
            for name, value in self.variant.optimizer(h).init(p).items():
                self.state[name][k] = value

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on."""
        self.W = self.W.detach()[rows].requires_grad_()
        self.frozen, self.live = self.frozen[rows], self.live[rows]
        self.h = {name: value[rows] for name, value in self.h.items()}
        self.state = {name: value[rows] for name, value in self.state.items()}
        self.shapes = [self.shapes[k] for k in rows.tolist()]

    def views(self) -> dict[str, Leaves]:
        """Each site's leaves, K first; one split of the store, so that backward is one concatenation."""
        by_site: dict[str, Leaves] = {site.name: {} for site in self.sites}
        for (owner, name), view in (self.trained.views(self.W) | self.carried.views(self.frozen)).items():
            by_site[owner][name] = view
        return by_site

    def leaves(self, k: int) -> dict[Leaf, Tensor]:
        """Trial k's own leaves, unpadded views of the store."""
        rows = self.trained.views(self.W.detach()[k]) | self.carried.views(self.frozen[k])
        return {leaf: _cut(view, self.shapes[k][leaf]) for leaf, view in rows.items()}

    def update(self, gradients: Tensor) -> None:
        """One optimizer step of every row."""

        def one(g: Tensor, state: State, p: Tensor, h: dict[str, Tensor]) -> tuple[Tensor, State]:
            return self.variant.optimizer(h).update(g, state, p, self.trained)

        u, self.state = vmap(one)(gradients, self.state, self.W.detach(), self.h)
        self.W.data += u

    def _draw(self, member: Member) -> dict[Leaf, Tensor]:
        """The trial's first leaves. The stream knows the seed and the site, so variants of one seed draw alike."""
        h = _with_scale(self.variant, member.values)
        drawn: dict[Leaf, Tensor] = {}
        for site in self.sites:
            leaves = self.variant.init(site, h, generator(member.seed, site.name, "init"))
            drawn |= {(site.name, name): leaf.to(self.dtype) for name, leaf in leaves.items()}
        return drawn

    def _write(self, k: int, member: Member, row: dict[Leaf, Tensor]) -> None:
        self.shapes[k] = {leaf: tuple(tensor.shape) for leaf, tensor in row.items()}
        for columns, store in ((self.trained, self.W.data), (self.carried, self.frozen)):
            store[k] = 0
            for leaf, view in columns.views(store[k]).items():
                _cut(view, row[leaf].shape).copy_(row[leaf])
        self.live[k] = False
        for leaf, view in self.trained.views(self.live[k]).items():
            _cut(view, row[leaf].shape).fill_(True)
        for name, value in _with_scale(self.variant, member.values).items():
            if not isinstance(value, str):
                self.h.setdefault(name, torch.zeros(len(self.W), dtype=self.dtype))[k] = float(value)


class Pack:
    """K trials of one cell in training."""

    def __init__(
        self, frozen: Frozen, variant: Variant, members: Sequence[Member], steps: int, loss: PerExample
    ) -> None:
        self.frozen, self.steps, self.loss = frozen, steps, loss
        self.members, self.t = list(members), [0] * len(members)  # one clock per row
        store = torch.promote_types(frozen.dtype, torch.float32)
        parts = [Part(variant, frozen.sites, members, store), Part(HEAD, frozen.heads, members, store)]
        self.parts = [part for part in parts if part.trained.size]

    @property
    def K(self) -> int:
        """Trials in the pack now."""
        return len(self.members)

    def outputs(self, inputs: dict[str, Tensor]) -> Tensor:
        """The model's answer for K B examples, trials outermost: K B C. Raises NotPackable."""
        rows = len(next(iter(inputs.values())))
        layers: dict[str, Callable[[Tensor], Tensor]] = {}
        for part in self.parts:
            views = part.views()
            layers |= {site.name: self._lift(part, site, views[site.name], rows) for site in part.sites}
        with self.frozen.adapted(layers):
            return self.frozen.model(**inputs).logits

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One training step of every trial: (K losses before the step, K bool: still finite after it).

        A row that is not finite is the caller's to drop; until then its neighbours do not notice it.
        """
        for part in self.parts:
            rates = [optim.scheduled(m.values, t, self.steps) for m, t in zip(self.members, self.t, strict=True)]
            part.h["learning_rate"] = torch.tensor(rates, dtype=part.dtype)
        inputs, targets = batch
        losses = self._losses(self.outputs(inputs), targets)
        gradients = torch.autograd.grad(losses.sum(), [part.W for part in self.parts])
        with torch.no_grad():
            owned = [torch.where(part.live, g, 0) for part, g in zip(self.parts, gradients, strict=True)]
            clipped, norms = optim.clip_by_norm(owned, self.parts[0].h["max_grad_norm"])
            for part, gradient in zip(self.parts, clipped, strict=True):
                part.update(gradient)
            finite = losses.isfinite() & norms.isfinite()
            for part in self.parts:
                finite &= part.W.isfinite().all(1)
        self.t = [t + 1 for t in self.t]
        return losses.detach(), finite

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch], predict: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Every trial on the same examples: (K mean losses, K N predictions, N targets)."""
        total, predictions, seen = torch.zeros(self.K, dtype=torch.float64), [], []
        for inputs, targets in batches:
            outputs = self.outputs({name: torch.cat([value] * self.K) for name, value in inputs.items()})
            losses = self.loss(_full(outputs), torch.cat([targets] * self.K))
            total += losses.reshape(self.K, -1).double().sum(1)
            predictions.append(predict(outputs).reshape(self.K, -1))
            seen.append(targets)
        targets = torch.cat(seen)
        return total / len(targets), torch.cat(predictions, 1), targets

    def rows(self, chosen: Sequence[int]) -> "Pack":
        """These trials as a pack of their own, which shares nothing that changes in place."""
        other = copy.copy(self)
        other.parts = [copy.copy(part) for part in self.parts]
        other.keep(chosen)
        return other

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every other row; the trials that stay change by exactly nothing."""
        self.members, self.t = [self.members[k] for k in rows], [self.t[k] for k in rows]
        for part in self.parts:
            part.keep(torch.tensor(rows, dtype=torch.long))

    def refill(self, k: int, member: Member) -> None:
        """Row k starts over as a new trial, with its clock at 0. Raises ValueError where it does not fit."""
        drawn = [part.draw(member) for part in self.parts]
        for part, row in zip(self.parts, drawn, strict=True):
            part.refill(k, member, row)
        self.members[k], self.t[k] = member, 0

    def trainable(self, k: int) -> int:
        """How many parameters trial k trains, head included."""
        return sum(int(part.live[k].sum()) for part in self.parts)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(_full(outputs), targets).reshape(self.K, -1).mean(1)

    def _lift(self, part: Part, site: Site, p: Leaves, rows: int) -> Callable[[Tensor], Tensor]:
        variant = part.variant
        lifted = vmap(lambda x, y, p, h: variant.forward(x, y, site, p, h))

        def layer(x: Tensor) -> Tensor:
            if self.K > 1 and (len(x) == 0 or len(x) % rows):
                raise NotPackable(f"{site.name}: input {tuple(x.shape)} for {rows} examples of {self.K} trials")
            xs = x.reshape(self.K, -1, site.I)
            ys = F.linear(x, site.W, site.bias).reshape(self.K, -1, site.O) if variant.reads_output else xs
            return lifted(xs, ys, p, part.h).to(x.dtype).reshape(*x.shape[:-1], site.O)

        return layer


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A stream of its own for every (trial seed, purpose...): nothing carried, nothing global."""
    text = "/".join(map(str, (seed, *purpose)))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]))


def order(seed: int, step: int, batch_size: int, examples: int) -> list[int]:
    """The examples of one trial's batch: a fresh shuffle every pass over the data, a function of (seed, step) alone."""
    chosen: list[int] = []
    while len(chosen) < batch_size:
        epoch, start = divmod(step * batch_size + len(chosen), examples)
        chosen += _shuffled(seed, epoch, examples)[start : start + batch_size - len(chosen)]
    return chosen


@lru_cache(maxsize=64)
def _shuffled(seed: int, epoch: int, examples: int) -> list[int]:
    return torch.randperm(examples, generator=generator(seed, "order", epoch)).tolist()


def _with_scale(variant: Variant, values: Plain) -> dict[str, Value]:
    h = dict(values) | dict(variant.fixed)
    return h | {"scale": variant.scaling(h)}  # type: ignore[arg-type]


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


def _largest(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(max(sizes) for sizes in zip(*shapes, strict=True))


def _cut(view: Tensor, shape: Sequence[int]) -> Tensor:
    """The corner of a padded leaf that a trial owns."""
    return view[tuple(slice(size) for size in shape)]


def _full(outputs: Tensor) -> Tensor:
    """Logits in at least fp32: the loss is not computed in bf16."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
