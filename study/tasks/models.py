"""Pretrained models: where a name leads, what identifies the bytes, and how one is loaded, frozen, for a new head."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from study.assets import assets, fetch
from study.errors import BadInput
from study.tasks.quiet import quiet

WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")
HUB = "hub"  # the folder of the cache with what the hub gave
# What a model is: these files are asked of the hub, and these are fingerprinted.
FILES = ("config.json", *WEIGHTS, *TOKENIZER)


class Kind(NamedTuple):
    """What a family of tasks asks of a model."""

    classifies: str
    architectures: Collection[type]  # configurations that have such a classifier
    example: str
    parts: Mapping[str, Sequence[str]]  # the files its folder holds: name -> patterns


_PARTS = {"config.json": ("config.json",), "*.safetensors": WEIGHTS}
TEXT = Kind("text", MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, "BERT, Llama, ...", _PARTS | {"tokenizer": TOKENIZER})
IMAGES = Kind("images", MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, "ViT, DINOv2, ...", _PARTS)

# Their positions count from the pad token's id on, so a table of n rows serves n - pad - 1 tokens.
_COUNT_FROM_PAD = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "data2vec-text"})


def resolve_model(name: str, cache: Path, kind: Kind = TEXT) -> Path:
    """The folder of the model `name`: a local folder, else an asset, else a hub id; raises BadInput."""
    offline = {asset.name for asset in assets().values() if asset.kind == "model"}
    if name in offline and not Path(name).is_dir():
        return fetch(name, cache)
    folder = Path(name).expanduser() if is_local(name) else _from_hub(name, cache, offline)
    _require_model(folder, kind)
    return folder


def is_local(name: str) -> bool:
    """Whether `name` is a path here, or is written like one, rather than a hub id."""
    return Path(name).expanduser().exists() or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of config, weights and tokenizer files, whatever the folder's own name."""
    total = hashlib.sha256()
    for path in _files(folder, FILES):
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def read_config(folder: Path, kind: Kind = TEXT) -> PreTrainedConfig:
    """The model's configuration; raises BadInput where transformers cannot classify with such a model."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput("model", f"{folder}/config.json: {first_line(error)}", "a config transformers knows") from error
    if type(config) not in kind.architectures:
        raise BadInput("model", f"{config.model_type} at {folder} has no classifier of {kind.classifies}", kind.example)
    return config


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer; raises BadInput where the folder has none that can be read."""
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput("model", f"no tokenizer in {folder}: {first_line(error)}", "tokenizer.json") from error


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills up a short example: the pad token, or where a decoder has none the end token."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise BadInput("model", "its tokenizer has neither a pad nor an end token", "one of them")


def positions(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens an example may have: what the tokenizer allows, and the model's table of positions."""
    settings: Mapping[str, Any] = config.to_dict()
    rows = int(settings.get("max_position_embeddings") or tokenizer.model_max_length)
    if config.model_type in _COUNT_FROM_PAD:
        rows -= int(settings["pad_token_id"]) + 1
    return min(rows, tokenizer.model_max_length)


def load_classifier(
    folder: str, labels: Sequence[str], pad: int, dtype: torch.dtype, attention: str
) -> tuple[nn.Module, frozenset[str]]:
    """The frozen model of text with a logit for each of the labels, and the modules its checkpoint lacked."""
    model, lacking = _loaded(AutoModelForSequenceClassification, folder, labels, dtype, attention)
    # Decoders find an example's last token by the pad id; set after loading, else the row of an end token that pads
    # would count as a padding row of the embedding.
    model.config.pad_token_id = pad
    model.config.use_cache = False
    return model, lacking


def load_image_classifier(
    folder: str, labels: Sequence[str], dtype: torch.dtype, attention: str
) -> tuple[nn.Module, frozenset[str]]:
    """The frozen model of images with a logit for each of the labels, and the modules its checkpoint lacked."""
    return _loaded(AutoModelForImageClassification, folder, labels, dtype, attention)


def _loaded(
    architecture: Any, folder: str, labels: Sequence[str], dtype: torch.dtype, attention: str
) -> tuple[PreTrainedModel, frozenset[str]]:
    """The model in eval mode, no weight to be trained.

    The modules that were lacking (the head: a last layer, in some models a pooler too) hold values drawn from torch's
    global generator; a trial brings its own.
    """
    try:
        with quiet():
            model, found = architecture.from_pretrained(
                folder,
                num_labels=len(labels),
                dtype=dtype,
                attn_implementation=attention,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # a head for another number of classes is no head of ours
                output_loading_info=True,
            )
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput("model", f"{folder} cannot be loaded: {first_line(error)}", "a complete checkpoint") from error
    mismatched = {key for key, *_ in found["mismatched_keys"]}
    _require_body(folder, model, mismatched | set(found["missing_keys"]))
    model.config.id2label = dict(enumerate(labels))  # what a model that is exported calls its classes
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.eval().requires_grad_(False)
    return model, frozenset(key.rpartition(".")[0] for key in mismatched | set(found["missing_keys"]))


def first_line(error: BaseException) -> str:
    """What a library's error says, cut to one line of ours."""
    return str(error).strip().split("\n")[0]


def _from_hub(name: str, cache: Path, offline: Iterable[str]) -> Path:
    try:
        with quiet():
            return Path(snapshot_download(name, cache_dir=cache / HUB, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:
        raise BadInput(
            "model",
            f"{name!r} is no local folder, and the hub gave no such model or is out of reach: {first_line(error)}",
            f"offline: {', '.join(sorted(offline))}, or a folder",
        ) from error


def _require_model(folder: Path, kind: Kind) -> None:
    if not folder.is_dir():
        raise BadInput("model", f"{folder} is not a folder", f"a folder with {', '.join(kind.parts)}")
    for need, patterns in kind.parts.items():
        if not _files(folder, patterns):
            raise BadInput("model", f"{folder} has no {need}", "a folder written by save_pretrained")


def _require_body(folder: str, model: PreTrainedModel, lacking: set[str]) -> None:
    """A head may be lacking; a block of the body may not: its weights would be noise that looks pretrained."""
    blocks = sorted(key for key in lacking if re.match(rf"{model.base_model_prefix}\..*\.\d+\.", key))
    if blocks:
        raise BadInput(
            "model", f"the weights in {folder} lack {blocks[0]} or have another shape", "config's own weights"
        )


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
