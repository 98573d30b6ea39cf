"""cameras.json: every frame of a run with its camera, in the capture's frame."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lumigraph.app.run.files import printable, shown
from lumigraph.app.run.pictures import picture_name, read_picture
from lumigraph.datasets import Capture, Frame
from lumigraph.render import Camera, Similarity

Split = Literal["train", "test", "calibration"]

PHOTOS: dict[Split, str] = {"test": "eval/photos", "calibration": "calibration/photos"}
"""Where in the run folder the photos of a split are; those that were learned from are not."""

SIDE_LIMIT, PIXEL_LIMIT = 32_768, 256_000_000
"""Of one image: beyond every camera on sale, and still little enough to hold in memory."""


def cameras_json(capture: Capture) -> dict[str, Any]:
    """What cameras.json says of a capture."""
    return {
        "format": "lumigraph cameras",
        "version": 1,
        "axes": "OpenCV: x right, y down, z forward; pixel centres at +0.5",
        "capture": capture.name,
        "up": None if capture.up is None else capture.up.tolist(),
        "background": list(capture.background),
        "similarity": {
            "origin": capture.similarity.origin.tolist(),
            "scale": capture.similarity.scale,
        },
        "frames": [
            {"name": frame.name, "split": split, **camera_json(frame.camera)}
            for split, frames in splits_of(capture).items()
            for frame in frames
        ],
    }


def splits_of(capture: Capture) -> dict[Split, tuple[Frame, ...]]:
    """The frames of each split."""
    return {"train": capture.train, "test": capture.test, "calibration": capture.calibration}


def camera_json(camera: Camera) -> dict[str, Any]:
    """A camera as plain data."""
    return {
        "width": camera.width,
        "height": camera.height,
        "focal": list(camera.focal),
        "center": list(camera.center),
        "near": camera.near,
        "world_to_camera": camera.world_to_camera.tolist(),
    }


def capture_from(data: Any, folder: Path) -> Capture:
    """The capture that cameras.json tells of; ValueError names what in it is wrong."""
    path = folder / "cameras.json"
    if not isinstance(data, dict) or not isinstance(data.get("frames"), list):
        raise ValueError(f'{path} should have a list under "frames": restore it from a copy')
    frames: dict[Split, list[Frame]] = {"train": [], "test": [], "calibration": []}
    names = set()
    for number, entry in enumerate(data["frames"]):
        where = f"{path}, frame {number},"
        if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
            raise ValueError(f"{where} should have a name: restore it from a copy")
        split = entry.get("split")
        if split not in ("train", "test", "calibration") or name in names:
            raise ValueError(f"{where} is listed twice or is in none of {', '.join(frames)}")
        names.add(name)
        place = PHOTOS.get(split)
        picture = folder / place / picture_name(len(frames[split]), name) if place else None
        camera = _camera_from(entry, where)
        frames[split].append(Frame(name, camera, partial(_photo, picture, name, camera)))
    similarity = data.get("similarity")
    similarity = similarity if isinstance(similarity, dict) else {}
    up = data.get("up")
    red, green, blue = _numbers(data.get("background", [0, 0, 0]), 3, f"{path}, background,")
    return Capture(
        name=str(data.get("capture", "")),
        train=tuple(frames["train"]),
        test=tuple(frames["test"]),
        points=torch.zeros(0, 3, dtype=torch.float64),
        colors=torch.zeros(0, 3, dtype=torch.uint8),
        similarity=Similarity(
            _vector(similarity.get("origin"), f"{path}, similarity,"),
            _numbers([similarity.get("scale")], 1, f"{path}, similarity,", least=1e-30)[0],
        ),
        up=None if up is None else _vector(up, f"{path}, up,"),
        background=(red, green, blue),
        calibration=tuple(frames["calibration"]),
    )


def _camera_from(entry: dict[str, Any], where: str) -> Camera:
    """The camera an entry of cameras.json tells of, checked."""
    sides = entry.get("width"), entry.get("height")
    for side in sides:
        if not isinstance(side, int) or isinstance(side, bool) or not 0 < side <= SIDE_LIMIT:
            raise ValueError(f"{where} has a side of {shown(side)} pixels, not 1 to {SIDE_LIMIT}")
    width, height = int(sides[0] or 0), int(sides[1] or 0)
    if width * height > PIXEL_LIMIT:
        raise ValueError(f"{where} has {width} x {height} pixels, more than {PIXEL_LIMIT}")
    matrix = entry.get("world_to_camera")
    if not isinstance(matrix, list) or len(matrix) != 4:
        raise ValueError(f"{where} should have 4 rows under world_to_camera")
    rows = torch.tensor([_numbers(row, 4, where) for row in matrix], dtype=torch.float64)
    turn = rows[:3, :3]
    skew = (turn @ turn.T - torch.eye(3).double()).abs().max()
    rigid = skew < 1e-4 and torch.linalg.det(turn) > 0
    if not rigid or rows[3].tolist() != [0, 0, 0, 1]:
        raise ValueError(f"{where} has a world_to_camera that is no rotation and shift")
    focal = _numbers(entry.get("focal"), 2, where, least=1e-6)
    center = _numbers(entry.get("center"), 2, where)
    near = _numbers([entry.get("near")], 1, where, least=1e-30)[0]
    return Camera(rows, (focal[0], focal[1]), (center[0], center[1]), width, height, near)


def _vector(value: Any, where: str) -> Tensor:
    return torch.tensor(_numbers(value, 3, where), dtype=torch.float64)


def _numbers(value: Any, count: int, where: str, *, least: float = -1e30) -> list[float]:
    """`value` as `count` finite numbers no smaller than `least`, or ValueError."""
    if isinstance(value, list) and len(value) == count:
        good = [
            isinstance(v, int | float) and not isinstance(v, bool) and least <= v <= 1e30
            for v in value
        ]
        if all(good):
            return [float(v) for v in value]
    kind = "numbers" if least < 0 else "positive numbers"
    raise ValueError(f"{where} has {shown(value)} where {count} {kind} belong")


def _photo(path: Path | None, name: str, camera: Camera) -> Tensor:
    """The photo of a frame as the run kept it, if it did. uint8 [height, width, 3]"""
    if path is None or not path.exists():
        raise FileNotFoundError(
            f"the photo {printable(name)} is not in the run folder (only those that were not "
            "learned from are kept): give the capture with --data CAPTURE"
        )
    return read_picture(path, camera.width, camera.height)
