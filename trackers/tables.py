"""Trials from a file: CSV, parquet, JSON or JSON lines, by its ending."""

import csv
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from study.errors import BadInput
from study.foreign.source import Source

EMPTY = ["", "nan", "NaN", "NAN", "NA", "null"]  # "None" is a level: many a schedule is called that


def trials(path: Path) -> Source:
    """The file's rows. Raises BadInput where it is missing, of another kind, or not what its ending says."""
    if not path.is_file():
        raise BadInput(str(path), "does not exist" if not path.exists() else "is no file", "a table of trials")
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise BadInput(str(path), f"{path.suffix or 'no ending'!r} is not known", ", ".join(READERS))
    try:
        frame = read(path)
    except (
        ValueError,
        OSError,
        pd.errors.ParserWarning,
    ) as error:  # what pandas and pyarrow raise about a file's content
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(str(path), f"cannot be read: {reason}", f"a file that is what {path.suffix} says") from None
    return Source(path.stem, frame.rename(columns=str).rename_axis("row"))


def from_csv(path: Path) -> pd.DataFrame:
    """With the header's own names: pandas would call the second `x` `x.1`."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = next(csv.reader(file), [])
    if not header:
        raise ValueError("it is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # else pandas drops what the header does not name
        frame = pd.read_csv(path, encoding="utf-8-sig", keep_default_na=False, na_values=EMPTY, index_col=False)
    return frame.set_axis(header, axis=1)


def from_json(path: Path) -> pd.DataFrame:
    """A list of objects, or columns by name."""
    return pd.read_json(path)


def from_json_lines(path: Path) -> pd.DataFrame:
    """An object a line."""
    return pd.read_json(path, lines=True)


READERS: Mapping[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": from_csv,
    ".parquet": pd.read_parquet,
    ".jsonl": from_json_lines,
    ".json": from_json,
}
