"""A ray tracer on the CPU: analytic shapes, exact depth, antialiased pictures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lumigraph.kernels import _native
from lumigraph.kernels.splats.types import View

KINDS = ("ground", "ellipsoid", "box", "frustum", "shell", "rod")
"""Kinds of shape: the first column of the shapes is an index into these."""

PATTERNS = ("plain", "dots", "mosaic", "bricks", "tiles", "gores", "rings", "checker")
"""Patterns of paint: the first column of the materials is an index into these."""


@dataclass(frozen=True)
class TracedScene:
    """A scene as tables of float32, with the columns of native/tracer/shapes.h and paint.h.

    Attributes:
        shapes: Kind, material, center, size, radius, top, cosine and sine of the turn. [shapes, 12]
        materials: Pattern, its measures, shine, four colours, range and twist. [materials, 24]
        puffs: Clouds: direction, width, height and weight of each. [puffs, 6]
        light: Direction to the sun, then sun, sky, bounce, zenith, horizon, cloud, glow. [24]
    """

    shapes: Tensor
    materials: Tensor
    puffs: Tensor
    light: Tensor


@dataclass(frozen=True)
class Surfaces:
    """The first surface on the ray through each pixel's centre.

    Attributes:
        depth: Distance along the camera's axis; 0 where there is no surface. [height, width]
        normals: Unit normals towards the camera, in the scene's frame. [height, width, 3]
        shapes: Rows of the table of shapes, -1 where there is no surface. int32 [height, width]
    """

    depth: Tensor
    normals: Tensor
    shapes: Tensor


def trace_picture(scene: TracedScene, view: View, *, threads: int | None = None) -> Tensor:
    """The antialiased picture of a traced scene, the same for any number of threads.

    Args:
        scene: The tables of the scene.
        view: The camera.
        threads: The number of threads; that of torch if None.

    Returns:
        uint8 [height, width, 3]
    """
    image = torch.empty(view.height, view.width, 3, dtype=torch.uint8)
    _native.trace_picture(*_tables(scene), _camera(view), image, threads or torch.get_num_threads())
    return image


def trace_surfaces(scene: TracedScene, view: View, *, threads: int | None = None) -> Surfaces:
    """The exact depth, normal and shape at each pixel's centre.

    Args:
        scene: The tables of the scene.
        view: The camera.
        threads: The number of threads; that of torch if None.
    """
    depth = torch.empty(view.height, view.width)
    normals = torch.empty(view.height, view.width, 3)
    shapes = torch.empty(view.height, view.width, dtype=torch.int32)
    _native.trace_surfaces(
        *_tables(scene), _camera(view), depth, normals, shapes, threads or torch.get_num_threads()
    )
    return Surfaces(depth, normals, shapes)


def _tables(scene: TracedScene) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return scene.shapes, scene.materials, scene.puffs, scene.light


def _camera(view: View) -> Tensor:
    """The camera as the kernel takes it: rotation, translation, focal, center. [16]"""
    matrix = torch.tensor(view.world_to_camera).reshape(3, 4)
    tail = torch.tensor([*view.focal, *view.center])
    return torch.cat([matrix[:, :3].flatten(), matrix[:, 3], tail])
