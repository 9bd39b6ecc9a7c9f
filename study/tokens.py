"""The real tokens of a padded batch, laid out one after another, so that nothing is computed on padding."""

from contextvars import ContextVar
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Read = Literal["first", "last"]  # the one token of an example whose final state the model's head reads


def copies(x: Tensor, K: int) -> Tensor:
    """K copies of a batch, one after another: B ... -> (K B) ..."""
    return x.repeat(K, *[1] * (x.dim() - 1))


class Tokens:
    """Which places of a padded batch B T hold a real token."""

    def __init__(self, mask: Tensor, read: Read | None = None) -> None:
        """`mask`: B T, 0 where a token is padding. `read`: None where the head reads more than one token."""
        self.mask, self.read = mask != 0, read
        self.index = self.mask.flatten().nonzero()[:, 0]  # N, in 0 .. B T - 1
        self._times: dict[int, Tokens] = {}

    @cached_property
    def counts(self) -> list[int]:
        """The real tokens of each example: B."""
        return self.mask.sum(1).tolist()

    @cached_property
    def places(self) -> Tensor:
        """Where the token that is read stands in its example: B, in 0 .. T - 1."""
        if self.read == "first":
            return self.mask.int().argmax(1)
        return self.mask.shape[1] - 1 - self.mask.flip(1).int().argmax(1)

    @cached_property
    def reading(self) -> Tensor:
        """Where it stands among the real tokens: B, in 0 .. N - 1."""
        order = self.mask.flatten().cumsum(0) - 1
        return order[torch.arange(len(self.mask), device=order.device) * self.mask.shape[1] + self.places]

    def times(self, K: int) -> "Tokens":
        """K copies of the batch, one after another."""
        if K == 1:
            return self
        if K not in self._times:
            self._times[K] = Tokens(copies(self.mask, K), self.read)
        return self._times[K]

    def drop(self, x: Tensor) -> Tensor:
        """The real tokens alone: B T ... -> 1 N ...; where x has one row for all examples, that row's."""
        T, rest = x.shape[1], x.shape[2:]
        return x.reshape(-1, *rest).index_select(0, self.index if len(x) > 1 else self.index % T)[None]

    def pad(self, x: Tensor) -> Tensor:
        """The inverse: 1 N ... -> B T ..., zero at padding."""
        return self._placed(self.index, x)

    def pad_read(self, x: Tensor) -> Tensor:
        """The same for the tokens that are read alone: 1 B ... -> B T ..., zero elsewhere."""
        starts = torch.arange(len(self.mask), device=self.places.device) * self.mask.shape[1]
        return self._placed(starts + self.places, x)

    def _placed(self, index: Tensor, x: Tensor) -> Tensor:
        padded = x.new_zeros(self.mask.numel(), *x.shape[2:])
        return padded.index_copy(0, index, x[0]).reshape(*self.mask.shape, *x.shape[2:])


class OnlyRead(TorchFunctionMode):
    """Inside the last block: where the attention's tokens meet all tokens in a residual sum, those that are read stay.

    What follows the attention of a transformer's last block works token by token, and nobody reads the others.
    """

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self.tokens, self.all, self.few = tokens, (1, len(tokens.index)), (1, len(tokens.mask))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.add, Tensor.__add__, torch.add) and len(args) == 2:
            args = self._narrowed(*args)
        if func in (Tensor.reshape, Tensor.view) and args[0].shape[:2] == self.few and args[1:3] == self.all:
            args = (args[0], *self.few, *args[3:])  # the heads put together again: 1 B heads D -> 1 B I
        return func(*args, **(kwargs or {}))

    def _narrowed(self, a: Any, b: Any) -> tuple[Any, Any]:
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dim() == b.dim() == 3:
            if (a.shape[:2], b.shape[:2]) == (self.all, self.few):
                return a.index_select(1, self.tokens.reading), b
            if (a.shape[:2], b.shape[:2]) == (self.few, self.all):
                return a, b.index_select(1, self.tokens.reading)
        return a, b


# The layout of the block that runs now, for the attention inside it; None: a padded batch.
CURRENT: ContextVar[Tokens | None] = ContextVar("tokens", default=None)
ONLY_READ: ContextVar[bool] = ContextVar("only_read", default=False)  # whether that block is the last, and one is read


def places(counts: list[int]) -> Tensor | None:
    """Where the rows of K trials stand that have `counts` rows: K N, N the most; None where all have as many.

    A shorter trial's last row is repeated: a row of its own, so that no trial ever reads another's.
    """
    if len(set(counts)) == 1:
        return None
    longest, ends = max(counts), torch.tensor(counts).cumsum(0)
    starts = ends - torch.tensor(counts)
    return (starts[:, None] + torch.arange(longest)).minimum(ends[:, None] - 1)
