"""What this process runs on, in plain numbers and words."""

import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path

import torch

from lumigraph.kernels import _native


def versions() -> dict[str, str]:
    """What made a run, for its run.json: programs, platform, instruction set."""
    return {
        "lumigraph": version("lumigraph") or "?",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "instruction_set": _native.active_level(),
        "threads": str(torch.get_num_threads()),
    }


def version(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def peak_memory_mb() -> int:
    """The most memory this process has held so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def processor() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
