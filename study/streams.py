"""Random streams: functions of a seed and a purpose, without carried state, so that anything can be drawn again."""

import hashlib
from functools import lru_cache

import torch


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
