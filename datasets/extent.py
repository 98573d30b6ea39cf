"""The centre and the size of a capture's scene, and random points that its cameras see."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lumigraph.datasets.capture import Capture
from lumigraph.render import Camera, Similarity, focus_of

POINTS_NEEDED = 50
"""With fewer known points than this, the cameras tell the scene's centre better."""

NEAR, FAR = 0.3, 1.7
"""Random points are at these multiples of a camera's distance to the scene's centre: in front of
the centre and behind it, but not close to the lens, nor farther behind it than other cameras."""

SEEN_BY = 0.2
"""Least share of the cameras that see a random point, so that a fit can find its depth."""


def similarity_for(cameras: Sequence[Camera], points: Tensor) -> Similarity:
    """The frame with the scene's centre at zero and nine tenths of the cameras at most 1 away.

    The centre is the median of the points, else the point nearest to all optical axes. 3DGS takes
    the cameras' mean and their largest distance from it (arXiv 2308.04079, "nerf normalisation").
    In contrast, this frame does not follow a stray camera, and does not shrink if all photos were
    taken side by side.

    Args:
        cameras: The cameras in the capture's frame.
        points: Known points in the same frame; may be empty. [points, 3]
    """
    if not cameras:
        return Similarity.identity()
    positions, _ = _axes(cameras)
    origin = points.median(0).values if len(points) >= POINTS_NEEDED else focus_of(cameras)
    radius = float((positions - origin).norm(dim=1).quantile(0.9))
    if radius <= 0 and len(points):  # All cameras are at the median of the points.
        radius = float((points - origin).norm(dim=1).median())
    return Similarity(origin, 1 / radius if radius > 0 else 1.0)


def random_points(capture: Capture, count: int, seed: int) -> Tensor:
    """Random points that at least a fifth of the cameras see, the same for the same seed.

    Each point is drawn along a random pixel of a random camera, with an even distribution of depths
    around the capture's centre. A fit starts from these if the capture has no points.

    Args:
        capture: The capture, with at least one training view.
        count: The number of points.
        seed: The seed of the random generator.

    Returns:
        The points in the capture's frame. float64 [count, 3]

    Raises:
        ValueError: The capture has no training view.
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
            needed = max(1, needed // 2)  # These cameras share less of the scene.
    return found[:count]


def _axes(cameras: Sequence[Camera]) -> tuple[Tensor, Tensor]:
    """Positions and viewing directions. [cameras, 3] each"""
    positions = torch.stack([camera.position for camera in cameras])
    return positions, torch.stack([camera.world_to_camera[2, :3] for camera in cameras])


def _distances(cameras: Sequence[Camera], similarity: Similarity) -> Tensor:
    """Each camera's depth of the scene's centre, or the scene's size if it looks away. [cameras]"""
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
    """The number of cameras that see each point. [points]"""
    count = torch.zeros(len(points), dtype=torch.int64)
    for camera in cameras:
        pixels, depth = camera.project(points)
        size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
        count += (depth > camera.near) & ((pixels >= 0) & (pixels < size)).all(1)
    return count
