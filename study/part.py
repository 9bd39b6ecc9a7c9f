"""The leaves of K trials for one method over some sites: one matrix K P per kind, so a trial is a row.

Weights, frozen leaves, gradients, moments and hyperparameters have the trial axis first. A leaf belongs to a site or to
a group of sites that share it; leaves that are equal in all trials are kept once.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from study.grouping import grouped
from study.optim import Columns, Leaf, State
from study.space import Value
from study.streams import generator
from study.variants.base import Leaves, Plain, Site, Spectrum, Variant, plain

Statistics = Mapping[int, Mapping[str, Mapping[str, Spectrum]]]  # by seed and site, what the method `needs`


class Member(NamedTuple):
    """What makes a trial's numbers in a pack: its seed and every knob's value."""

    seed: int
    values: Plain


class Part:
    """The trials' leaves for one variant over some sites: a pack has one for the method and one for the heads."""

    def __init__(
        self,
        variant: Variant,
        sites: Sequence[Site],
        members: Sequence[Member],
        store: Tensor,
        steps: int,
        statistics: Statistics,
    ) -> None:
        """`store`: an empty tensor of the dtype and on the device that leaves are kept in."""
        self.variant, self.sites, self.steps, self.statistics = variant, sites, steps, statistics
        self.empty = store
        self.groups = grouped(sites, lambda site: f"shared by {variant.group(site)}")  # which use one copy of leaves
        self._group_of = {site.name: group for group, members in self.groups.items() for site in members}
        rows = [self._draw(member) for member in members]
        shapes = {leaf: _largest([row[leaf].shape for row in rows]) for leaf in rows[0]}
        self.common = {leaf: rows[0][leaf] for leaf in shapes if leaf[1] in variant.common}
        self.constants = self._by_site(self.common)  # each site's of these, without a trial axis
        own = {leaf: shape for leaf, shape in shapes.items() if leaf not in self.common}
        self.trained = Columns({leaf: shape for leaf, shape in own.items() if leaf[1] not in variant.frozen})
        self.carried = Columns({leaf: shape for leaf, shape in own.items() if leaf[1] in variant.frozen})
        K = len(members)
        self.W = store.new_zeros(K, self.trained.size)
        self.frozen = store.new_zeros(K, self.carried.size)
        self.live = store.new_zeros(K, self.trained.size, dtype=torch.bool)  # the entries a trial really owns
        self.h: dict[str, Tensor] = {}  # numeric knobs: K each
        self.shapes: list[dict[Leaf, tuple[int, ...]]] = [{} for _ in rows]
        for k, (member, row) in enumerate(zip(members, rows, strict=True)):
            self._write(k, member, row)
        self.state: State = vmap(lambda p, h: variant.optimizer(h).init(p, self.trained))(self.W, self.h)
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
            for name, value in self.variant.optimizer(h).init(p, self.trained).items():
                self.state[name][k] = value

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on."""
        self.W = self.W.detach()[rows].requires_grad_()
        self.frozen, self.live = self.frozen[rows], self.live[rows]
        self.h = {name: value[rows] for name, value in self.h.items()}
        self.state = {name: value[rows] for name, value in self.state.items()}
        self.shapes = [self.shapes[k] for k in rows.tolist()]

    def views(self) -> dict[str, Leaves]:
        """Each site's leaves and its group's, K first. One split of the store, so that backward is one cat."""
        return self._by_site(self.trained.views(self.W) | self.carried.views(self.frozen))

    def leaves(self, k: int) -> dict[Leaf, Tensor]:
        """Trial k's own leaves, unpadded views of the store."""
        return self._unpadded(k, self.trained, self.W.detach()) | self._unpadded(k, self.carried, self.frozen)

    def site_leaves(self, k: int) -> dict[str, Leaves]:
        """What trial k's forward sees at each site, unpadded: its own leaves, its group's, and the common ones."""
        return self._by_site(self.leaves(k) | self.common)

    def update(self, gradients: Tensor) -> None:
        """One optimizer step of every row."""

        def one(g: Tensor, state: State, p: Tensor, h: dict[str, Tensor]) -> tuple[Tensor, State]:
            return self.variant.optimizer(h).update(g, state, p, self.trained)

        u, self.state = vmap(one)(gradients, self.state, self.W.detach(), self.h)
        self.W.data += u

    def act(self, k: int, member: Member, t: int) -> bool:
        """The method's events that are due for trial k after t steps; whether a decomposition in them found an end."""
        h = self.plain(member)
        for i, event in enumerate(self.variant.events):
            if event.due(h, t):
                moments = {name: value for name, value in self.state.items() if value.shape == self.W.shape}
                state = {name: _by_owner(self._unpadded(k, self.trained, value)) for name, value in moments.items()}
                try:
                    event.act(_by_owner(self.leaves(k)), state, h, t, generator(member.seed, "event", i, t))
                except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # this trial's own misfortune: it has diverged
                    return False
        return True

    def plain(self, member: Member) -> dict[str, Value]:
        """A trial's knobs as everything un-lifted sees them, with `scale` and `steps`."""
        return plain(self.variant, member.values, self.steps)

    def _draw(self, member: Member) -> dict[Leaf, Tensor]:
        """The trial's first leaves. The stream knows the seed and the site, so variants of one seed draw alike."""
        h, stats = self.plain(member), self.statistics.get(member.seed, {})
        drawn: dict[Leaf, Tensor] = {}
        for site in self.sites:
            leaves = self.variant.init(
                site.measured(stats.get(site.name, {})), h, generator(member.seed, site.name, "init")
            )
            drawn |= {(site.name, name): leaf.to(self.empty) for name, leaf in leaves.items()}
        for group, sites in self.groups.items() if self.variant.shared else ():
            leaves = self.variant.shared(sites, h, generator(member.seed, group, "init"))  # type: ignore[misc]
            drawn |= {(group, name): leaf.to(self.empty) for name, leaf in leaves.items()}
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
        for name, value in self.plain(member).items():
            if not isinstance(value, str):
                self.h.setdefault(name, self.empty.new_zeros(len(self.W)))[k] = torch.tensor(
                    float(value), dtype=torch.float64
                )

    def _unpadded(self, k: int, columns: Columns, store: Tensor) -> dict[Leaf, Tensor]:
        return {leaf: _cut(view, self.shapes[k][leaf]) for leaf, view in columns.views(store[k]).items()}

    def _by_site(self, leaves: Mapping[Leaf, Tensor]) -> dict[str, Leaves]:
        owned = _by_owner(leaves)
        return {name: owned.get(name, {}) | owned.get(group, {}) for name, group in self._group_of.items()}


def _by_owner(leaves: Mapping[Leaf, Tensor]) -> dict[str, Leaves]:
    owned: dict[str, Leaves] = {}
    for (owner, name), leaf in leaves.items():
        owned.setdefault(owner, {})[name] = leaf
    return owned


def _largest(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(max(sizes) for sizes in zip(*shapes, strict=True))


def _cut(view: Tensor, shape: Sequence[int]) -> Tensor:
    """The corner of a padded leaf that a trial owns."""
    return view[tuple(slice(size) for size in shape)]
