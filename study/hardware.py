"""What this machine is, and what follows from it: how many workers, which dtype, what provenance says."""

import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from joblib import cpu_count

RECORDED = (
    "lorascope",
    "torch",
    "transformers",
    "optuna",
    "mlflow",
    "datasets",
    "numpy",
    "scipy",
    "scikit-learn",
    "SALib",
)


def cores() -> int:
    """Cores that this process may use: affinity and container limits counted."""
    return cpu_count()


def fast_dtype() -> str:
    """bf16 where the processor multiplies it natively (about twice as fast), else fp32."""
    return "bf16" if re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", _cpuinfo()) else "fp32"


def provenance() -> dict[str, str]:
    """Versions, commit and hardware, recorded with every result."""
    model = re.search(r"^model name\s*: (.+)$", _cpuinfo(), re.MULTILINE)
    return {
        "python": platform.python_version(),
        "machine": f"{model[1] if model else platform.machine()}, {cores()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "commit": _commit(),
    } | {name: version(name) for name in RECORDED}


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _commit() -> str:
    """The commit of a development checkout; the version stands for an installed package."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return f"release {version('lorascope')}"
    told = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "unknown"
