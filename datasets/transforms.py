"""Reads captures with a transforms.json in the dialects of nerfstudio, instant-ngp and Blender.

The capture keeps the frame and scale of the file: nerfstudio's `applied_transform` and
`applied_scale` are not undone, since the points of `ply_file_path` are in that frame, too.
"""

import json
import math
import os.path
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumigraph.datasets.files import read_bytes, shown
from lumigraph.datasets.images import image_header
from lumigraph.datasets.lens import LARGEST, Lens, checked_lens
from lumigraph.datasets.listing import (
    Listing,
    Shot,
    Split,
    inside,
    no_points,
    rigid,
    roots_of,
    within,
)
from lumigraph.datasets.points import read_points

SIZE_LIMIT, BRACKET_LIMIT = 1 << 26, 1 << 20
"""Most bytes of a file, and most lists and objects in it: 50,000 frames with every key. A file with
nothing but empty lists takes 20 times its size of memory in Python."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG", ".webp")
"""Suffixes to try if a listed file does not exist: Blender lists names without suffixes."""

BROWN = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "FISHEYE")

Number = Callable[..., float]
"""Returns the value of a key, or its default; ValueError if it is not a number."""

UP_AGREEMENT = 0.5
"""Cosine of 60 degrees: +z is taken as up only if the photos' mean direction up is that near."""


def transforms_files(folder: Path) -> dict[Split, Path]:
    """The transforms files of a folder by their split; a single file has the split "train"."""
    if (folder / "transforms.json").is_file():
        return {"train": folder / "transforms.json"}
    names: dict[Split, str] = {"train": "train", "test": "test", "unused": "val"}
    found: dict[Split, Path] = {}
    for split, name in names.items():
        if (path := folder / f"transforms_{name}.json").is_file():
            found[split] = path
    if "train" in found and "test" not in found and "unused" in found:
        found["test"] = found.pop("unused")
    return found if "train" in found else {}


def read_transforms(files: dict[Split, Path]) -> Listing:
    """The listing of all frames in the files; if there are several files, each is for one split.

    All listed files must be in the files' folder, or in the folder that its `images` links to.

    Raises:
        FileNotFoundError: A listed mask does not exist.
        ValueError: A file is damaged, or contradicts itself.
    """
    shots: list[Shot] = []
    absent: list[str] = []
    notes: list[str] = []
    points, colors = no_points()
    for split, path in files.items():
        if split == "unused":
            notes.append(f"{path.name} is not used: the test views are those of the test file")
            continue
        document = _document(path)
        splits = _splits(document, path)
        for index, frame in enumerate(document["frames"]):
            label = f"frame {index} of {path}"
            if not isinstance(frame, dict):
                raise ValueError(f"{label} is {shown(frame)}, expected an object")
            name = _name(frame, "file_path", label)
            use = split if len(files) > 1 else splits.get(name, "unused") if splits else None
            shot = _shot({**document, **frame}, name, use, path, label)
            shots.append(shot) if shot else absent.append(name)
        if document.get("ply_file_path"):
            ply = inside(path.parent, _name(document, "ply_file_path", str(path)), path)
            if ply.is_file():
                points, colors = read_points(within(ply, roots_of(path.parent), path))
            else:
                notes.append(f"{ply} is listed but does not exist: the capture has no points")
    if unused := sum(shot.split == "unused" for shot in shots):
        notes.append(
            f"{unused} photos are neither in the training nor in the test list, and are not used"
        )
    folder = files["train"].parent
    return Listing(tuple(shots), tuple(absent), folder, points, colors, _up(shots), tuple(notes))


def _document(path: Path) -> dict[str, Any]:
    """The content of the file, an object with a list of frames."""
    data = read_bytes(path, SIZE_LIMIT)
    if (count := data.count(b"[") + data.count(b"{")) > BRACKET_LIMIT:
        raise ValueError(
            f"{path} has {count} lists and objects, expected at most {BRACKET_LIMIT}: make it again"
        )
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: copy it or make it again ({error})") from error
    if not isinstance(document, dict) or not isinstance(document.get("frames"), list):
        raise ValueError(f"{path} has no list 'frames', expected an object with one per photo")
    return document


def _splits(document: dict[str, Any], path: Path) -> dict[str, Split]:
    """The split of each photo by nerfstudio's lists; empty if there are no lists."""

    def listed(key: str) -> list[str]:
        names = document.get(key) or []
        if not isinstance(names, list):
            raise ValueError(f"{path} has {key} = {shown(names)}, expected a list of names")
        return [_name({key: name}, key, str(path)) for name in names]

    held: dict[str, Split] = dict.fromkeys(
        listed("test_filenames") or listed("val_filenames"), "test"
    )
    train: dict[str, Split] = dict.fromkeys(listed("train_filenames"), "train")
    if held and not train:
        names = (_name(f, "file_path", str(path)) for f in document["frames"])
        train = {name: "train" for name in names if name not in held}
    return {**train, **held}


