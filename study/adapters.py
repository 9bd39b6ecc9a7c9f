"""Trained adapters on disk: a safetensors file for each trial that is kept, with all that says what its leaves are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from study.errors import BadInput
from study.files import put
from study.optim import Leaf
from study.space import Value
from study.variants import variant
from study.variants.base import Plain, Variant, plain

Identity = tuple[str, int]  # (key, seed): whose adapter it is


@dataclass(frozen=True)
class Adapter:
    """One trained trial: its leaves, head included, and what they mean."""

    key: str
    seed: int
    variant: str
    combine: tuple[str, ...]
    values: Mapping[str, Value]  # every knob's
    steps: int  # that it was trained for
    task: Mapping[str, Any]  # the task spec
    model: str  # fingerprint of the pretrained model
    heads: tuple[str, ...]  # names of the layers that the checkpoint lacked
    leaves: Mapping[Leaf, Tensor]  # unpadded; the owner is a layer or a group of them

    @property
    def method(self) -> Variant:
        """What trained it."""
        return variant(self.variant, self.combine)

    @property
    def record(self) -> dict[str, Any]:
        """All but the leaves, as JSON."""
        return {name: value for name, value in vars(self).items() if name != "leaves"}

    def plain(self) -> Plain:
        """Its knobs as the method's own functions see them, with `scale` and `steps`."""
        return plain(self.method, self.values, self.steps)


def adapter(record: Mapping[str, Any], leaves: Mapping[Leaf, Tensor]) -> Adapter:
    """The inverse of `record`. Raises KeyError or TypeError where it is none."""
    lists = {name: tuple(record[name]) for name in ("combine", "heads")}
    return Adapter(**{**record, **lists}, leaves=leaves)


def save(folder: Path, kept: Adapter) -> None:
    """Write an adapter under its key and seed, whole or not at all; the last one written stays."""
    tensors = {f"{owner}/{name}": _own(leaf) for (owner, name), leaf in kept.leaves.items()}
    record = {"lorascope": json.dumps(kept.record)}
    put(_path(folder, (kept.key, kept.seed)), lambda path: save_file(tensors, path, record))


def load(folder: Path, key: str, seed: int) -> Adapter | None:
    """The adapter of that trial, None where it is not kept. Raises BadInput where its file is damaged."""
    path = _path(folder, (key, seed))
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            leaves = {_leaf(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return adapter(json.loads(file.metadata()["lorascope"]), leaves)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput(str(path), f"is no adapter: {error}", "a file that a worker wrote, or none") from None


def held(folder: Path) -> set[Identity]:
    """Whose adapters are kept."""
    stems = (path.stem.rpartition("-") for path in folder.glob("*.safetensors"))
    return {(key, int(seed)) for key, _, seed in stems}


def drop(folder: Path, identity: Identity) -> None:
    """Keep this adapter no longer."""
    _path(folder, identity).unlink(missing_ok=True)


def _path(folder: Path, identity: Identity) -> Path:
    return folder / f"{identity[0]}-{identity[1]}.safetensors"


def _own(leaf: Tensor) -> Tensor:
    """A copy that shares no memory, as the format wants it."""
    return leaf.detach().cpu().clone(memory_format=torch.contiguous_format)


def _leaf(name: str) -> Leaf:
    owner, _, leaf = name.rpartition("/")
    return owner, leaf
