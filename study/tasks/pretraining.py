"""A small ViT for image tasks, pre-trained here on first use: nothing to download, the same from the same seed."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from study.errors import BadInput
from study.streams import order
from study.tasks.quiet import quiet
from study.trial import digest


@dataclass(frozen=True)
class Recipe:
    """A ViT's shape (Dosovitskiy et al. 2020, arXiv:2010.11929) and its training: AdamW, linear warm-up and decay."""

    image: int  # pixels a side; one channel
    patch: int
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    steps: int = 400
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.06  # of the steps
    seed: int = 0


def pretrained(name: str, recipe: Recipe, read: Callable[[], tuple[Tensor, Tensor]], cache: Path) -> Path:
    """The folder of the model, without its head; where `cache` lacks it, trained on what `read` gives.

    Safe when several processes ask at once: each trains in a folder of its own, the first to finish renames it into
    place. Raises BadInput where `cache` cannot be written.
    """
    folder = cache / "models" / f"{name}-{digest(asdict(recipe))[:12]}"
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".training-") as scratch, quiet():
                whole = Path(scratch) / "whole"
                trained(recipe, *read()).vit.save_pretrained(whole)
                _put_in_place(whole, folder)
        except OSError as error:
            raise BadInput(
                "model", f"{name} cannot be kept in {cache}: {error.strerror or error}", "a writable folder with room"
            ) from error
    return folder


def trained(recipe: Recipe, pixels: Tensor, classes: Tensor) -> ViTForImageClassification:
    """The model with its head, after the recipe's steps on pixels N 1 S S and classes N; on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a sum over several threads is rounded otherwise
    try:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            model = ViTForImageClassification(_config(recipe, int(classes.max()) + 1))
        _train(model.train(), recipe, pixels, classes)
    finally:
        torch.set_num_threads(threads)
    return model.eval()


def _config(recipe: Recipe, labels: int) -> ViTConfig:
    config = ViTConfig(
        image_size=recipe.image,
        patch_size=recipe.patch,
        num_channels=1,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=4 * recipe.hidden,
    )
    config.num_labels = labels
    return config


def _train(model: ViTForImageClassification, recipe: Recipe, pixels: Tensor, classes: Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate)
    rises, steps = max(1, round(recipe.warmup * recipe.steps)), recipe.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / rises, (steps - t) / (steps - rises + 1))
    )
    for step in range(steps):
        chosen = order(recipe.seed, step, recipe.batch, len(classes))
        optimizer.zero_grad()
        functional.cross_entropy(model(pixel_values=pixels[chosen]).logits, classes[chosen]).backward()
        optimizer.step()
        schedule.step()


def _put_in_place(whole: Path, folder: Path) -> None:
    """A folder that is there already came from another process and is as good."""
    try:
        whole.rename(folder)
    except OSError:
        if not folder.exists():
            raise
