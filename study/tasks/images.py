"""Images: a small ViT, pre-trained here on classes 0-4 of a data set, is adapted to tell its classes 5-9 apart."""

import gzip
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import study.tasks.sources as sources
from study.assets import fetch, unknown
from study.errors import BadInput
from study.tasks.base import SPLITS, Examples, Prepared, Source, Task
from study.tasks.models import IMAGES, fingerprint, load_image_classifier, read_config, resolve_model
from study.tasks.pretraining import Recipe, pretrained
from study.tasks.text import accuracy, cross_entropy, most_likely

FIRST_ADAPTED = 5  # classes below it are what a model of ours is pre-trained on
ROWS = {"train": 1000, "validation": 1000, "test": 2000}


class Pool(NamedTuple):
    """Labelled grey images as their source has them."""

    pixels: np.ndarray  # N S S uint8
    labels: np.ndarray  # N, 0 to 9

    def classes(self, low: int, high: int) -> "Pool":
        """Those of the classes low to high - 1."""
        chosen = (self.labels >= low) & (self.labels < high)
        return Pool(self.pixels[chosen], self.labels[chosen])


class Collection(NamedTuple):
    """A data set and the model that is pre-trained on half of it."""

    read: Callable[[Path], Mapping[str, Pool]]  # cache -> by split; one that is lacking is cut from train
    white: int  # the largest pixel; 0 is black
    model: str
    recipe: Recipe


def fashion(cache: Path) -> dict[str, Pool]:
    """Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 and 10,000 images of 28 x 28."""
    folder = fetch("fashion-mnist", cache)
    return {split: _idx(folder, stem) for split, stem in (("train", "train"), ("test", "t10k"))}


def digits(cache: Path) -> dict[str, Pool]:
    """1,797 handwritten digits of 8 x 8 that scikit-learn brings along."""
    bunch = load_digits()
    return {"train": Pool(bunch.images.astype(np.uint8), bunch.target)}


DATA = {
    "fashion-mnist": Collection(fashion, 255, "fashion-vit", Recipe(image=28, patch=7)),
    "digits": Collection(digits, 16, "digits-vit", Recipe(image=8, patch=2, hidden=64, layers=2, steps=100)),
}


def prepare_images(model: str, data: Source | str, length: int, cache: Path, rows: Mapping[str, int]) -> Prepared:
    """`data` is a name in DATA, `model` its own or any image classifier of that size; `length` has no meaning here."""
    source = Source(data) if isinstance(data, str) else data
    if source.path not in DATA:
        raise unknown("data", source.path, DATA)
    chosen = DATA[source.path]
    pools = chosen.read(cache)
    folder = _folder(model, chosen, pools["train"], cache)
    patches = _patches(folder, pools["train"].pixels.shape[1])
    splits, known = _split({name: pool.classes(FIRST_ADAPTED, 10) for name, pool in pools.items()}, source, rows)
    labels = sources.classes(row for split in splits.values() for row in split)
    return Prepared(
        model=str(folder),
        fingerprints={"model": fingerprint(folder)} | {n: sources.fingerprint(splits[n], labels) for n in SPLITS},
        outputs=len(labels),
        splits={name: _examples(splits[name], labels, known, chosen.white) for name in SPLITS},
        padding={"pixel_values": 0},
        load=partial(load_image_classifier, str(folder), [str(label) for label in labels]),
        loss=cross_entropy,
        predict=most_likely,
        metric=accuracy,
        tokens=patches + 1,
    )


def scaled(pixels: np.ndarray, white: int) -> Tensor:
    """Pixels N S S, 0 to white -> N 1 S S, fp32, -1 to 1."""
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(white) * 2 - 1)[:, None]


def _folder(model: str, chosen: Collection, train: Pool, cache: Path) -> Path:
    if model != chosen.model:
        return resolve_model(model, cache, IMAGES)

    def known() -> tuple[Tensor, Tensor]:
        pool = train.classes(0, FIRST_ADAPTED)
        return scaled(pool.pixels, chosen.white), torch.from_numpy(pool.labels.astype(np.int64))

    return pretrained(chosen.model, chosen.recipe, known, cache)


def _split(
    pools: Mapping[str, Pool], source: Source, rows: Mapping[str, int]
) -> tuple[dict[str, list[sources.Row]], dict[str, np.ndarray]]:
    """Rows that name images by the hash of their pixels, in splits that share none; and the images by that name."""
    known: dict[str, np.ndarray] = {}
    named: dict[str, list[sources.Row]] = {}
    for split, pool in pools.items():
        names = [sha256(image.tobytes()).hexdigest() for image in pool.pixels]
        known |= dict(zip(names, pool.pixels, strict=True))
        named[split] = [sources.Row(name, None, int(label)) for name, label in zip(names, pool.labels, strict=True)]
    return sources.split(named, {**ROWS, **source.rows, **rows}), known


def _examples(
    rows: Sequence[sources.Row], labels: Sequence[sources.Label], known: Mapping[str, np.ndarray], white: int
) -> Examples:
    pixels = scaled(np.stack([known[row.text] for row in rows]), white)
    return Examples(tuple({"pixel_values": image} for image in pixels), tuple(labels.index(row.label) for row in rows))


def _patches(folder: Path, side: int) -> int:
    """Patches an image of one channel and `side` x `side` pixels is cut into; raises BadInput where it does not fit."""
    config = read_config(folder, IMAGES).to_dict()
    size, channels, patch = (config.get(name) for name in ("image_size", "num_channels", "patch_size"))
    if (size, channels) != (side, 1) or not isinstance(patch, int):
        shape = f"{channels} x {size} x {size}, patches {patch}"
        raise BadInput("model", f"{folder} takes images of {shape}", f"1 x {side} x {side}, in square patches")
    return (side // patch) ** 2


def _idx(folder: Path, stem: str) -> Pool:
    """Images and labels in the format of MNIST: big-endian sizes, then bytes."""
    pixels, labels = (
        np.frombuffer(gzip.decompress((folder / f"{stem}-{name}-ubyte.gz").read_bytes()), np.uint8)
        for name in ("images-idx3", "labels-idx1")
    )
    return Pool(pixels[16:].reshape(-1, 28, 28), labels[8:])


def _task(name: str, data: str, licence: str, origin: str, summary: str) -> Task:
    return Task(
        name=name,
        family="images",
        metric="accuracy",
        direction="maximize",
        model=DATA[data].model,
        data=data,
        licence=licence,
        origin=origin,
        summary=summary,
        prepare=prepare_images,
    )


TASKS = (
    _task(
        "fashion",
        "fashion-mnist",
        "data MIT; model trained here",
        "package dataset-fashion-mnist (Debian)",
        "which of 5 kinds of clothing is it? a small ViT that was pre-trained on 5 other kinds",
    ),
    _task(
        "digits",
        "digits",
        "data BSD-3-Clause (scikit-learn); model trained here",
        "scikit-learn",
        "which digit is it, 5 to 9? a small ViT that was pre-trained on 0 to 4; nothing to download",
    ),
)