def _shot(
    facts: dict[str, Any], name: str, split: Split | None, path: Path, label: str
) -> Shot | None:
    """One frame, or None if its photo does not exist.

    Args:
        facts: The values of the file, replaced by the frame's own where it has any.
        name: The listed path of the photo.
        split: The use of the photo, if the files tell it.
        path: The transforms file.
        label: Names the frame in errors.
    """
    folder = path.parent
    photo = _photo_path(inside(folder, name, path))
    if photo is None:
        return None
    within(photo, roots_of(folder), path)
    try:
        matrix = np.array(facts.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    pose = rigid(matrix, f"{label} ({name})")
    camera_to_world = pose @ torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    rotation = camera_to_world[:3, :3].T
    world_to_camera = torch.eye(4, dtype=torch.float64)
    world_to_camera[:3, :3] = rotation
    world_to_camera[:3, 3] = -rotation @ camera_to_world[:3, 3]
    mask = None
    if facts.get("mask_path"):
        mask = inside(folder, _name(facts, "mask_path", label), path)
        if not mask.is_file():
            raise FileNotFoundError(
                f"{label} has the mask {mask}, which is not there: copy it there or remove "
                "mask_path"
            )
        within(mask, roots_of(folder), path)
    name += photo.name.removeprefix(os.path.basename(name))  # Adds a suffix that was left out.
    return Shot(name, photo, _lens(facts, photo, label), world_to_camera, mask, split)


def _photo_path(path: Path) -> Path | None:
    """The file with that name, or with that name and a suffix; None if there is none."""
    candidates = (path, *(path.with_name(path.name + suffix) for suffix in SUFFIXES))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _lens(facts: dict[str, Any], photo: Path, label: str) -> Lens:
    """The lens in COLMAP's terms; each dialect has its own keys for the numbers."""

    def number(key: str, default: float | None = None) -> float:
        value = facts.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > LARGEST:
            raise ValueError(
                f"{label} has {key} = {shown(value)}, expected a number of at most {LARGEST:g}"
            )
        return float(value)

    if facts.get("w") is None or facts.get("h") is None:
        width, height = map(float, image_header(photo)[:2])
    else:
        width, height = number("w"), number("h")
    if not (math.isfinite(width) and math.isfinite(height)):
        raise ValueError(f"{label} is {width}x{height} pixels, expected whole numbers")
    fx, fy = _focal(facts, number, width, height, label)
    center = (number("cx", width / 2), number("cy", height / 2))
    model, coefficients = _distortion(facts, number, label)
    params = (fx, fy, *center, *coefficients)
    return checked_lens(Lens(model, round(width), round(height), params), label)


def _focal(
    facts: dict[str, Any], number: Number, width: float, height: float, label: str
) -> tuple[float, float]:
    """Focal lengths in pixels, from any of the four keys."""

    def along(direct: str, angle: str, side: float) -> float | None:
        if facts.get(direct) is not None:
            return number(direct)
        if facts.get(angle) is None:
            return None
        if not 0 < number(angle) < math.pi:
            raise ValueError(f"{label} has {angle} = {number(angle)}, expected 0 to pi")
        return side / 2 / math.tan(number(angle) / 2)

    fx = along("fl_x", "camera_angle_x", width)
    fy = along("fl_y", "camera_angle_y", height)
    if fx is None and fy is None:
        raise ValueError(f"{label} has no focal length: expected fl_x or camera_angle_x")
    return (fx if fx is not None else fy or 0.0), (fy if fy is not None else fx or 0.0)


def _distortion(facts: dict[str, Any], number: Number, label: str) -> tuple[str, tuple[float, ...]]:
    """COLMAP's camera model and its distortion coefficients."""
    model = facts.get("camera_model", "OPENCV_FISHEYE" if facts.get("is_fisheye") else "OPENCV")
    k1, k2, k3, k4, p1, p2 = (number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if model in FISHEYE:
        return "OPENCV_FISHEYE", (k1, k2, k3, k4)
    if model not in BROWN:
        raise ValueError(
            f"{label} has the camera model {shown(model)}, expected one of "
            f"{', '.join((*BROWN, *FISHEYE))}: undistort the photos first"
        )
    if k4:
        raise ValueError(
            f"{label} has k4 = {k4:g}, expected 0: tools differ in what it means for {model}"
        )
    if k3:
        return "FULL_OPENCV", (k1, k2, p1, p2, k3, 0.0, 0.0, 0.0)
    return ("OPENCV", (k1, k2, p1, p2)) if k1 or k2 or p1 or p2 else ("PINHOLE", ())


def _name(facts: Any, key: str, label: str) -> str:
    """A listed path with forward slashes and without a leading './'."""
    value = facts.get(key) if isinstance(facts, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{label} has {key} = {shown(value)}, expected a path")
    value = value.replace("\\", "/")
    return value if value.startswith("/") or ".." in value else os.path.normpath(value)


def _up(shots: list[Shot]) -> Tensor | None:
    """The direction +z, which is up in all dialects; None if the photos are not upright then."""
    if not shots:
        return None
    ups = torch.stack([-shot.world_to_camera[1, :3] for shot in shots])
    agrees = ups.mean(0)[2] > UP_AGREEMENT
    return torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) if agrees else None
