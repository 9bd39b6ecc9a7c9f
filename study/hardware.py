"""What this machine is, and what follows from it: device, dtype, free memory, what provenance says."""

import os
import platform
import re
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
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


def fast_device() -> str:
    """cuda where there is one, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fast_dtype(device: str) -> str:
    """bf16 where the device multiplies it natively (about twice as fast), else fp32."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", _cpuinfo()) else "fp32"


def free_memory(device: str) -> int:
    """Bytes that nobody uses now, of the device or of this machine; a container's limit counts."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return min(_available(), _left_to_container())


def memory(device: str) -> int:
    """Bytes that this process has now; its peak on a CUDA device is counted anew from here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else peak_memory(device)


def peak_memory(device: str) -> int:
    """The most bytes that this process has had."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def provenance() -> dict[str, str]:
    """Versions, commit and hardware, recorded with every result."""
    model = re.search(r"^model name\s*: (.+)$", _cpuinfo(), re.MULTILINE)
    return {
        "python": platform.python_version(),
        "machine": f"{model[1] if model else platform.machine()}, {cores()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "commit": _commit(),
    } | {name: version(name) for name in RECORDED}


def _available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists() and (told := re.search(r"^MemAvailable:\s*(\d+) kB", meminfo.read_text(), re.MULTILINE)):
        return int(told[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_to_container(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """What a memory limit of control groups, version 2, leaves; the files it has cached can be had back."""
    most, now, details = folder / "memory.max", folder / "memory.current", folder / "memory.stat"
    if not most.exists() or (limit := most.read_text().strip()) == "max":
        return sys.maxsize
    cached = re.search(r"^inactive_file (\d+)", details.read_text(), re.MULTILINE)
    return int(limit) - int(now.read_text()) + (int(cached[1]) if cached else 0)


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
