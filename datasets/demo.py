"""The built-in scene as a capture on disk, and its exact depth and normals."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lumigraph.datasets.cache import cache_folder
from lumigraph.datasets.capture import Capture
from lumigraph.datasets.demo_scene import demo_scene
from lumigraph.datasets.images import save_png
from lumigraph.datasets.load import TEST_LIST, load_capture
from lumigraph.kernels.tracer import Surfaces, trace_picture, trace_surfaces
from lumigraph.render import Camera, look_at
from lumigraph.render.rotations import quaternions_from_matrices

DemoSize = Literal["tiny", "small", "full"]

Progress = Callable[[int, int], None]
"""Is called with the number of finished pictures and the number of all pictures."""

VERSION = 3
"""Part of the name of the cached capture: raise it whenever the pictures change."""

FOCAL = 460 / 480
"""Focal length as a multiple of the picture's width: a field of view of 55 degrees."""

ORBITS = ((5.20, 1.35, 1.12, 0.40), (4.80, 2.50, 0.90, 0.35), (4.20, 3.70, 0.70, 0.25))
"""For each ring of cameras: radius, height, height of the target, and share of all views."""

WANDER = 0.12
"""Largest distance of test cameras from the rings, in metres, so that no training view is near."""

POINT_NOISE = 0.3
"""Standard deviation of the known points in pixels, similar to structure from motion."""


@dataclass(frozen=True)
class _Extent:
    """The number and size of the pictures, and the number of known points."""

    train: int
    test: int
    width: int
    height: int
    points: int


SIZES: dict[DemoSize, _Extent] = {
    "tiny": _Extent(train=24, test=8, width=48, height=36, points=500),
    "small": _Extent(train=40, test=40, width=160, height=120, points=5_000),
    "full": _Extent(train=80, test=200, width=480, height=360, points=40_000),
}


def demo_cameras(size: DemoSize = "full", *, seed: int = 0) -> tuple[list[Camera], list[Camera]]:
    """The cameras of the training and of the test pictures, around the pavilion.

    Args:
        size: The number and size of the pictures.
        seed: The seed for the places of the test cameras.
    """
    extent, random = SIZES[size], np.random.default_rng(seed)
    return (
        list(_rings(extent, extent.train, shift=0.0, wander=0.0, random=random)),
        list(_rings(extent, extent.test, shift=0.37, wander=WANDER, random=random)),
    )


def make_demo(
    folder: Path, size: DemoSize = "full", *, seed: int = 0, progress: Progress | None = None
) -> Path:
    """Writes the built-in scene as a capture: images, a COLMAP text model, test_list.txt.

    Args:
        folder: The folder to make, which must not exist; it appears only when it is complete.
        size: The number and size of the pictures.
        seed: The seed for the test cameras and the known points.
        progress: Is called after each picture.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder exists already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists: name a new folder for the built-in scene")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _photograph(scratch, size, seed, progress)
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def demo_folder(
    size: DemoSize = "full", *, seed: int = 0, progress: Progress | None = None
) -> Path:
    """The folder of the built-in scene in the cache, which is made if it does not exist."""
    folder = cache_folder() / "demo" / f"{size}-{seed}-v{VERSION}"
    if not folder.is_dir():
        try:
            make_demo(folder, size, seed=seed, progress=progress)
        except OSError:
            if not folder.is_dir():  # Otherwise another process has made it.
                raise
    return folder


def load_demo(
    size: DemoSize = "full", *, seed: int = 0, progress: Progress | None = None
) -> Capture:
    """The built-in scene as a capture, from the cache."""
    folder = demo_folder(size, seed=seed, progress=progress)
    return load_capture(folder, test=folder / TEST_LIST)


def demo_surfaces(camera: Camera) -> Surfaces:
    """Exact depth and normals of the built-in scene at a camera's pixel centres."""
    return trace_surfaces(demo_scene(), camera.view)


def demo_depth(camera: Camera) -> Tensor:
    """Exact distance along the camera's axis at pixel centres; 0 for the sky. [height, width]"""
    return demo_surfaces(camera).depth


def _rings(
    extent: _Extent, views: int, *, shift: float, wander: float, random: np.random.Generator
) -> Iterator[Camera]:
    """Cameras on the rings, looking inwards."""
    left = views
    for ring, (radius, height, aim, share) in enumerate(ORBITS):
        count = left if ring == len(ORBITS) - 1 else round(views * share)
        left -= count
        for i in range(count):
            out, up, look = random.uniform(-wander, wander, 3) if wander else (0.0, 0.0, 0.0)
            angle = math.tau * ((i + shift) / count + ring / 7)
            place = ((radius + out) * math.cos(angle), (radius + out) * math.sin(angle))
            yield _camera(extent, (*place, height + up), (0.0, 0.0, aim + look))


