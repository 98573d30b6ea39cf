"""Captures that COLMAP wrote."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lumigraph.datasets.colmap_files import check_model, is_model
from lumigraph.datasets.files import printable
from lumigraph.datasets.lens import Lens, checked_lens, colmap
from lumigraph.datasets.listing import (
    Listing,
    Shot,
    inside,
    no_points,
    rigid,
    roots_of,
    sound_points,
    within,
)

LINK_LIMIT = 4096
"""Bytes: the longest path that a link can hold on Linux."""


def colmap_models(folder: Path) -> list[Path]:
    """The folders of all COLMAP models of a capture, in the place where the first was found."""
    for sparse in (folder / "sparse", folder / "colmap" / "sparse"):
        if not sparse.is_dir():
            continue
        numbered = [child for child in sorted(sparse.iterdir()) if child.is_dir()]
        if models := [child for child in numbered if is_model(child)]:
            return models
        if is_model(sparse):
            return [sparse]
    return []


def read_colmap(folder: Path, models: list[Path]) -> Listing:
    """The largest of the models, with the photos of `images/`.

    Folders of photos made smaller (`images_2`, `images_4`, ...) are not looked at: their photos
    were rounded in ways that differ between tools and often compressed a second time, so smaller
    ones are made from `images/` here.

    Photos and masks lie in the capture's folder, or in the one that `images` is a link to, whose
    photos its owner chose; any other link that leads out is refused.

    Raises:
        FileNotFoundError: There is no `images/`.
        ValueError: A file is damaged, lies elsewhere, or what it says cannot be.
    """
    counts = [check_model(model) for model in models]
    model = models[counts.index(max(counts))]
    notes = []
    if len(models) > 1:
        notes.append(
            f"COLMAP made {len(models)} separate models: {model.relative_to(folder)} with "
            f"{max(counts)} images is used, the largest of {', '.join(map(str, counts))}"
        )
    photos = _image_folder(folder, notes)
    roots = (*roots_of(folder), Path(os.path.realpath(photos)))
    reconstruction = _read(model)
    shots, absent = [], []
    lenses = {key: _lens(value, model) for key, value in reconstruction.cameras.items()}
    for image in reconstruction.images.values():
        if not image.has_pose:
            continue
        name = _name(image)
        path = inside(photos, name, model)
        if not path.is_file():
            absent.append(name)
            continue
        within(path, roots, model)
        pose = rigid(image.cam_from_world().matrix(), f"{name} in {model}")
        mask = _mask(folder / "masks", name)
        if mask:
            within(mask, roots, model)
        shots.append(Shot(name, path, lenses[image.camera_id], pose, mask))
    points, colors = _points(reconstruction)
    return Listing(tuple(shots), tuple(absent), photos, points, colors, notes=tuple(notes))


def _read(model: Path) -> Any:
    """The model, as pycolmap holds it."""
    try:
        return colmap().Reconstruction(str(model))
    except (ValueError, IndexError, RuntimeError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{model} is no COLMAP model that can be read: copy it again or make it again "
            f"({printable(str(error))[:200]})"
        ) from error


def _name(image: Any) -> str:
    """The name of an image; bytes that are not UTF-8 become what Python calls them in paths."""
    try:
        return image.name
    except UnicodeDecodeError as error:
        return os.fsdecode(error.object)


def _image_folder(folder: Path, notes: list[str]) -> Path:
    """The folder of the photos; where git could not make a link, its text is followed like one.

    A text comes with the files, and a link is made by whoever keeps them here. So a text leads no
    farther than the folder that the capture lies in, and a link wherever it was made to.
    """
    photos = folder / "images"
    if photos.is_dir():
        return photos
    if photos.is_file() and not photos.is_symlink() and photos.stat().st_size < LINK_LIMIT:
        text = photos.read_text(encoding="utf-8", errors="replace").strip("\n")
        target, around = folder / text, Path(os.path.realpath(folder)).parent
        one_path = text and text.isprintable() and not os.path.isabs(text)
        if not one_path or not Path(os.path.realpath(target)).is_relative_to(around):
            raise ValueError(
                f"{photos} is a file, not a folder, and no text of a link to a folder in {around}: "
                "copy the photos to a folder of that name, or make it a link to theirs"
            )
        if os.path.isdir(target):  # A text may be too long to be a path at all.
            notes.append(f"{photos} is the text of a link: the photos are those of {target}")
            return target
    raise FileNotFoundError(
        f"{photos} is not there, and a COLMAP capture has its photos in it: copy them to it"
    )


def _mask(folder: Path, name: str) -> Path | None:
    """The mask of a photo, as COLMAP names it or with its suffix replaced."""
    candidates = (folder / f"{name}.png", (folder / name).with_suffix(".png"))
    return next((path for path in candidates if path.is_file()), None)


def _lens(camera: Any, model: Path) -> Lens:
    params = tuple(map(float, camera.params))
    lens = Lens(camera.model_name, camera.width, camera.height, params)
    return checked_lens(lens, f"camera {camera.camera_id} in {model}")


def _points(reconstruction: Any) -> tuple[Tensor, Tensor]:
    """Points that are somewhere, and their colours."""
    found = [reconstruction.points3D[key] for key in sorted(reconstruction.points3D)]
    if not found:
        return no_points()
    points = np.stack([point.xyz for point in found]).astype(np.float64)
    return sound_points(points, np.stack([point.color for point in found]).astype(np.uint8))
