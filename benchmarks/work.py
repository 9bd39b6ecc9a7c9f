"""The work that both sides do: which model, which layers, batches of random tokens."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from study.errors import BadInput

LENGTH = 32  # tokens an example has at most; at least half as many
RANK, ALPHA, RATE = 8, 16, 1e-3  # of every trial whose speed is measured
PACK = 8  # trials of our pack, where it is not left to the planner
CLASSES, WORDS = 2, 30522  # labels; ids, as BERT has them: embeddings weigh on memory
PAD, SPECIAL = 0, ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
BATCHES = 32  # made before the clock starts, used again and again

Device = Literal["cpu", "cuda"]
Batch = tuple[dict[str, Tensor], Tensor]  # input_ids and attention_mask, B T each; labels B


class Shape(NamedTuple):
    """A BERT encoder's sizes."""

    layers: int
    hidden: int
    heads: int
    ff: int

    @property
    def linear(self) -> int:
        """Weights of the linear layers of all blocks."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.ff)

    @property
    def products(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each linear layer of a block."""
        return [(self.hidden, self.hidden)] * 4 + [(self.hidden, self.ff), (self.ff, self.hidden)]


SHAPES = {
    "tiny": Shape(4, 128, 4, 512),
    "minilm": Shape(6, 384, 12, 1536),
    "roberta-base": Shape(12, 768, 12, 3072),
}
# Regular expressions on whole layer names: peft and lorascope read them alike.
TARGETS = {"qv": r".*\.(query|value)", "all": r".*\.layer\.\d+\..*(query|key|value|dense)"}


class Cell(NamedTuple):
    """One piece of work: a model, a batch size, and which layers are adapted."""

    shape: str
    batch: int
    where: str = "qv"

    @property
    def name(self) -> str:
        """What the command line and the table call it."""
        return f"{self.shape}-{self.batch}" + ("" if self.where == "qv" else f"-{self.where}")

    @property
    def targets(self) -> str:
        """Which layers are adapted, as a regular expression."""
        return TARGETS[self.where]


def begin() -> None:
    """One thread and no denormal numbers: in every process that is measured, ours and theirs."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def cell(name: str) -> Cell:
    """The cell of that name. Raises BadInput."""
    shape, _, rest = name.partition("-") if not name.startswith("roberta-base-") else ("roberta-base", "", name[13:])
    batch, _, where = rest.partition("-")
    found = Cell(shape, int(batch) if batch.isdigit() else 0, where or "qv")
    if found.shape not in SHAPES or found.where not in TARGETS or found.batch < 1 or found.name != name:
        raise BadInput(
            "--cells", f"unknown cell {name!r}", f"MODEL-BATCH or MODEL-BATCH-all, MODEL {', '.join(SHAPES)}"
        )
    return found


def batches(cell: Cell, seed: int = 0) -> list[Batch]:
    """Random tokens, lengths uniform in LENGTH / 2 .. LENGTH, each batch padded to its longest example."""
    generator = torch.Generator().manual_seed(seed)
    return [_batch(cell.batch, generator) for _ in range(BATCHES)]


def _batch(size: int, generator: torch.Generator) -> Batch:
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (size,), generator=generator)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()  # B T
    ids = torch.randint(len(SPECIAL), WORDS, mask.shape, generator=generator) * mask  # PAD is 0
    return {"input_ids": ids, "attention_mask": mask}, torch.randint(CLASSES, (size,), generator=generator)


def tokens(cell: Cell) -> float:
    """Tokens of a mean batch, padding to its longest example counted: what a rival multiplies."""
    return sum(inputs["input_ids"].numel() for inputs, _ in batches(cell)) / BATCHES


def flop(cell: Cell) -> float:
    """FLOP of one trial-step: 4 x tokens x weights, a forward and an input gradient of every linear layer."""
    return 4 * tokens(cell) * SHAPES[cell.shape].linear