def _camera(
    extent: _Extent, position: tuple[float, float, float], target: tuple[float, float, float]
) -> Camera:
    matrix = look_at(torch.tensor(position), torch.tensor(target), torch.tensor([0.0, 0.0, 1.0]))
    focal = FOCAL * extent.width
    center = (extent.width / 2, extent.height / 2)
    return Camera(matrix, (focal, focal), center, extent.width, extent.height)


def _photograph(folder: Path, size: DemoSize, seed: int, progress: Progress | None) -> None:
    """Writes the capture into an empty folder."""
    extent = SIZES[size]
    train, test = demo_cameras(size, seed=seed)
    names = [f"train_{i:03}.png" for i in range(len(train))]
    held = [f"test_{i:03}.png" for i in range(len(test))]
    shares = _shares(extent.points, len(train)) + [0] * len(test)

    def shoot(job: tuple[int, str, Camera, int]) -> tuple[Tensor, Tensor]:
        index, name, camera, points = job
        image = trace_picture(demo_scene(), camera.view, threads=1)
        save_png(image.numpy(), folder / "images" / name)
        return _points_of(camera, image, points, np.random.default_rng([seed, index]))

    jobs = list(zip(range(len(shares)), names + held, train + test, shares, strict=True))
    found = []
    pool = ThreadPoolExecutor(torch.get_num_threads())
    try:
        for done, points in enumerate(pool.map(shoot, jobs), 1):
            found.append(points)
            if progress:
                progress(done, len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)
    _write(folder / TEST_LIST, held)
    points, colors = (torch.cat(parts) for parts in zip(*found, strict=True))
    _write_model(folder / "sparse" / "0", train + test, names + held, points, colors)


def _shares(total: int, parts: int) -> list[int]:
    """Whole numbers that add up to `total` and differ by at most one."""
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def _points_of(
    camera: Camera, image: Tensor, count: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Points on the surfaces in a picture, most of them where it has texture, and their colours.

    Returns:
        Points, float64 [count, 3], and colours, uint8 [count, 3].
    """
    if count == 0:
        return torch.empty(0, 3, dtype=torch.float64), torch.empty(0, 3, dtype=torch.uint8)
    depth = trace_surfaces(demo_scene(), camera.view, threads=1).depth
    gray = image.numpy().astype(np.float32).mean(2)
    rows, columns = np.gradient(gray)
    weights = np.where(depth.numpy() > 0, np.hypot(rows, columns) + 2.0, 0.0)
    total = np.cumsum(weights, dtype=np.float64)
    chosen = np.searchsorted(total, random.random(count) * total[-1], side="right")
    places = torch.from_numpy(np.stack([chosen % camera.width, chosen // camera.width], 1)).double()
    away = depth.flatten()[chosen].double()
    points = camera.unproject(places + 0.5, away)
    noise = torch.from_numpy(random.standard_normal((count, 3)))
    points += noise * (POINT_NOISE / camera.focal[0]) * away[:, None]
    return points, image.reshape(-1, 3)[chosen]


def _write_model(
    folder: Path, cameras: list[Camera], names: list[str], points: Tensor, colors: Tensor
) -> None:
    """Writes a COLMAP model as text, without tracks."""
    folder.mkdir(parents=True)
    one = cameras[0]
    intrinsics = f"{one.focal[0]} {one.focal[1]} {one.center[0]} {one.center[1]}"
    _write(folder / "cameras.txt", [f"1 PINHOLE {one.width} {one.height} {intrinsics}"])
    matrices = torch.stack([camera.world_to_camera for camera in cameras])
    turns = quaternions_from_matrices(matrices[:, :3, :3])
    poses = torch.cat([turns, matrices[:, :3, 3]], dim=1).tolist()
    lines = []
    for i, (pose, name) in enumerate(zip(poses, names, strict=True), 1):
        lines += [f"{i} {' '.join(map(repr, pose))} 1 {name}", ""]
    _write(folder / "images.txt", lines)
    lines = []
    for i, ((x, y, z), color) in enumerate(zip(points.tolist(), colors.tolist(), strict=True), 1):
        lines.append(f"{i} {x:.6f} {y:.6f} {z:.6f} {' '.join(map(str, color))} {POINT_NOISE}")
    _write(folder / "points3D.txt", lines)


def _write(path: Path, lines: list[str]) -> None:
    """Writes lines of text, and returns when they are on the disk."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
