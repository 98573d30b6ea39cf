"""cameras.json: every frame of a run with its camera, in the capture's frame; and its photo."""

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta, Struct
from torch import Tensor

from lumigraph.datasets import Capture, Frame
from lumigraph.datasets.files import printable
from lumigraph.datasets.images import decode_rgb, image_header
from lumigraph.render import Camera, Similarity

Split = Literal["train", "test", "calibration"]

PHOTOS: dict[Split, str] = {"test": "eval/photos", "calibration": "calibration/photos"}
"""The folder of a split's photos in the run folder; training photos are not kept."""

SIDE_LIMIT, PIXEL_LIMIT = 32_768, 256_000_000
"""Of one image: more than any camera on sale has, and still little enough for memory."""


Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
Positive = Annotated[float, Meta(ge=1e-30, le=1e30)]
Focal = Annotated[float, Meta(ge=1e-6, le=1e30)]
ImageSide = Annotated[int, Meta(ge=1, le=SIDE_LIMIT)]
Vector = tuple[Number, Number, Number]
Row = tuple[Number, Number, Number, Number]


class FrameEntry(Struct):
    """A frame in cameras.json."""

    name: str
    split: Split
    width: ImageSide
    height: ImageSide
    focal: tuple[Focal, Focal]
    center: tuple[Number, Number]
    near: Positive
    world_to_camera: tuple[Row, Row, Row, Row]


class SimilarityEntry(Struct):
    """The way from the capture's frame to the fit's in cameras.json."""

    origin: Vector
    scale: Positive


class CamerasFile(Struct):
    """The content of cameras.json."""

    frames: list[FrameEntry]
    similarity: SimilarityEntry
    capture: str = ""
    up: Vector | None = None
    background: Vector = (0.0, 0.0, 0.0)


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


def capture_from(content: CamerasFile, folder: Path) -> Capture:
    """The capture that cameras.json describes; ValueError names what in it is wrong."""
    frames: dict[Split, list[Frame]] = {"train": [], "test": [], "calibration": []}
    names = set()
    for number, entry in enumerate(content.frames):
        where = f"{folder / 'cameras.json'}, frames[{number}],"
        if entry.name in names:
            raise ValueError(f"{where} has the name of an earlier frame: restore it from a copy")
        names.add(entry.name)
        place, camera = PHOTOS.get(entry.split), _camera_from(entry, where)
        picture = picture_name(len(frames[entry.split]), entry.name)
        path = folder / place / picture if place else None
        photo = partial(_photo, path, entry.name, camera)
        frames[entry.split].append(Frame(entry.name, camera, photo))
    origin = torch.tensor(content.similarity.origin, dtype=torch.float64)
    return Capture(
        name=content.capture,
        train=tuple(frames["train"]),
        test=tuple(frames["test"]),
        points=torch.zeros(0, 3, dtype=torch.float64),
        colors=torch.zeros(0, 3, dtype=torch.uint8),
        similarity=Similarity(origin, content.similarity.scale),
        up=None if content.up is None else torch.tensor(content.up, dtype=torch.float64),
        background=content.background,
        calibration=tuple(frames["calibration"]),
    )


def _camera_from(entry: FrameEntry, where: str) -> Camera:
    """The camera of an entry; ValueError if it is too large, or its pose is not rigid."""
    if entry.width * entry.height > PIXEL_LIMIT:
        raise ValueError(
            f"{where} has {entry.width} x {entry.height} pixels, more than {PIXEL_LIMIT}"
        )
    rows = torch.tensor(entry.world_to_camera, dtype=torch.float64)
    turn = rows[:3, :3]
    skew = (turn @ turn.T - torch.eye(3).double()).abs().max()
    rigid = skew < 1e-4 and torch.linalg.det(turn) > 0
    if not rigid or rows[3].tolist() != [0, 0, 0, 1]:
        raise ValueError(
            f"{where} has a world_to_camera that is no rotation and shift: restore it from a copy"
        )
    return Camera(rows, entry.focal, entry.center, entry.width, entry.height, entry.near)


def picture_name(index: int, name: str) -> str:
    """The file name for the picture of a frame: its number and the harmless letters of its name."""
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{index:04d}_{re.sub(r'[^A-Za-z0-9-]+', '_', stem)[:60]}.png"


def read_picture(path: Path, width: int, height: int) -> Tensor:
    """The pixels of a picture in a run folder. uint8 [height, width, 3]

    Raises ValueError if it cannot be decoded or has another size, which is checked before it is
    decoded.
    """
    try:
        found = image_header(path)[:2]
        if found == (width, height):
            return torch.from_numpy(decode_rgb(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{error}: restore the run folder from a copy") from None
    raise ValueError(
        f"{path} is {found[0]}x{found[1]} but its camera says {width}x{height}: restore the run "
        "folder from a copy"
    )


def _photo(path: Path | None, name: str, camera: Camera) -> Tensor:
    """The photo of a frame, if the run folder keeps it. uint8 [height, width, 3]"""
    if path is None or not path.exists():
        raise FileNotFoundError(
            f"The photo {printable(name)} is not in the run folder, which keeps only the photos "
            "that are not trained on: give the capture with --data CAPTURE"
        )
    return read_picture(path, camera.width, camera.height)
