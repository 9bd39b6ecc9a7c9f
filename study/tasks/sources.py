"""Labelled text: read from a file, a folder or the hub, and cut into splits that share no content."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets.exceptions import DatasetsError

from study.errors import BadInput
from study.tasks.base import SPLITS, Source
from study.tasks.models import first_line, is_local
from study.tasks.quiet import quiet

Label = int | str

FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
SHARE = 5  # a split cut from train takes at most one row in five, however many were asked for


class Row(NamedTuple):
    """One example as its data set has it; `pair` is None where a task reads one text."""

    text: str
    pair: str | None
    label: Label


def read(source: Source, cache: Path) -> dict[str, list[Row]]:
    """The labelled rows of each split the data set has; raises BadInput naming the field that cannot be used.

    Rows without text or label are left out, and so are those whose class is -1, the hub's sign for a hidden label.
    """
    found = {name: data for name, data in _open(source, cache).items() if name in SPLITS}
    if "train" not in found:
        raise BadInput(
            "data", f"{source.path} has no split named train", "train; validation and test where it has them"
        )
    return {name: _rows(data, source) for name, data in found.items()}


def classes(rows: Iterable[Row]) -> list[Label]:
    """The labels in sorted order: a label's class is its place. Numbers sort as numbers, anything else as text."""
    labels = {row.label for row in rows}
    if not labels:
        raise BadInput("data", "is empty once rows without text or label are left out", "at least 3 rows")
    if len(labels) < 2:
        raise BadInput("data.label", f"every row has the label {labels.pop()!r}", "at least 2 classes")
    return sorted(labels, key=lambda label: (isinstance(label, str), label))


def split(rows: Mapping[str, Sequence[Row]], maxima: Mapping[str, int]) -> dict[str, list[Row]]:
    """Train, validation and test, disjoint in content, whatever the order of the rows.

    A split the data set has is used; one it lacks is cut from train. Rows come in the order of a hash of their
    content, so a cut is a draw, the same every time, and a cap keeps the first of them. Of rows with equal content
    one is kept, and one that stands in two splits stays in test, else in validation.
    """
    own = {name: _distinct(rows.get(name, ())) for name in SPLITS}
    for name in ("test", "validation"):
        if not own[name]:
            own[name], own["train"] = _cut(own["train"], maxima[name])
    own["validation"] = _without(own["validation"], own["test"])
    own["train"] = _without(own["train"], own["test"] | own["validation"])
    for name in SPLITS:
        if not own[name]:
            raise BadInput("data", f"no row is left for {name}", f"{SHARE + 1} distinct rows, or splits of its own")
    return {name: list(own[name].values())[: maxima.get(name)] for name in SPLITS}


def fingerprint(rows: Iterable[Row], labels: Sequence[Label]) -> str:
    """SHA-256 over texts and classes, in order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(repr((row.text, row.pair, labels.index(row.label))).encode())
    return total.hexdigest()


def content(row: Row) -> str:
    """SHA-256 of what two rows share when they are the same text but for letter case and spacing, labels aside."""
    text = "\n".join(" ".join(part.casefold().split()) for part in (row.text, row.pair or ""))
    return hashlib.sha256(text.encode()).hexdigest()


def _distinct(rows: Iterable[Row]) -> dict[str, Row]:
    """One row per content, in the order of its hash; of equals the first in sorted order, whatever came first."""
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row.text, row.pair or "", str(row.label))):
        found.setdefault(content(row), row)
    return dict(sorted(found.items()))


def _cut(rows: Mapping[str, Row], most: int) -> tuple[dict[str, Row], dict[str, Row]]:
    items = list(rows.items())
    count = min(most, len(items) // SHARE)
    return dict(items[:count]), dict(items[count:])


def _without(rows: Mapping[str, Row], taken: Mapping[str, Row]) -> dict[str, Row]:
    return {key: row for key, row in rows.items() if key not in taken}


def _open(source: Source, cache: Path) -> Mapping[str, datasets.Dataset]:
    path = Path(source.path).expanduser()
    if not path.exists() and (is_local(source.path) or path.suffix in FORMATS):
        raise BadInput("data", f"{path} does not exist", "a file, a folder, or a hub id")
    if path.is_file() and path.suffix not in FORMATS:
        raise BadInput("data", f"{path.name} is of no format we read", ", ".join(FORMATS))
    try:
        with quiet():
            return _load(path, source.config, str(cache / "datasets"))
    except (OSError, ValueError, DatasetsError) as error:
        missing = "is not here, and the hub gave no such data set or is out of reach"
        problem = (
            f"{source.path!r} {'cannot be read' if path.exists() else missing}: {first_line(error.__cause__ or error)}"
        )
        raise BadInput("data", problem, "a file, a folder, or a hub id") from error


def _load(path: Path, config: str | None, cache: str) -> Mapping[str, datasets.Dataset]:
    if path.is_file():
        return datasets.load_dataset(FORMATS[path.suffix], data_files={"train": str(path)}, cache_dir=cache)
    if (path / "dataset_dict.json").is_file():
        return datasets.DatasetDict.load_from_disk(str(path))
    if (path / "state.json").is_file():
        return {"train": datasets.Dataset.load_from_disk(str(path))}
    return datasets.load_dataset(str(path), config, cache_dir=cache)


def _rows(data: datasets.Dataset, source: Source) -> list[Row]:
    texts = _texts(data, source, "text", source.text)
    pairs = _texts(data, source, "pair", source.pair) if source.pair else [None] * len(texts)
    labels = _column(data, source, "label", source.label)
    hidden = -1 if isinstance(data.features[source.label], datasets.ClassLabel) else None
    return [
        Row(text, pair, _label(label, source.label))
        for text, pair, label in zip(texts, pairs, labels, strict=True)
        if text.strip() and (pair is None or pair.strip()) and label not in (None, hidden)
    ]


def _texts(data: datasets.Dataset, source: Source, field: str, column: str) -> list[str]:
    values = _column(data, source, field, column)
    wrong = next((value for value in values if not isinstance(value, str | None)), None)
    if wrong is not None:
        raise BadInput(f"data.{field}", f"the column {column!r} of {source.path} holds {wrong!r}", "text")
    return [value or "" for value in values]


def _column(data: datasets.Dataset, source: Source, field: str, column: str) -> list[Any]:
    if column not in data.column_names:
        raise BadInput(f"data.{field}", f"{source.path} has no column {column!r}", ", ".join(data.column_names))
    return data[column][:]


def _label(value: object, column: str) -> Label:
    """Text as it is; a truth value or a whole number as an integer, also where missing labels made it a float."""
    if isinstance(value, str | int):
        return value if isinstance(value, str) else int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise BadInput("data.label", f"the column {column!r} holds {value!r}", "classes: text or whole numbers")
