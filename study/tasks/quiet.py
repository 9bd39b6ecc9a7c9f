"""Hugging Face libraries without their notices and progress bars: stdout and stderr belong to our own report."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import transformers.utils.logging as transformers_logging
from tqdm import tqdm

_LIBRARIES = ("transformers", "datasets", "huggingface_hub")

tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system: one that a killed worker leaks with a warning


@contextmanager
def quiet() -> Iterator[None]:
    """Within it these libraries print errors only; afterwards they are as they were."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    bars = (transformers_logging.is_progress_bar_enabled(), datasets.is_progress_bar_enabled())
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    _show_bars(False, False)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        _show_bars(*bars)


def _show_bars(models: bool, data: bool) -> None:
    (
        transformers_logging.enable_progress_bar if models else transformers_logging.disable_progress_bar
    )()  # and the hub's
    (datasets.enable_progress_bars if data else datasets.disable_progress_bars)()
