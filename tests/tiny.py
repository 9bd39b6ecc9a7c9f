"""A model, a tokenizer and a data set made on the spot: the real code paths, made small."""

import csv
import random
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    BertConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    ViTConfig,
)

from study.tasks.quiet import quiet

Kind = Literal["bert", "llama", "roberta", "vit"]

# A sentence's label is the mood of its one word from MOODS; the rest says nothing about it.
MOODS = {"positive": ("lovely", "bright", "superb"), "negative": ("dreadful", "gloomy", "tedious")}
PLAIN = ("the", "a", "film", "story", "actor", "scene", "with", "and", "of", "about", "its", "very", "quite", "long")

# Wide enough that random features differ between sentences; a model with the usual .02 barely reacts to its input.
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SPREAD = 0.2


def tiny_model(folder: Path, kind: Kind = "bert", seed: int = 0) -> Path:
    """A random model of 2 layers of 32 without a head, in `folder` as save_pretrained writes it.

    Text models come with a tokenizer for the words of `tiny_data`. "llama" has no pad token, as most decoders;
    "roberta" counts its positions from the pad token; "vit" sees 1 x 8 x 8 images in 4 patches.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = 0 if kind == "vit" else _save_tokenizer(folder, kind)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        AutoModel.from_config(_config(kind, words)).save_pretrained(folder)
    return folder


def tiny_data(folder: Path, rows: int = 120, seed: int = 0) -> Path:
    """A csv of distinct sentences with columns text, label: half positive, half negative, told apart by one word."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sentences.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *_sentences(rows, random.Random(seed))])
    return path


def _sentences(rows: int, generator: random.Random) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    while len(found) < rows:
        label = ("positive", "negative")[len(found) % 2]
        words = generator.choices(PLAIN, k=generator.randint(3, 9))
        words.insert(generator.randint(0, len(words)), generator.choice(MOODS[label]))
        found.setdefault(" ".join(words), label)
    return list(found.items())


def _config(kind: Kind, words: int) -> PreTrainedConfig:
    match kind:
        case "bert":
            return BertConfig(vocab_size=words, max_position_embeddings=64, initializer_range=SPREAD, **SHAPE)
        case "roberta":
            return RobertaConfig(
                vocab_size=words, max_position_embeddings=66, type_vocab_size=1, initializer_range=SPREAD, **SHAPE
            )
        case "llama":
            return LlamaConfig(
                vocab_size=words, max_position_embeddings=64, num_key_value_heads=2, bos_token_id=0, eos_token_id=1,
                initializer_range=SPREAD, **SHAPE,
            )  # fmt: skip
        case "vit":
            return ViTConfig(image_size=8, patch_size=4, num_channels=1, initializer_range=SPREAD, **SHAPE)


def _save_tokenizer(folder: Path, kind: Kind) -> int:
    """Train on the words above and save; returns how many ids there are."""
    text = [" ".join((*PLAIN, *MOODS["positive"], *MOODS["negative"]))] * 4
    tokenizer, names = _wordpiece(text) if kind == "bert" else _bytes(text, kind)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
    return tokenizer.get_vocab_size()


def _wordpiece(text: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        text, trainers.WordPieceTrainer(vocab_size=200, special_tokens=list(names.values()), show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer, names


def _bytes(text: list[str], kind: Kind) -> tuple[Tokenizer, dict[str, str]]:
    names = {"bos_token": "<s>", "eos_token": "</s>"} | ({"pad_token": "<pad>"} if kind == "roberta" else {})
    special = ["<s>", "<pad>", "</s>"] if kind == "roberta" else ["<s>", "</s>"]  # ids as each family has them
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    ends = ("<s> $A </s>", "<s> $A </s> $B:1 </s>:1") if kind == "roberta" else ("<s> $A", "<s> $A $B")
    tokens = [(token, tokenizer.token_to_id(token)) for token in special]
    tokenizer.post_processor = processors.TemplateProcessing(single=ends[0], pair=ends[1], special_tokens=tokens)
    return tokenizer, names
