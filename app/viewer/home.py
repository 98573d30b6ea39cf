"""Where a page looks from at first, and what it is told of the capture's cameras."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lumigraph.app.run.film import BEFORE, PLY_UP, middle_of
from lumigraph.render import Camera, Splats, focus_of
from lumigraph.render.paths import up_of

FOV = math.radians(50)
"""Vertical, where there is no camera to take it from."""

FRUSTA = 512
"""Cameras that a page draws at most; more are a cloud, and thousands slow it down."""


def home_of(scene: Splats, cameras: Sequence[Camera], up: Tensor | None) -> dict[str, Any]:
    """The first view: from a camera of the capture, or in front of a scene that came without.

    Returns:
        `position` and `target` in the scene's frame, `up` away from the ground, and the vertical
        `fov` in radians, as plain data.
    """
    if cameras:
        first = cameras[0]
        up = up_of(cameras) if up is None else up
        position, focus = first.position, focus_of(cameras)
        forward = first.world_to_camera[2, :3]
        # What the first camera looks at, as far away as where all of them do.
        distance = float((focus - position) @ forward)
        distance = distance if distance > 0 else float((focus - position).norm()) or 1.0
        target = position + forward * distance
        fov = 2 * math.atan2(first.height / 2, first.focal[1])
    else:
        # Pages are shown no empty scene but that of a training which has pruned all.
        target, radius = middle_of(scene) if len(scene) else (torch.zeros(3).double(), 1.0)
        up = PLY_UP if up is None else up
        position = target + BEFORE * radius
        fov = FOV
    return {
        "position": position.tolist(),
        "target": target.tolist(),
        "up": (up.double() / up.double().norm()).tolist(),
        "fov": fov,
    }


def frusta_of(shots: Sequence[Any]) -> list[dict[str, Any]]:
    """The cameras as plain data, in the scene's frame; of very many evenly spread ones only.

    Args:
        shots: Each with `name`, `split` and `camera`; a page knows one by its place here.
    """
    return [
        {
            "name": shot.name,
            "split": shot.split,
            "matrix": shot.camera.world_to_camera[:3].flatten().tolist(),
            "focal": list(shot.camera.focal),
            "center": list(shot.camera.center),
            "width": shot.camera.width,
            "height": shot.camera.height,
            "number": number,
        }
        for number, shot in spread(shots)
    ]


def spread(shots: Sequence[Any]) -> list[tuple[int, Any]]:
    """At most `FRUSTA` of them with their numbers."""
    count = min(FRUSTA, len(shots))
    return [(at := i * len(shots) // count, shots[at]) for i in range(count)]
