"""Files that appear whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path


def put(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name beside it first: under its own it is complete; the last one written stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    write(unfinished)
    unfinished.replace(path)
