"""A study's mirror while the study runs: a spool that every process writes and a thread that uploads it to MLflow."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from study.redact import redact
from study.trial import Trial
from trackers.spool import SpoolReader, SpoolWriter
from trackers.uploader import Uploader

if TYPE_CHECKING:
    from trackers.mlflow import MlflowTracker


class Mirror:
    """Mirrors the study called `study` to the MLflow at `uri`; `writer` is what workers open, `tracker` is ours."""

    def __init__(self, uri: str, spool: Path, study: str, created: float, held: Callable[[Trial, str], None]) -> None:
        """`created`: seconds since 1970. `held(trial, run_id)` is told of every trial that is surely stored."""
        self.uri, self.study, self.place = uri, study, redact(uri)
        self.writer = partial(SpoolWriter, spool, "worker")
        self.tracker = SpoolWriter(spool, "controller")
        self._created, self._held = created, held
        self._uploader = Uploader(SpoolReader(spool), self._open)

    @property
    def remote(self) -> bool:
        """Whether the mirror is a server and not this home's own store."""
        return self.uri.startswith("http")

    @property
    def last_error(self) -> str:
        """Why the mirror is behind, in one line."""
        return self._uploader.last_error or "it is slow"

    def drain(self, timeout: float | None) -> int:
        """Wait for the upload of what is spooled now; how many calls are left."""
        return self._uploader.drain(timeout)

    def close(self, state: Literal["finished", "stopped"]) -> None:
        """End the upload and, where the mirror answers, the study's runs."""
        self._uploader.stop()
        self.tracker.close()
        if self._uploader.last_error is None:
            with suppress(OSError):  # gone just now: the next launch ends them
                self._open().close_cells(self.study, state)

    def keep_report(self, folder: Path) -> str | None:
        """Store a report beside the study's runs; why not, in one line, where the mirror does not take it."""
        if self._uploader.last_error is not None:
            return self.last_error
        try:
            self._open().keep_report(self.study, folder)
        except OSError as error:
            return str(error)
        return None

    def runs_page(self) -> str:
        """The address of the study's runs on the mirror's pages, an id follows; empty without a server that answers."""
        if not self.remote or self._uploader.last_error is not None:
            return ""
        with suppress(OSError):
            return self.place.rstrip("/") + self._open().page(self.study)
        return ""

    def _open(self) -> "MlflowTracker":
        from trackers.mlflow import MlflowTracker  # imported by the upload thread, while the workers start

        return MlflowTracker(self.uri, int(self._created * 1000), self._held)
