"""A kept adapter on its way out: the model it was trained on, and the folder that was asked for."""

from pathlib import Path
from typing import Literal

import torch

from study.adapters import Adapter
from study.errors import BadInput
from study.frozen import Frozen
from study.interchange import folder, whole
from study.spec import TaskSpec
from study.tasks import task as registered
from study.tasks.base import Prepared
from study.tasks.models import HUB
from study.tasks.saving import copy_tokenizer
from study.worker import prepare

Format = Literal["peft", "merged"]


def export(one: Adapter, form: Format, cache: Path, out: Path) -> None:
    """Write the adapter as a folder for peft, or merged into its model, to `out`, with the tokenizer.

    Raises BadInput where `out` is in use, the model has changed or the method has no such form; nothing is written.
    """
    _require_free(out)
    spec = TaskSpec.model_validate(one.task)
    prepared = prepare(spec, cache)
    if prepared.fingerprints["model"] != one.model:
        raise BadInput("model", f"{prepared.model} is not what the trial was trained on", "the same files")
    model, heads = prepared.load(torch.float32, "sdpa")
    frozen = Frozen(model, spec.targets, heads)
    if form == "peft":
        folder.write(one, frozen, _base(spec, prepared, cache), registered(spec.task).family, out)
    else:
        whole.write(one, frozen, out)
    copy_tokenizer(Path(prepared.model), out)


def _base(spec: TaskSpec, prepared: Prepared, cache: Path) -> str:
    """Where peft finds the pretrained model: its id on the hub, else its folder here."""
    from_hub = Path(prepared.model).is_relative_to(cache / HUB)
    return str(spec.model or registered(spec.task).model) if from_hub else prepared.model


def _require_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput("--out", f"{out} is there already", "a folder that is new or empty")
