"""The surfaces of the built-in scene as triangles."""

import math

import torch
from torch import Tensor

from lumigraph.datasets.demo_scene import demo_scene
from lumigraph.kernels.tracer import KINDS

TOLERANCE = 1e-3
"""Largest distance of a triangle from the round surface that it approximates, in metres."""

Mesh = tuple[Tensor, Tensor]


def demo_mesh(tolerance: float = TOLERANCE) -> Mesh:
    """Triangles of all surfaces of the built-in scene, in its frame, facing outwards.

    Every vertex is on its surface; between vertices, triangles differ from round surfaces by at
    most the tolerance. Surfaces that touch or intersect are not joined.

    Args:
        tolerance: The largest difference in metres.

    Returns:
        vertices: float64 [vertices, 3]
        faces: int64 [faces, 3]
    """
    vertices, faces, count = [], [], 0
    for row in demo_scene().shapes.double().tolist():
        points, triangles = _mesh_of(row, tolerance)
        vertices.append(points)
        faces.append(triangles + count)
        count += len(points)
    return torch.cat(vertices), torch.cat(faces)


def _mesh_of(row: list[float], tolerance: float) -> Mesh:
    """The triangles of one shape, a row of the table of shapes."""
    kind, _, x, y, z, a, b, c, radius, top, cosine, sine = row
    center = torch.tensor([x, y, z], dtype=torch.float64)
    match KINDS[int(kind)]:
        case "ground":
            points, faces = _lathe([(0.0, 0.0), (radius, 0.0)], _segments(radius, tolerance))
            faces = faces.flip(1)
        case "ellipsoid":
            points, faces = _ellipsoid((a, b, c), tolerance)
        case "box":
            points, faces = _box((a, b, c))
        case "frustum":
            profile = [(0.0, 0.0), (radius, 0.0), (top, c), (0.0, c)]
            points, faces = _lathe(profile, _segments(max(radius, top), tolerance))
        case "shell":
            points, faces = _lathe(
                [(radius, 0.0), (top, c)], _segments(max(radius, top), tolerance)
            )
        case _:
            points, faces = _lathe([(radius, 0.0), (radius, top)], _segments(radius, tolerance))
            return points @ _frame_along((a, b, c)) + center, faces
    turn = torch.tensor([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]], dtype=torch.float64)
    return points @ turn + center, faces


def _segments(radius: float, tolerance: float) -> int:
    """The number of chords for a circle, so that each is within the tolerance of its arc."""
    return max(8, math.ceil(math.pi / math.acos(max(1 - tolerance / radius, 0.0))))


def _lathe(profile: list[tuple[float, float]], segments: int) -> Mesh:
    """The surface that a profile sweeps around the z axis.

    Args:
        profile: Pairs of radius and height, in upward order along the outside.
        segments: The number of chords around the axis.
    """
    angles = torch.arange(segments, dtype=torch.float64) * (math.tau / segments)
    circle = torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], dim=1)
    rings = [
        circle * radius + torch.tensor([0.0, 0.0, height], dtype=torch.float64)
        for radius, height in profile
    ]
    here, faces = torch.arange(segments), []
    following = (here + 1) % segments
    for ring in range(len(profile) - 1):
        low, high = ring * segments, (ring + 1) * segments
        if profile[ring][0] > 0:
            faces.append(torch.stack([low + here, low + following, high + following], dim=1))
        if profile[ring + 1][0] > 0:
            faces.append(torch.stack([low + here, high + following, high + here], dim=1))
    return torch.cat(rings), torch.cat(faces)


def _ellipsoid(radii: tuple[float, float, float], tolerance: float) -> Mesh:
    segments = _segments(max(radii), tolerance / 2)
    steps = segments // 2
    angles = [math.pi * (i / steps - 0.5) for i in range(steps + 1)]
    profile = [(math.cos(angle), math.sin(angle)) for angle in angles]
    profile[0], profile[-1] = (0.0, -1.0), (0.0, 1.0)
    points, faces = _lathe(profile, segments)
    return points * torch.tensor(radii, dtype=torch.float64), faces


def _box(half: tuple[float, float, float]) -> Mesh:
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))]
    return signs * torch.tensor(half, dtype=torch.float64), torch.tensor(faces)


def _frame_along(axis: tuple[float, float, float]) -> Tensor:
    """Rows of a rotation that turns the z axis to `axis`. [3, 3]"""
    z = torch.tensor(axis, dtype=torch.float64)
    z = z / z.norm()
    # A unit vector along the axis' smallest component is never parallel to the axis.
    helper = torch.zeros(3, dtype=torch.float64)
    helper[z.abs().argmin()] = 1
    x = torch.linalg.cross(helper, z)
    x = x / x.norm()
    return torch.stack([x, torch.linalg.cross(z, x), z])
