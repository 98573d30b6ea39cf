"""The command `inspect`: what a capture holds, in numbers."""

from collections import Counter
from typing import Any

import torch

from lumigraph.app.training.inputs import automatic_downscale
from lumigraph.datasets import Capture
from lumigraph.recon import PRESETS

FLOATS_PER_SPLAT, COPIES = 59, 4
"""A splat of degree 3 has 59 numbers; their values, gradients and two moments of Adam are kept."""


def inspect_capture(capture: Capture) -> dict[str, Any]:
    """The facts of a capture as plain data."""
    frames = (*capture.train, *capture.test)
    cameras = [frame.camera for frame in frames]
    sizes = Counter(f"{camera.width}x{camera.height}" for camera in cameras)
    lenses = sorted({(round(c.focal[0], 1), round(c.focal[1], 1)) for c in cameras})
    positions = torch.stack([camera.position for camera in cameras]) if cameras else None
    image_bytes = sum(3 * camera.width * camera.height for camera in cameras)
    limit = PRESETS["standard"].splat_limit
    return {
        "name": capture.name,
        "train": len(capture.train),
        "test": len(capture.test),
        "sizes": dict(sizes),
        "lenses": len(lenses),
        "focal": [*lenses[0], *lenses[-1]] if lenses else None,
        "masks": sum(frame.mask is not None for frame in frames),
        "points": len(capture.points),
        "points_extent": _extent(capture.points),
        "cameras_extent": _extent(positions),
        "scene_size": 1 / capture.similarity.scale,
        "image_memory_mb": image_bytes >> 20,
        "splat_memory_mb": (limit * FLOATS_PER_SPLAT * 4 * COPIES) >> 20,
        "splat_limit": limit,
        "automatic_downscale": automatic_downscale(capture),
        "notes": list(capture.notes),
    }


def inspection_rows(facts: dict[str, Any]) -> list[tuple[str, Any]]:
    """The facts as a person reads them."""
    sizes = ", ".join(f"{size} ({count})" for size, count in facts["sizes"].items())
    focal = facts["focal"]
    lens = None
    if focal:
        lens = f"{facts['lenses']}, focal length {focal[0]:g} to {focal[2]:g} pixels"
    return [
        ("frames", f"{facts['train'] + facts['test']}"),
        ("train / test", f"{facts['train']} / {facts['test']}"),
        ("sizes", sizes),
        ("lenses", lens),
        ("masks", facts["masks"] or None),
        ("points", f"{facts['points']:,}"),
        ("extent of points", _box(facts["points_extent"])),
        ("extent of cameras", _box(facts["cameras_extent"])),
        ("memory for photos", f"{facts['image_memory_mb']:,} MB if all are in memory"),
        (
            "memory for splats",
            f"up to {facts['splat_memory_mb']:,} MB at {facts['splat_limit']:,} splats",
        ),
        ("--downscale", f"{facts['automatic_downscale']} unless you choose another"),
        *(("note", note) for note in facts["notes"]),
    ]


def _extent(points: torch.Tensor | None) -> list[list[float]] | None:
    """The lower and the upper corner of the points' bounding box."""
    if points is None or len(points) == 0:
        return None
    return [points.amin(0).tolist(), points.amax(0).tolist()]


def _box(extent: list[list[float]] | None) -> str | None:
    if extent is None:
        return None
    sides = (f"{low:.3g} to {high:.3g}" for low, high in zip(*extent, strict=True))
    return ", ".join(sides)
