"""Cameras and the similarity transforms that move them."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lumigraph.kernels import View


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with OpenCV axes (x right, y down, z forward) and pixel centres at +0.5.

    Attributes:
        world_to_camera: Rigid transform, float64, always on the CPU. [4, 4]
        focal: Focal lengths in pixels, (x, y).
        center: Principal point in pixels, (x, y).
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        near: Depth of the near plane, in the units of the scene; nearer splats are not drawn.
    """

    world_to_camera: Tensor
    focal: tuple[float, float]
    center: tuple[float, float]
    width: int
    height: int
    near: float = 0.01

    @cached_property
    def position(self) -> Tensor:
        """The centre of projection in the scene's frame. [3]"""
        return -self.world_to_camera[:3, :3].T @ self.world_to_camera[:3, 3]

    @cached_property
    def view(self) -> View:
        """This camera as an argument of the kernels."""
        rows = tuple(self.world_to_camera[:3].flatten().tolist())
        return View(rows, self.focal, self.center, self.width, self.height, self.near)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Projects points of the scene to pixels and depths along the camera's axis.

        Args:
            points: Points in the scene's frame. [..., 3]

        Returns:
            Pixel coordinates (column, row), valid where the depth is positive. [..., 2]
            Depths. [...]
        """
        matrix = self.world_to_camera.to(points)
        x, y, depth = (points @ matrix[:3, :3].T + matrix[:3, 3]).unbind(-1)
        column = x / depth * self.focal[0] + self.center[0]
        row = y / depth * self.focal[1] + self.center[1]
        return torch.stack([column, row], dim=-1), depth

    def unproject(self, pixels: Tensor, depth: Tensor) -> Tensor:
        """The points of the scene at given pixels and depths: the inverse of `project`.

        Args:
            pixels: Pixel coordinates (column, row). [..., 2]
            depth: Distance along the axis. [...]

        Returns:
            Points in the scene's frame. [..., 3]
        """
        x = (pixels[..., 0] - self.center[0]) / self.focal[0] * depth
        y = (pixels[..., 1] - self.center[1]) / self.focal[1] * depth
        matrix = self.world_to_camera.to(pixels)
        return (torch.stack([x, y, depth], dim=-1) - matrix[:3, 3]) @ matrix[:3, :3]

    def resized(self, width: int, height: int) -> "Camera":
        """The camera with another image size; the image shows the same part of the scene."""
        x, y = width / self.width, height / self.height
        return replace(
            self,
            focal=(self.focal[0] * x, self.focal[1] * y),
            center=(self.center[0] * x, self.center[1] * y),
            width=width,
            height=height,
        )


@dataclass(frozen=True)
class Similarity:
    """A translation and a scaling of space: x -> (x - origin) * scale.

    It has no rotation, so splats keep their orientation and their harmonics exactly.

    Attributes:
        origin: The point that moves to zero, float64. [3]
        scale: New units per old unit.
    """

    origin: Tensor
    scale: float

    @staticmethod
    def identity() -> "Similarity":
        """The transform that changes nothing."""
        return Similarity(torch.zeros(3, dtype=torch.float64), 1.0)

    def inverse(self) -> "Similarity":
        """The transform that undoes this one."""
        return Similarity(-self.origin * self.scale, 1 / self.scale)

    def points(self, points: Tensor) -> Tensor:
        """The transformed points, computed in float64 and returned in their own type. [..., 3]"""
        moved = (points.double() - self.origin.to(points.device)) * self.scale
        return moved.to(points.dtype)

    def camera(self, camera: Camera) -> Camera:
        """The transformed camera, which sees the transformed scene as `camera` sees the scene."""
        matrix = camera.world_to_camera.clone()
        rotation, translation = matrix[:3, :3], matrix[:3, 3].clone()
        matrix[:3, 3] = (rotation @ self.origin + translation) * self.scale
        return replace(camera, world_to_camera=matrix, near=camera.near * self.scale)
