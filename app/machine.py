"""The machine that this process runs on: versions, processor, memory, and the device to use."""

import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path

import torch

from lumigraph.kernels import _native
from lumigraph.kernels.splats import cuda


def versions() -> dict[str, str]:
    """The programs, platform and instruction set that make a run, for its run.json."""
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
    """The largest memory of this process so far, in MB."""
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
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_device(wanted: str) -> tuple[str, str]:
    """The device for "auto", "cpu" or "cuda", and a sentence that gives the reason.

    Raises ValueError if CUDA is asked for and does not work.
    """
    level = _native.active_level()
    if wanted == "cpu":
        return "cpu", f"On the CPU, as asked, with the {level} kernels"
    if wanted not in ("auto", "cuda"):
        raise ValueError(f"--device should be auto, cpu or cuda, but is {wanted!r}")
    problem = cuda.probe()
    if problem is None:
        return "cuda", f"On {torch.cuda.get_device_name()} with gsplat (unverified)"
    if wanted == "cuda":
        raise ValueError(f"--device cuda does not work here: {problem}")
    return "cpu", f"On the CPU with the {level} kernels: {problem}"
