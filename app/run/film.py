"""Sequences of pictures of a scene, and the film they make."""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lumigraph.app.run.cameras import picture_name
from lumigraph.app.run.files import write_bytes
from lumigraph.app.run.pictures import depth_colors, write_picture
from lumigraph.datasets import Capture
from lumigraph.datasets.files import atomic
from lumigraph.render import (
    Camera,
    Splats,
    interpolate,
    look_at,
    orbit,
    render,
    render_color,
    to_bytes,
)

ViewSet = Literal["orbit", "path", "test", "train"]
"""What `render` shows: a path of cameras made for it, or the cameras of the test or train split."""

LENS_FOV_TANGENT = 0.5
"""Half the width of the picture over the distance, for scenes without cameras: 53 degrees, about as
much as a phone's camera."""

RANGE_PROBES = 8
"""The number of views that set the range of depths: one range for all views avoids flicker."""

MARKER = ".lumigraph-render"
"""The file that marks a folder of our pictures: in others nothing is removed or overwritten."""

OURS = re.compile(r"\d{4,}(_[A-Za-z0-9_-]*)?\.png")
"""Names of our pictures."""


@dataclass(frozen=True)
class Shots:
    """Cameras and the file name of each one's picture."""

    cameras: Sequence[Camera]
    names: Sequence[str]


def views_of(capture: Capture, views: ViewSet, count: int) -> Shots:
    """The cameras of a sequence over a capture, in its frame.

    Raises ValueError if the capture has no frames for it.
    """
    if views in ("test", "train"):
        frames = capture.test if views == "test" else capture.train
        if not frames:
            raise ValueError(f"The run has no {views} views: use --views orbit")
        names = [picture_name(i, frame.name) for i, frame in enumerate(frames)]
        return Shots([frame.camera for frame in frames], names)
    cameras = [frame.camera for frame in (*capture.train, *capture.test)]
    if not cameras:
        raise ValueError("The run has no cameras to make a path from")
    if views == "orbit":
        return _numbered(orbit(cameras, count, up=capture.up))
    train = [frame.camera for frame in capture.train]
    return _numbered(interpolate(train, count))


PLY_UP = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
"""In PLY files of splats, which have no cameras, the y axis points down by convention."""

BEFORE = 2.2 * torch.tensor([0.0, -0.4, -1.0], dtype=torch.float64)
"""Where the camera of such a scene is, in scene radii from the middle: in front, a bit above."""

NEAR = 1e-2
"""The near plane of a scene without cameras, in its radii."""


def middle_of(scene: Splats) -> tuple[Tensor, float]:
    """The middle and the radius of a scene, which must not be empty. float64 [3]"""
    means = scene.means.double().cpu()
    center = means.median(0).values
    # The radius holds nine tenths of the splats: a few far ones would shrink the rest to a dot.
    distances = (means - center).norm(dim=1)
    return center, float(distances.kthvalue(1 + 9 * (len(scene) - 1) // 10).values) or 1.0


def views_around(scene: Splats, count: int, *, width: int = 960, height: int = 720) -> Shots:
    """An orbit around a scene without cameras, with the y axis pointing down.

    Raises ValueError if the scene is empty.
    """
    if len(scene) == 0:
        raise ValueError("The file holds no splats, so there is nothing to see")
    center, radius = middle_of(scene)
    focal = width / 2 / LENS_FOV_TANGENT
    place = center + BEFORE * radius
    first = Camera(
        look_at(place, center, PLY_UP), (focal, focal), (width / 2, height / 2), width, height
    )
    first = replace(first, near=radius * NEAR)
    return _numbered([first, *_turned(first, center, PLY_UP, count)[1:]])


def render_sequence(
    scene: Splats,
    sequence: Shots,
    folder: Path,
    *,
    depth: bool = False,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    told: Callable[[int], None] = lambda done: None,
) -> list[Path]:
    """Renders each camera's view to a PNG in `folder`, and returns the paths; removes older ones.

    Raises FileExistsError or ValueError, as `claim` does.
    """
    claim(folder)
    near, far = _depth_range(scene, sequence.cameras) if depth else (0.0, 1.0)
    paths = []
    for camera, name in zip(sequence.cameras, sequence.names, strict=True):
        pixels = (
            depth_colors(_median_depth(scene, camera), near, far)
            if depth
            else to_bytes(render_color(scene, camera, background=background))
        )
        paths.append(folder / name)
        write_picture(paths[-1], pixels.cpu())
        told(len(paths))
    return paths


def claim(folder: Path) -> None:
    """Makes and marks a folder for our pictures, and removes older ones from it.

    Raises:
        FileExistsError: The folder holds files, and is not marked as ours.
        ValueError: It is a link.
    """
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link: remove it, or choose another folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    if not is_ours(folder) and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder} holds files that `lumigraph render` did not make: choose another folder "
            "with -o"
        )
    write_bytes(folder / MARKER, b"Pictures made by `lumigraph render`, which replaces them.\n")
    for old in [path for path in folder.iterdir() if OURS.fullmatch(path.name)]:
        old.unlink()


def is_ours(folder: Path) -> bool:
    """Whether the folder is marked as one for our pictures."""
    return (folder / MARKER).is_file()


def ffmpeg() -> str | None:
    """The path of the ffmpeg program, installed or in imageio-ffmpeg; None if there is none."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None


def make_film(program: str, folder: Path, film: Path, *, fps: float) -> None:
    """Writes the PNGs 0000.png, 0001.png, ... of `folder` as a film, atomically.

    Raises OSError with ffmpeg's own words if it fails.
    """
    command = [program, "-v", "error", "-y", "-framerate", str(fps), "-i", "%04d.png"]
    # Most players need even sides, and colours at half resolution.
    command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
    command += ["-movflags", "+faststart", "-f", "mp4"]
    with atomic(film) as partial:
        done = subprocess.run(
            [*command, str(partial.resolve())],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise OSError(f"ffmpeg could not make the film: {done.stderr.strip()[-300:]}")


def _numbered(cameras: Sequence[Camera]) -> Shots:
    return Shots(cameras, [f"{i:04d}.png" for i in range(len(cameras))])


def _turned(first: Camera, center: Tensor, up: Tensor, count: int) -> list[Camera]:
    """`count` cameras on the circle around the vertical through `center`, `first` among them."""
    angles = torch.arange(count, dtype=torch.float64) * (2 * torch.pi / count)
    offset = first.position - center
    height = (offset @ up) * up
    ahead = offset - height
    aside = torch.linalg.cross(up, ahead)
    places = [center + height + ahead * a.cos() + aside * a.sin() for a in angles]
    return [replace(first, world_to_camera=look_at(place, center, up)) for place in places]


@torch.no_grad()
def _median_depth(scene: Splats, camera: Camera) -> torch.Tensor:
    return render(scene, camera).median_depth


def _depth_range(scene: Splats, cameras: Sequence[Camera]) -> tuple[float, float]:
    """The depths between which almost all lies that some of the cameras see."""
    chosen = cameras[:: max(1, len(cameras) // RANGE_PROBES)]
    depths = []
    for camera in chosen:
        depth = _median_depth(scene, camera).flatten()
        depths.append(depth[depth > 0][::17])
    seen = torch.cat(depths)
    if len(seen) == 0:
        return 1.0, 2.0
    ordered = seen.sort().values
    near, far = ordered[len(seen) // 50], ordered[len(seen) - 1 - len(seen) // 50]
    return float(near), max(float(far), float(near) * 1.01)
