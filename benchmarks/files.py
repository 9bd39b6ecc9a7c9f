"""The files that both sides read: models of random weights with a tokenizer, and labelled text."""

import csv
import random
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

from benchmarks.work import CLASSES, LENGTH, SHAPES, SPECIAL, WORDS
from study.tasks.quiet import quiet

ROWS = {"train": 2000, "validation": 200, "test": 40}


def make_files(place: Path, shapes: Iterable[str]) -> Path:
    """A folder for each model, and `data`."""
    with quiet():
        for shape in shapes:
            make_model(shape, place / shape)
    make_data(place / "data")
    return place


def make_model(shape: str, folder: Path) -> None:
    """A BERT of random weights without a classifier, and a tokenizer of whole words, as save_pretrained writes them.

    No dropout: a packed trial has none either, and a rival is spared its cost.
    """
    sizes = SHAPES[shape]
    config = BertConfig(
        vocab_size=WORDS, hidden_size=sizes.hidden, num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads,
        intermediate_size=sizes.ff, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
    words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names).save_pretrained(folder)


def make_data(folder: Path) -> None:
    """A csv of each split with columns text, label: random words, a label that three of the words decide."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for split, count in ROWS.items():
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *(_sentence(generator) for _ in range(count))])


def _sentence(generator: random.Random) -> tuple[str, str]:
    count = generator.randint(LENGTH // 2, LENGTH) - 2  # [CLS] and [SEP] are tokens too
    label = generator.randrange(CLASSES)
    words = [f"w{generator.randrange(1000, WORDS)}" for _ in range(count - 3)]
    words += [f"w{100 * label + generator.randrange(100, 200)}" for _ in range(3)]
    generator.shuffle(words)
    return " ".join(words), f"c{label}"
