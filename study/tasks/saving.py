"""A model of ours as a folder that the transformers library reads."""

import shutil
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from study.tasks.models import TOKENIZER
from study.tasks.quiet import quiet


def save_classifier(model: nn.Module, folder: Path) -> None:
    """Config and weights, in the weights' precision."""
    assert isinstance(model, PreTrainedModel)
    with quiet():
        model.save_pretrained(folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The tokenizer's files of one model's folder in another."""
    for path in (path for pattern in TOKENIZER for path in source.glob(pattern)):
        shutil.copy(path, folder)
