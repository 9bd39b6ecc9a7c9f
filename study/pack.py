"""K trials trained as one batch on one frozen model.

Every parameter, gradient, moment and hyperparameter has a leading trial axis, also for K = 1: there is no other path.
Nothing reduces over the trial axis: losses are a vector, clipping and finite checks are per row, and randomness comes
from (seed, site, purpose).
"""

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from study import optim
from study.frozen import Frozen, Layer, Layout
from study.part import Member, Part, Statistics
from study.variants.base import Leaves, Site, Variant
from study.variants.head_only import HEAD

Batch = tuple[dict[str, Tensor], Tensor]  # model inputs and targets, one row an example, trials outermost
PerExample = Callable[[Tensor, Tensor], Tensor]  # outputs, targets -> one loss an example


class Pack:
    """K trials of one cell in training."""

    def __init__(
        self,
        frozen: Frozen,
        variant: Variant,
        members: Sequence[Member],
        steps: int,
        loss: PerExample,
        statistics: Statistics | None = None,
    ) -> None:
        """`statistics`: what the variant `needs` to know of the frozen model, by seed and site."""
        self.frozen, self.steps, self.loss = frozen, steps, loss
        self.members, self.t = list(members), [0] * len(members)  # one clock per row
        store = torch.empty(0, dtype=torch.promote_types(frozen.dtype, torch.float32), device=frozen.device)
        chosen = ((variant, frozen.of(variant.sites)), (HEAD, frozen.heads))
        parts = [Part(method, sites, members, store, steps, statistics or {}) for method, sites in chosen]
        self.parts = [part for part in parts if part.trained.size]

    @property
    def K(self) -> int:
        """Trials in the pack now."""
        return len(self.members)

    def outputs(
        self,
        inputs: dict[str, Tensor],
        penalties: list[Tensor] | None = None,
        *,
        shared: bool = False,
        sizes: Sequence[int] | None = None,
    ) -> Tensor:
        """The model's answer, trials outermost, a row an example: (K B) C. Raises NotPackable.

        In training the methods' penalties, K each, are put on the list. `shared`: the inputs are B examples that every
        trial sees. `sizes`: examples of each trial where they are not all B.
        """
        rows = len(next(iter(inputs.values())))
        each = sizes or [rows if shared else rows // self.K] * self.K
        return self.frozen.run(
            inputs,
            lambda layout: self.layers(layout, penalties),
            each,
            shared=shared,
            every_token=any(part.variant.penalty for part in self.parts),  # which counts tokens
        )

    def layers(self, layout: Layout, penalties: list[Tensor] | None = None) -> dict[str, Layer]:
        """What takes the place of the frozen layers in one forward, by name."""
        lifted: dict[str, Layer] = {}
        for part in self.parts:
            views, constants = part.views(), part.constants
            for site in part.sites:
                lifted[site.name] = _lift(part, site, views[site.name], constants[site.name], layout, penalties)
        return lifted

    def step(self, batch: Batch, *, shared: bool = False, sizes: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """One training step of every trial: (K losses before the step, K bool: still finite after it).

        The batch is every trial's own examples, trials outermost: B of each, or as `sizes` says. `shared`: it is B
        examples that every trial sees. A row that is not finite is the caller's to drop; its neighbours do not notice.
        """
        for part in self.parts:
            rates = [optim.scheduled(m.values, t, self.steps) for m, t in zip(self.members, self.t, strict=True)]
            part.h["learning_rate"] = part.empty.new_tensor(rates)
        inputs, targets = batch
        penalties: list[Tensor] = []
        outputs = self.outputs(inputs, penalties, shared=shared, sizes=sizes)
        losses = self.losses(outputs, targets.repeat(self.K) if shared else targets, sizes)
        total = torch.stack([losses, *(penalty.to(losses.dtype) for penalty in penalties)]).sum()
        gradients = torch.autograd.grad(total, [part.W for part in self.parts])
        with torch.no_grad():
            finite = losses.isfinite() & self._update(gradients)
        return losses.detach(), finite

    def _update(self, gradients: Sequence[Tensor]) -> Tensor:
        """Clip, step and let events act, row by row: K bool, whether the row is still finite."""
        owned = [torch.where(part.live, g, 0) for part, g in zip(self.parts, gradients, strict=True)]
        clipped, norms = optim.clip_by_norm(owned, self.parts[0].h["max_grad_norm"])
        for part, gradient in zip(self.parts, clipped, strict=True):
            part.update(gradient)
        finite = norms.isfinite()
        for part in self.parts:
            finite &= part.W.isfinite().all(1)
        self.t = [t + 1 for t in self.t]
        for part in (part for part in self.parts if part.variant.events):
            for k in finite.nonzero()[:, 0].tolist():
                finite[k] = part.act(k, self.members[k], self.t[k])
        return finite

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch], predict: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Every trial on the same examples: (K mean losses, K N predictions, N targets)."""
        total, predictions, seen = torch.zeros(self.K, dtype=torch.float64, device=self.frozen.device), [], []
        for inputs, targets in batches:
            outputs = self.outputs(inputs, shared=True)
            losses = self.loss(_full(outputs), targets.repeat(self.K))
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

    def losses(self, outputs: Tensor, targets: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """The mean loss of each trial's examples: K."""
        losses = self.loss(_full(outputs), targets)
        if sizes is None:
            return losses.reshape(self.K, -1).mean(1)
        return torch.stack([mine.mean() for mine in losses.split(list(sizes))])


def _lift(
    part: Part, site: Site, p: Leaves, constants: Leaves, layout: Layout, penalties: list[Tensor] | None
) -> Layer:
    """One layer of all trials: the frozen output of every row, then the variant's forward lifted over the trials."""
    variant = part.variant
    forward = vmap(lambda x, y, p, h: variant.forward(x, y, site, p | constants, h))
    penalty = vmap(lambda x, p, h: variant.penalty(x, site, p | constants, h)) if variant.penalty else None  # type: ignore[misc]

    def layer(x: Tensor) -> Tensor:
        x = layout.spread(x)
        xs = layout.split(x, site.name)
        ys = layout.split(site.layer(x), site.name) if variant.reads_output else xs
        if penalty and penalties is not None:
            penalties.append(penalty(xs, p, part.h | {"valid": layout.valid(x, xs)}))
        return layout.join(forward(xs, ys, p, part.h), x)

    return layer


def _full(outputs: Tensor) -> Tensor:
    """Logits in at least fp32: the loss is not computed in bf16."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
