"""The scene that pages show, as data: splats, cameras, first view, and known uncertainty."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumigraph.app.run.cameras import Split
from lumigraph.app.run.film import BEFORE, PLY_UP, middle_of
from lumigraph.app.run.folder import Run
from lumigraph.app.viewer.picture import SceneUncertainty
from lumigraph.datasets import Frame
from lumigraph.render import Camera, Splats, focus_of
from lumigraph.render.paths import up_of

FOV = math.radians(50)
"""The vertical field of view where no camera of a capture gives one."""

FRUSTA = 512
"""The most cameras that a page draws: more hide each other, and thousands make the page slow."""


@dataclass(frozen=True)
class CaptureCamera:
    """A camera of the capture, in the frame of the scene that is shown."""

    name: str
    split: Split
    camera: Camera


@dataclass(frozen=True, eq=False)
class SceneContext:
    """What stays the same around a scene while its training changes it.

    Attributes:
        source: The id of the run, capture or file that the scene comes from.
        name: For people to read.
        background: The colour behind the scene, in [0, 1].
        cameras: Of the training photos, then of the test photos, then of the calibration photos.
        up: The direction away from the ground, in the scene's frame. float64 [3]
        near: Splats nearer than this to the eye are not drawn, in the scene's units.
        first_view: Where a page looks from at first, see `first_view_of`.
        frames: Of the cameras, with the photos that are in the run folder.
        run: The run that the scene lies in; None for a PLY file.
        frusta: The cameras that a page draws, as JSON.
    """

    source: str
    name: str
    background: tuple[float, float, float]
    cameras: tuple[CaptureCamera, ...]
    up: Tensor
    near: float
    first_view: dict[str, Any]
    frames: tuple[Frame, ...] = ()
    run: Run | None = None
    frusta: str = field(init=False)

    def __post_init__(self) -> None:
        """Writes the JSON once for all pages; a thread makes the context, never the event loop."""
        object.__setattr__(self, "frusta", json.dumps(frusta_of(self.cameras)))


@dataclass(frozen=True, eq=False)
class CurrentScene:
    """A scene as it is now.

    Attributes:
        scene: It must not be written to; its memory stays valid as long as it is referenced.
        version: Another number for every other scene.
        step: Of the training; 0 for a PLY file.
        context: What stays the same around the scene.
        uncertainty: What is known of its uncertainty.
        numbers: The numbers of an opened run, as far as its record has them: `steps`, `seconds`,
            `psnr`, `ssim` and the last `loss`.
    """

    scene: Splats
    version: int
    step: int
    context: SceneContext
    uncertainty: SceneUncertainty = field(default_factory=SceneUncertainty)
    numbers: dict[str, float] = field(default_factory=dict)


def first_view_of(
    scene: Splats | None, cameras: Sequence[CaptureCamera], up: Tensor | None
) -> dict[str, Any]:
    """The first view: from a camera of the capture, or from in front of a scene without cameras.

    Returns:
        `position` and `target` in the scene's frame, `up` away from the ground, and the vertical
        `fov` in radians, as plain data.
    """
    if cameras:
        all_cameras = [each.camera for each in cameras]
        first, focus = all_cameras[0], focus_of(all_cameras)
        up = up_of(all_cameras) if up is None else up
        position, forward = first.position, first.world_to_camera[2, :3]
        # What the first camera looks at, as far away as the point that all cameras look at.
        distance = float((focus - position) @ forward)
        distance = distance if distance > 0 else float((focus - position).norm()) or 1.0
        target = position + forward * distance
        fov = 2 * math.atan2(first.height / 2, first.focal[1])
    else:
        target, radius = middle_of(scene) if scene else (torch.zeros(3).double(), 1.0)
        up = PLY_UP if up is None else up
        position = target + BEFORE * radius
        fov = FOV
    return {
        "position": position.tolist(),
        "target": target.tolist(),
        "up": (up.double() / up.double().norm()).tolist(),
        "fov": fov,
    }


def frusta_of(cameras: Sequence[CaptureCamera]) -> list[dict[str, Any]]:
    """The cameras as plain data, in the scene's frame; at most `FRUSTA`, evenly spread.

    A page names a camera by its `number`, which is its place in `cameras`.
    """
    count = min(FRUSTA, len(cameras))
    return [_frustum(at := i * len(cameras) // count, cameras[at]) for i in range(count)]


def _frustum(number: int, shot: CaptureCamera) -> dict[str, Any]:
    return {
        "name": shot.name,
        "split": shot.split,
        "matrix": shot.camera.world_to_camera[:3].flatten().tolist(),
        "focal": list(shot.camera.focal),
        "center": list(shot.camera.center),
        "width": shot.camera.width,
        "height": shot.camera.height,
        "number": number,
    }
