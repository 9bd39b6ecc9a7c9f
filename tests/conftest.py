"""What every test gets: one thread, no network chatter, a shared cache of assets, and no process left behind."""

import os
from collections.abc import Iterator
from pathlib import Path

# Read by libraries when they are imported, so set before any test module is.
os.environ.update(
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)
for name in ("LORASCOPE_HOME", "MLFLOW_TRACKING_URI"):  # the caller's own study is not a test's business
    os.environ.pop(name, None)

import psutil  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
LAWS = ("test_variants.py", "test_minilm.py")
GRACE = 5.0  # seconds a child may take to be gone once its test is done
# Servants of the standard library, children of this process that live as long as it; one of them forks workers.
SERVANTS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where fetched assets are kept between runs: LORASCOPE_CACHE, else the checkout's own home."""
    return Path(os.environ.get("LORASCOPE_CACHE") or ROOT / ".lorascope" / "cache")


@pytest.fixture(autouse=True)
def _leaves_no_process() -> Iterator[None]:
    """Fails a test that leaves a child process running; one that a wider fixture started before it is not its own."""
    before = set(_children())
    yield
    _, left = psutil.wait_procs([child for child in _children() if child not in before], timeout=GRACE)
    told = [_command(child) for child in left]
    for child in left:
        child.kill()
    assert not left, f"processes left running: {told}"


def _children() -> list[psutil.Process]:
    """Running descendants of this process; a zombie has ended and only waits to be read."""
    mine = psutil.Process()
    servants = [child for child in mine.children() if any(name in _command(child) for name in SERVANTS)]
    return [child for child in mine.children(recursive=True) if _command(child) and child not in servants]


def _command(process: psutil.Process) -> str:
    """Its command line; empty where it has ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests run in one process and share its fixtures; the laws, which have none, run wherever one is idle."""
    for item in items:
        if item.path.name not in LAWS:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
