"""Where a capture's scene is, how large it is, and what its cameras see of it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lumigraph.datasets.capture import Capture
from lumigraph.render import Camera, Similarity, focus_of

POINTS_NEEDED = 50
"""Fewer points than this say less of where the scene is than the cameras do."""

NEAR, FAR = 0.3, 1.7
"""Random points lie at these multiples of a camera's distance to the scene's centre: on both sides
of what is looked at, not before the lens, and no farther behind it than the cameras go around."""

SEEN_BY = 0.2
"""Share of the cameras that see a random point, so that it can be placed in depth."""


def similarity_for(cameras: Sequence[Camera], points: Tensor) -> Similarity:
    """The frame in which the scene is about zero and nine tenths of the cameras within one of it.

    The origin is the median of the points, else the point nearest to all optical axes. Unlike the
    largest distance of a camera from their mean, which 3DGS takes (arXiv 2308.04079, "nerf
    normalisation"), it does not follow a stray camera, nor shrink with the baseline of photos that
    were taken side by side.

    Args:
        cameras: In the capture's frame.
        points: Known points in the same frame; may be empty. [points, 3]
    """
    if not cameras:
        return Similarity.identity()
    positions, _ = _axes(cameras)
    origin = points.median(0).values if len(points) >= POINTS_NEEDED else focus_of(cameras)
    radius = float((positions - origin).norm(dim=1).quantile(0.9))
    if radius <= 0 and len(points):  # A panorama whose one place is the median of its points.
        radius = float((points - origin).norm(dim=1).median())
    return Similarity(origin, 1 / radius if radius > 0 else 1.0)


def random_points(capture: Capture, count: int, seed: int) -> Tensor:
    """Random points in front of at least a fifth of the cameras, the same for the same seed.

    Each is drawn along a random pixel of a random camera, evenly in depth about the capture's
    centre. Without points of its own a fit starts from these.

    Args:
        capture: With at least one frame to learn from.
        count: How many.
        seed: Of the generator.

    Returns:
        In the capture's frame. float64 [count, 3]
    """
    cameras = [frame.camera for frame in capture.train]
    if not cameras:
        raise ValueError(f"{capture.name} has no frames to learn from: hold out fewer test views")
    generator = torch.Generator().manual_seed(seed)
    distance = _distances(cameras, capture.similarity)
    needed = max(1, math.ceil(SEEN_BY * len(cameras)))
    found = torch.zeros(0, 3, dtype=torch.float64)
    while len(found) < count:
        drawn = _draw(cameras, distance, max(1024, (count - len(found)) * 5 // 4), generator)
        chosen = drawn[_views_of(cameras, drawn) >= needed]
        found = torch.cat([found, chosen])
        if len(chosen) < len(drawn) / 50:
            needed = max(1, needed // 2)  # Cameras that share less are content with less.
    return found[:count]


def _axes(cameras: Sequence[Camera]) -> tuple[Tensor, Tensor]:
    """Positions and viewing directions. [cameras, 3] each"""
    positions = torch.stack([camera.position for camera in cameras])
    return positions, torch.stack([camera.world_to_camera[2, :3] for camera in cameras])


def _distances(cameras: Sequence[Camera], similarity: Similarity) -> Tensor:
    """How far before each camera the scene's centre lies; its size for those that look away."""
    positions, forward = _axes(cameras)
    depth = ((similarity.origin - positions) * forward).sum(1)
    size = 1 / similarity.scale
    return torch.where(depth > 0.1 * size, depth, size)


def _draw(
    cameras: Sequence[Camera], distance: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Points along random pixels of random cameras. [count, 3]"""
    random = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    index = (random[:, 0] * len(cameras)).long().clamp_max(len(cameras) - 1)
    depth = distance[index] * (NEAR + (FAR - NEAR) * random[:, 3])
    points = torch.empty(count, 3, dtype=torch.float64)
    for i, camera in enumerate(cameras):
        rows = index == i
        size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
        points[rows] = camera.unproject(random[rows, 1:3] * size, depth[rows])
    return points


def _views_of(cameras: Sequence[Camera], points: Tensor) -> Tensor:
    """How many of the cameras see each point. [points]"""
    count = torch.zeros(len(points), dtype=torch.int64)
    for camera in cameras:
        pixels, depth = camera.project(points)
        size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
        count += (depth > camera.near) & ((pixels >= 0) & (pixels < size)).all(1)
    return count
