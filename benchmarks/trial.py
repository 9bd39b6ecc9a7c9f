"""One trial of a rival's study, as the script that Optuna starts: load, train, evaluate, print the score.

python -m benchmarks.trial --side peft --model DIR --data DIR --targets REGEX --batch 8 --steps 100 ...
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoTokenizer, DataCollatorWithPadding, PreTrainedTokenizerBase, PrinterCallback, Trainer

from benchmarks.rivals import WAYS, adapted, arguments, stepper
from benchmarks.work import LENGTH, begin

AT_ONCE = 64  # examples an evaluation looks at together

Rows = list[dict[str, Any]]


def rows(file: Path, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """The examples of a csv: input_ids, attention_mask, labels."""
    with file.open(newline="", encoding="utf-8") as lines:
        read = list(csv.DictReader(lines))
    texts = tokenizer([row["text"] for row in read], truncation=True, max_length=LENGTH, return_token_type_ids=False)
    labels = [int(row["label"].removeprefix("c")) for row in read]
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": label}
        for ids, mask, label in zip(texts["input_ids"], texts["attention_mask"], labels, strict=True)
    ]


def loop(model: PeftModel, train: Rows, collate: DataCollatorWithPadding, asked: argparse.Namespace) -> None:
    """The plain loop: a fresh shuffle every epoch."""
    step, order = stepper(model, asked.rate, WAYS[asked.side].autocast), list[int]()
    for _ in range(asked.steps):
        while len(order) < asked.batch:
            order += torch.randperm(len(train)).tolist()
        chosen, order = order[: asked.batch], order[asked.batch :]
        batch = collate([train[i] for i in chosen])
        step((batch, batch["labels"]))


def trained(model: PeftModel, train: Rows, collate: DataCollatorWithPadding, asked: argparse.Namespace) -> None:
    """The same under HF Trainer."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, arguments(folder, asked.batch, asked.steps, asked.rate), collate, train)
        trainer.remove_callback(PrinterCallback)
        trainer.train()


@torch.no_grad()
def accuracy(model: PeftModel, split: Rows, collate: DataCollatorWithPadding, autocast: bool) -> float:
    """The share of a split that is told right."""
    model.eval()
    return sum(_right(model, split[i : i + AT_ONCE], collate, autocast) for i in range(0, len(split), AT_ONCE)) / len(
        split
    )


def _right(model: PeftModel, some: Sequence[dict[str, Any]], collate: DataCollatorWithPadding, autocast: bool) -> int:
    batch = collate(list(some))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return int((logits.argmax(-1) == batch["labels"]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=WAYS, required=True)
    for name in ("--model", "--data"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--targets", required=True)
    for name in ("--batch", "--steps", "--rank", "--seed"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--rate", "--alpha"):
        parser.add_argument(name, type=float, required=True)
    asked = parser.parse_args()
    begin()
    torch.manual_seed(asked.seed)
    way, tokenizer = WAYS[asked.side], AutoTokenizer.from_pretrained(asked.model)
    model = adapted(asked.model, asked.targets, asked.rank, asked.alpha, way)
    train, validation = (rows(asked.data / f"{split}.csv", tokenizer) for split in ("train", "validation"))
    collate = DataCollatorWithPadding(tokenizer)
    (trained if asked.side == "trainer" else loop)(model, train, collate, asked)
    print(json.dumps(accuracy(model, validation, collate, way.autocast)))


if __name__ == "__main__":
    main()
