"""Where a user's studies live: one folder with the database, the MLflow store, spool, cache, adapters and reports."""

import os
from dataclasses import dataclass
from pathlib import Path

from study.errors import BadInput


@dataclass(frozen=True)
class Home:
    """The folder given by --home, else LORASCOPE_HOME, else ./.lorascope."""

    path: Path

    @property
    def storage(self) -> str:
        """The ledger's URL."""
        return f"sqlite:///{self.path / 'lorascope.db'}"

    @property
    def tracking(self) -> str:
        """The local MLflow store's URI."""
        return f"sqlite:///{self.path / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """What MLflow keeps as files."""
        return self.path / "artifacts"

    @property
    def cache(self) -> Path:
        """Downloaded models and data; LORASCOPE_CACHE puts it elsewhere, to be shared by several homes."""
        return Path(os.environ.get("LORASCOPE_CACHE") or self.path / "cache").absolute()

    @property
    def adapters(self) -> Path:
        """Trained adapters that are kept."""
        return self.path / "adapters"

    def spool(self, study: str) -> Path:
        """Calls on their way to a study's mirror."""
        return self.path / "spool" / study

    def curvature(self, study: str) -> Path:
        """Where the measured curvature of a study's variants is kept."""
        return self.path / "curvature" / f"{study}.json"

    def report(self, study: str) -> Path:
        """A study's report."""
        return self.path / "reports" / study


def home(given: Path | None) -> Home:
    """The home in charge, created if need be. Raises BadInput where it cannot be written."""
    path = (given or Path(os.environ.get("LORASCOPE_HOME") or ".lorascope")).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput(
            "home", f"{path} cannot be written: {error.strerror}", "a folder of yours, by --home or LORASCOPE_HOME"
        ) from None
    return Home(path)
