"""The ray tracer of the built-in scene: analytic shapes, exact depth, antialiased pictures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lumigraph.kernels import _native
from lumigraph.kernels.splats.types import View

KINDS = ("ground", "ellipsoid", "box", "frustum", "shell", "rod")
"""What the first column of a shape counts."""

PATTERNS = ("plain", "dots", "mosaic", "bricks", "tiles", "gores", "rings", "checker")
"""What the first column of a material counts."""


@dataclass(frozen=True)
class TracedScene:
    """A scene as tables of float32; the columns are those of native/trace_shapes.h and _paint.h.

    Attributes:
        shapes: Kind, material, center, size, radius, top, cosine and sine of the turn. [shapes, 12]
        materials: Pattern, its measures, shine, four colours, range and twist. [materials, 24]
        puffs: Clouds: direction, width, height, weight. [puffs, 6]
        light: Direction to the sun, then sun, sky, bounce, zenith, horizon, cloud, glow. [24]
    """

    shapes: Tensor
    materials: Tensor
    puffs: Tensor
    light: Tensor


@dataclass(frozen=True)
class Surfaces:
    """What the rays through the centres of pixels meet first.

    Attributes:
        depth: Distance along the camera's axis; 0 where the ray meets nothing. [height, width]
        normals: Of length one, towards the camera, in the scene's frame. [height, width, 3]
        shapes: Rows of the table of shapes, or -1. int32 [height, width]
    """

    depth: Tensor
    normals: Tensor
    shapes: Tensor


def trace_picture(scene: TracedScene, view: View, *, threads: int | None = None) -> Tensor:
    """The antialiased picture of a traced scene, the same for any number of threads.

    Args:
        scene: What is seen.
        view: The camera.
        threads: To use; torch's number if None.

    Returns:
        uint8 [height, width, 3]
    """
    image = torch.empty(view.height, view.width, 3, dtype=torch.uint8)
    _native.trace_picture(*_tables(scene), _camera(view), image, threads or torch.get_num_threads())
    return image


def trace_surfaces(scene: TracedScene, view: View, *, threads: int | None = None) -> Surfaces:
    """The exact depth, normal and shape at each pixel's centre.

    Args:
        scene: What is seen.
        view: The camera.
        threads: To use; torch's number if None.
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
