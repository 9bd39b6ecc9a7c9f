"""Optimizer transforms for one trial's flat row of parameters, composable as in optax; schedules; clipping.

A transform sees one trial's row P and the names of its columns; the pack lifts it over its K trials.
The first stage of a chain gets the gradient, the last one returns the step that is added to the row.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from study.errors import BadInput
from study.space import Choice, Knob, Levels, LogFloat, Value

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

ADAMW_KNOBS: tuple[Knob, ...] = (
    LogFloat("learning_rate", 1e-5, 1e-1, default=1e-3),
    LogFloat("weight_decay", 1e-4, 1.0, default=0.0),
    LogFloat("max_grad_norm", 1e-2, 1e2, default=1.0),
    Levels("warmup", (0.0, 0.03, 0.06, 0.1), default=0.06),
    Choice("schedule", ("linear", "cosine", "constant"), default="linear"),
)

Leaf = tuple[str, str]  # (owner, name): the site or group that has the leaf, and what it is called there
State = dict[str, Tensor]


class Columns(NamedTuple):
    """Which columns of a flat row belong to which leaf."""

    shapes: Mapping[Leaf, tuple[int, ...]]

    @property
    def size(self) -> int:
        """P, the width of a row."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def views(self, flat: Tensor) -> dict[Leaf, Tensor]:
        """The leaves in `flat` (..., P): each with the leading axes of `flat`. One split, so backward is one cat."""
        pieces = flat.split([math.prod(shape) for shape in self.shapes.values()], dim=-1)
        leading = flat.shape[:-1]
        return {
            leaf: piece.reshape(leading + shape)
            for (leaf, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def where(self, name: str) -> Tensor:
        """A row P of bool: the columns of the leaves called `name`, whoever owns them."""
        return torch.cat([torch.full((math.prod(s),), leaf == name) for (_, leaf), s in self.shapes.items()])


class Transform(NamedTuple):
    """One trial's rule: `init(p: P, at) -> state`, `update(g: P, state, p: P, at) -> (u: P, state)`."""

    init: Callable[[Tensor, Columns], State]
    update: Callable[[Tensor, State, Tensor, Columns], tuple[Tensor, State]]


def chain(*stages: Transform) -> Transform:
    """The stages one after another; the state of stage i is kept under names that begin with `i.`."""

    def init(p: Tensor, at: Columns) -> State:
        return {f"{i}.{name}": value for i, stage in enumerate(stages) for name, value in stage.init(p, at).items()}

    def update(g: Tensor, state: State, p: Tensor, at: Columns) -> tuple[Tensor, State]:
        after: State = {}
        for i, stage in enumerate(stages):
            mine = {name.removeprefix(f"{i}."): value for name, value in state.items() if name.startswith(f"{i}.")}
            g, mine = stage.update(g, mine, p, at)
            after |= {f"{i}.{name}": value for name, value in mine.items()}
        return g, after

    return Transform(init, update)


def adamw(h: Mapping[str, Tensor]) -> Transform:
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101), decay decoupled; the learning rate is today's."""

    def init(p: Tensor, at: Columns) -> State:
        return {"m": torch.zeros_like(p), "v": torch.zeros_like(p), "t": torch.zeros_like(p[..., :1])}

    def update(g: Tensor, state: State, p: Tensor, at: Columns) -> tuple[Tensor, State]:
        t = state["t"] + 1
        m = BETA1 * state["m"] + (1 - BETA1) * g
        v = BETA2 * state["v"] + (1 - BETA2) * g * g
        direction = m / (1 - BETA1**t) / ((v / (1 - BETA2**t)).sqrt() + EPSILON)
        return -h["learning_rate"] * (direction + h["weight_decay"] * p), {"m": m, "v": v, "t": t}

    return Transform(init, update)


def scale_leaf(name: str, factor: Tensor) -> Transform:
    """The step of every leaf called `name`, times `factor`: its own rate. Raises BadInput where there is none."""

    def init(p: Tensor, at: Columns) -> State:
        if all(leaf != name for _, leaf in at.shapes):
            raise BadInput("combine", f"a step size of {name} for a method without {name}", "methods that train a pair")
        return {}

    def update(g: Tensor, state: State, p: Tensor, at: Columns) -> tuple[Tensor, State]:
        return torch.where(at.where(name), g * factor, g), state

    return Transform(init, update)


def scheduled(h: Mapping[str, Value], t: int, steps: int) -> float:
    """The learning rate of step t in 0..steps-1: linear warm-up over a share of the steps, then the schedule."""
    warm = math.ceil(float(h["warmup"]) * steps)
    if t < warm:
        return float(h["learning_rate"]) * (t + 1) / warm
    return float(h["learning_rate"]) * SCHEDULES[str(h["schedule"])]((t - warm) / max(steps - warm, 1))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}


def row_norms(parts: list[Tensor]) -> Tensor:
    """The length of each trial's whole gradient: parts of K P_i -> K."""
    return torch.stack([part.square().sum(1) for part in parts]).sum(0).sqrt()


def clip_by_norm(parts: list[Tensor], largest: Tensor) -> tuple[list[Tensor], Tensor]:
    """Each trial's gradient cut to length `largest` (K), over all its parts: (parts, K norms before the cut)."""
    norms = row_norms(parts)
    factor = (largest / (norms + 1e-6)).clamp(max=1.0)[:, None]
    return [part * factor for part in parts], norms
