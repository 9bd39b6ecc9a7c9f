"""The model's stack of blocks in one forward: no padding inside it, and what all trials share computed once.

Nothing here knows an architecture. What a model allows is found out by trying: see `Frozen`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from study.tokens import CURRENT, ONLY_READ, OnlyRead, Tokens, copies


@dataclass
class Pass:
    """One forward through the stack."""

    K: int  # copies of the batch that go on from block `first`; 1: it holds every trial's examples already
    first: int  # the first block in which trials differ
    tokens: Tokens | None  # of the batch as it enters the stack; None: padding stays
    entering: Tensor | None = None  # what enters block `first`, known from before: 1 N H or B T H
    stop: bool = False  # learn what enters block `first`, and no more


class Entered(Exception):
    """A pass that was to stop has come to the first block in which trials differ."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Stack:
    """The one numbered list of blocks that holds the adapted layers."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self.name = name
        self._parent, self._attribute = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        blocks = model.get_submodule(name)
        assert isinstance(blocks, nn.ModuleList)
        self.blocks = blocks
        self._now: Pass | None = None
        self._last = ExitStack()  # what is in force inside the last block
        for i, block in enumerate(blocks):
            block.register_forward_pre_hook(self._entering(i), with_kwargs=True)
        blocks[-1].register_forward_hook(self._leaving)

    def block_of(self, layer: str) -> int | None:
        """The number of the block that a layer is in, None where it is in none."""
        found = re.match(rf"{re.escape(self.name)}\.(\d+)\.", layer)
        return int(found[1]) if found else None

    @contextmanager
    def passing(self, now: Pass) -> Iterator[None]:
        """The stack as this pass wants it, for one forward of the model."""
        skipped = 0 if now.entering is None else min(now.first, len(self.blocks) - 1)
        setattr(self._parent, self._attribute, nn.ModuleList(self.blocks[skipped:]) if skipped else self.blocks)
        self._now, before = now, (CURRENT.set(None), ONLY_READ.set(False))
        try:
            with ExitStack() as self._last:
                yield
        finally:
            self._now = None
            CURRENT.reset(before[0])
            ONLY_READ.reset(before[1])
            setattr(self._parent, self._attribute, self.blocks)

    def _entering(self, i: int) -> Any:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            now = self._now
            if now is None:
                return None
            named = not args
            hidden: Tensor = kwargs["hidden_states"] if named else args[0]
            at = min(now.first, len(self.blocks) - 1)
            hidden = self._enter(now, i, at, hidden)
            tokens = CURRENT.get()
            if tokens is not None and kwargs.get("position_embeddings") is not None:
                kwargs = kwargs | {"position_embeddings": tuple(map(tokens.drop, kwargs["position_embeddings"]))}
            return ((), kwargs | {"hidden_states": hidden}) if named else ((hidden, *args[1:]), kwargs)

        return hook

    def _enter(self, now: Pass, i: int, at: int, hidden: Tensor) -> Tensor:
        if i == 0 and now.tokens is not None:
            CURRENT.set(now.tokens)
            hidden = now.tokens.drop(hidden)
        if i == at and now.stop:
            raise Entered(hidden)
        if i == at and now.entering is not None:
            CURRENT.set(now.tokens)
            hidden = now.entering
        hidden = self._part(now, hidden) if i == now.first else hidden
        tokens = CURRENT.get()
        if i == len(self.blocks) - 1 and tokens is not None and tokens.read is not None:
            ONLY_READ.set(True)
            self._last.enter_context(OnlyRead(tokens))
        return hidden

    def _leaving(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        now = self._now
        if now is None:
            return None
        self._last.close()
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        tokens = CURRENT.get()
        if tokens is not None:
            hidden = (tokens.pad_read if ONLY_READ.get() else tokens.pad)(hidden)
        if now.first == len(self.blocks):
            hidden = copies(hidden, now.K)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def _part(self, now: Pass, hidden: Tensor) -> Tensor:
        """From here on every trial has its own copy."""
        if now.tokens is not None:
            CURRENT.set(now.tokens.times(now.K))
            return hidden.repeat(1, now.K, 1)
        return copies(hidden, now.K)


def find(model: nn.Module, layers: Iterable[str]) -> Stack | None:
    """The stack that holds these layers, None where they are in no list of blocks or in several."""
    names = {re.sub(r"\.\d+\..*$", "", re.sub(r"^(.*?\.\d+\.).*$", r"\1_", name)) for name in layers}
    lists = {name for name in names if isinstance(dict(model.named_modules()).get(name), nn.ModuleList)}
    return Stack(model, lists.pop()) if len(lists) == 1 and len(names) == 1 else None


class Prefixes:
    """What entered the first block in which trials differ, by example: frozen, so it is computed once."""

    def __init__(self, most: int) -> None:
        """`most`: bytes that may be kept; later examples are computed anew each time."""
        self.most, self.held = most, 0
        self._known: dict[tuple[int, bytes], Tensor] = {}

    def get(self, first: int, keys: list[bytes]) -> list[Tensor | None]:
        """T H for every example that is known."""
        return [self._known.get((first, key)) for key in keys]

    def put(self, first: int, key: bytes, hidden: Tensor) -> None:
        """Keep one example's, T H, where there is room."""
        size = hidden.numel() * hidden.element_size()
        if self.held + size <= self.most:
            self._known[first, key] = hidden.clone()
            self.held += size


def keys(inputs: Mapping[str, Tensor]) -> list[bytes]:
    """What tells the examples of a batch apart, whatever padding is around them."""
    mask = inputs.get("attention_mask")
    columns = [value.cpu() for _, value in sorted(inputs.items())]
    if mask is None:
        return [b"".join(value[b].numpy().tobytes() for value in columns) for b in range(len(columns[0]))]
    real = mask.cpu() != 0
    return [b"".join(value[b, real[b]].numpy().tobytes() for value in columns) for b in range(len(real))]
