"""What a task promises the pack: a frozen model, examples it can batch, one loss per example, and a score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Family = Literal["understanding", "generation", "images"]
Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Source:
    """A data set and which of its columns mean what.

    `path` is a name the task knows, a local file or folder, or a hub id with its `config`. `rows` caps the splits:
    at most so many rows each, by the names in SPLITS.
    """

    path: str
    config: str | None = None
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Examples:
    """One split, ready to batch: per example the model's inputs (name -> ids T, or pixels C H W) and the target."""

    inputs: tuple[Mapping[str, Sequence[int] | Tensor], ...]
    targets: tuple[int, ...] | tuple[float, ...]

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Prepared:
    """A task on one model and one data set. Its splits share no example, and its fingerprints determine its numbers."""

    model: str  # a local folder
    fingerprints: Mapping[str, str]  # sha256 of: model, train, validation, test
    outputs: int  # the model's outputs per example, C below
    splits: Mapping[str, Examples]
    padding: Mapping[str, int]  # input name -> the value that fills a short example up
    load: Callable[[torch.dtype, str], tuple[nn.Module, frozenset[str]]]
    """(dtype, attention) -> the model, frozen and in eval mode, and the names of the modules its checkpoint lacked."""
    loss: Callable[[Tensor, Tensor], Tensor]  # outputs N C, targets N -> N, fp32 or finer
    predict: Callable[[Tensor], Tensor]  # outputs N C -> N
    metric: Callable[[Tensor, Tensor], float]  # predictions N, targets N -> the score
    tokens: int | None = None  # that the model makes of every example, as of an image; None: of a text its own

    def collate(self, split: str, indices: Sequence[int]) -> dict[str, Tensor]:
        """The inputs of the examples at `indices`, padded to the longest of them: ids B T, int64, or pixels B C H W."""
        examples = [self.splits[split].inputs[i] for i in indices]
        return {name: _stack([example[name] for example in examples], value) for name, value in self.padding.items()}

    def targets(self, split: str, indices: Sequence[int]) -> Tensor:
        """The targets of the examples at `indices`: B, int64 for classes, fp32 for numbers."""
        return torch.tensor([self.splits[split].targets[i] for i in indices])


class Prepare(Protocol):
    """Bring a task's model and data onto this machine and check them; raises BadInput for what cannot be used."""

    def __call__(self, model: str, data: Source | str, length: int, cache: Path, rows: Mapping[str, int]) -> Prepared:
        """`length`: tokens a text may have. `cache`: where downloads are kept. `rows`: wins over the source's."""
        ...


@dataclass(frozen=True)
class Task:
    """A model, its data and a score, before any of them is here."""

    name: str
    family: Family
    metric: str
    direction: Direction
    model: str | None  # the default; None where a study must name one
    data: str | None
    licence: str
    origin: str  # where the bytes come from
    summary: str
    prepare: Prepare


def _stack(rows: Sequence[Sequence[int] | Tensor], value: int) -> Tensor:
    return pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=value)
