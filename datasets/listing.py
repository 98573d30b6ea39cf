"""The common form of all capture formats: listed photos with their cameras, and known points."""

import os.path
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lumigraph.datasets.files import shown
from lumigraph.datasets.lens import Lens

Split = Literal["train", "test", "unused"]

NAME_LIMIT = 4096
"""Most characters of a listed name: no system has longer paths."""

FAR = 1e12
"""Largest distance of cameras and points from the origin, in the capture's units, so that squares
of distances stay finite. Coordinates in a map's grid, in metres, are near 1e7."""

ROTATION_ERROR = 1e-2
"""Largest error of R^T R: files that round to three digits pass, matrices with a scale do not."""


@dataclass(frozen=True)
class Shot:
    """One listed photo, with an existing file.

    Attributes:
        name: The path as listed, with forward slashes and its suffix.
        path: The photo's file.
        lens: The lens for the listed size, or for the file's size if the format lists none.
        world_to_camera: The rigid pose, with OpenCV axes. float64 [4, 4]
        mask: The mask's file, which is white where the photo is used; None without a mask.
        split: The use that the format gives the photo, if it gives one.
    """

    name: str
    path: Path
    lens: Lens
    world_to_camera: Tensor
    mask: Path | None = None
    split: Split | None = None


@dataclass(frozen=True)
class Listing:
    """The content of a capture's files.

    Attributes:
        shots: The listed photos with an existing file.
        absent: The names of the other listed photos.
        looked_in: The folder that the names are relative to.
        points: Known points of the scene. float64 [points, 3]
        colors: The colours of the points. uint8 [points, 3]
        up: Direction away from the ground, or None if the format does not tell. float64 [3]
        notes: Sentences that tell the user what was found.
    """

    shots: tuple[Shot, ...]
    absent: tuple[str, ...]
    looked_in: Path
    points: Tensor
    colors: Tensor
    up: Tensor | None = None
    notes: tuple[str, ...] = ()


def no_points() -> tuple[Tensor, Tensor]:
    """The points and colours of a capture without points."""
    return torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.uint8)


def sound_points(points: np.ndarray, colors: np.ndarray) -> tuple[Tensor, Tensor]:
    """The points with finite coordinates no larger than `FAR`, and their colours.

    Args:
        points: float64 [points, 3]
        colors: uint8 [points, 3]
    """
    sound = (abs(points) <= FAR).all(1)  # NaN compares as false.
    return torch.from_numpy(points[sound]), torch.from_numpy(colors[sound])


def inside(folder: Path, name: str, source: Path) -> Path:
    """The path of a listed file, which must be inside its folder.

    Raises:
        ValueError: The name is absolute or leads out of the folder; names `source`, which lists it.
    """
    relative, depth = PurePosixPath(name), 0
    for part in relative.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            break
    if relative.is_absolute() or depth < 1 or "\0" in name or len(name) > NAME_LIMIT:
        raise ValueError(
            f"{source} lists {shown(name)}, which is not inside {folder}: copy the file into that "
            "folder and list it by its path there"
        )
    return folder / relative


def roots_of(folder: Path) -> tuple[Path, ...]:
    """The real folders that a capture's photos, masks and points may be in.

    They are the capture's own folder and, if its `images` is a symbolic link, the folder that it
    leads to, because the capture's owner made that link. No other link and no listed name may lead
    out of these folders.
    """
    return tuple(Path(os.path.realpath(path)) for path in (folder, folder / "images"))


def within(path: Path, roots: tuple[Path, ...], source: Path) -> Path:
    """The same path, after a check that its file is in one of the folders with links followed.

    Raises:
        ValueError: The file is in another place; names `source`, which lists it.
    """
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(root) for root in roots):
        raise ValueError(
            f"{path}, which {source} lists, is a link to {real} outside the capture: copy the file "
            "into the capture, or make its `images` a link to the folder of the photos"
        )
    return path


def rigid(matrix: np.ndarray, label: str) -> Tensor:
    """The pose with a rotation that is exact in float64. [4, 4]

    Args:
        matrix: Rotation and translation. [3, 4] or [4, 4]
        label: Names the owner of the pose in errors.

    Raises:
        ValueError: A number is not finite or too large, or the axes are no rotation.
    """
    if matrix.shape not in ((3, 4), (4, 4)):
        raise ValueError(f"{label} has a pose of shape {matrix.shape}, expected (4, 4)")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{label} has a pose that is not finite: {matrix[:3].tolist()}")
    if abs(matrix[:3, 3]).max() > FAR:
        raise ValueError(
            f"{label} has a pose that is {abs(matrix[:3, 3]).max():.3g} away from the origin, "
            f"expected at most {FAR:g}: move the capture to the origin"
        )
    rotation = matrix[:3, :3]
    error = abs(rotation.T @ rotation - np.eye(3)).max()
    if error > ROTATION_ERROR or np.linalg.det(rotation) < 0:
        raise ValueError(
            f"{label} has a pose that is no rotation and shift: its axes are off by {error:.2g} "
            f"and its determinant is {np.linalg.det(rotation):.3g}, expected 0 and 1"
        )
    left, _, right = np.linalg.svd(rotation)  # The nearest rotation (Kabsch 1976).
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(left @ right)
    pose[:3, 3] = torch.from_numpy(matrix[:3, 3].astype(np.float64))
    return pose
