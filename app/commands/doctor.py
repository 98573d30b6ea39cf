"""The command `doctor`: what works on this machine and what does not."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lumigraph.app.machine import chosen_device, cores, processor, version, versions
from lumigraph.app.run.film import ffmpeg
from lumigraph.datasets.cache import cache_folder
from lumigraph.datasets.images import available_memory
from lumigraph.kernels import _native
from lumigraph.kernels.splats import cuda


def examine() -> dict[str, Any]:
    """The facts of this machine as plain data."""
    cache = cache_folder()
    device, reason = chosen_device("auto")
    problem = cuda.probe()
    return {
        **versions(),
        "instruction_sets": _native.available_levels(),
        "cores": cores(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "memory_free_mb": available_memory() >> 20,
        "device": device,
        "device_reason": reason,
        "cuda": "works, but is unverified" if problem is None else f"not used: {problem}",
        "gsplat": version("gsplat"),
        "viser": version("viser"),
        "pycolmap": version("pycolmap"),
        "open3d": version("open3d") if find_spec("open3d") else None,
        "ffmpeg": ffmpeg(),
        "cache": str(cache),
        "cache_writable": _writable(cache),
    }


def doctor_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts as a person reads them."""
    rows = []
    for key, value in facts.items():
        match value:
            case None:
                shown = "not found"
            case bool():
                shown = "yes" if value else "no"
            case list():
                shown = ", ".join(value)
            case _:
                shown = str(value)
        rows.append((key.replace("_", " ").replace(" mb", ", MB"), shown))
    return rows + [("advice", sentence) for sentence in advice(facts)]


def advice(facts: dict[str, Any]) -> list[str]:
    """A sentence for each thing that is missing, with what to do about it."""
    sentences = []
    if not facts["cache_writable"]:
        sentences.append(f"{facts['cache']} cannot be written, so photos are not cached there")
    if facts["ffmpeg"] is None:
        sentences.append("ffmpeg is not installed: `lumigraph render` writes pictures but no film")
    if facts["open3d"] is None:
        sentences.append('open3d is not installed: install "lumigraph[mesh]" to make meshes')
    if facts["instruction_set"] != facts["instruction_sets"][-1]:
        sentences.append(
            f"The kernels use {facts['instruction_set']} although this processor has "
            f"{facts['instruction_sets'][-1]}: unset LUMIGRAPH_ISA"
        )
    if facts["memory_free_mb"] < 2048:
        sentences.append("Less than 2 GB of memory is free: use --downscale and --splat-limit")
    return sentences


def _writable(folder: Path) -> bool:
    """Whether a file can be made in the folder, or in its nearest parent that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
