"""Reads captures with a COLMAP model."""

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
"""Bytes of the longest path that a link can hold on Linux."""


def colmap_models(folder: Path) -> list[Path]:
    """The folders of all COLMAP models of a capture, from the first place that has any."""
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
    """The listing of the largest model, with the photos in `images/`.

    Folders of smaller photos (`images_2`, `images_4`, ...) are not used: tools round their sizes in
    different ways and often compress them a second time, so `downscale` starts from `images/`.

    Photos and masks must be in the capture's folder, or in the folder that `images` links to, since
    the capture's owner chose that one; any other link that leads out is refused.

    Raises:
        FileNotFoundError: The folder `images/` does not exist.
        ValueError: A file is damaged, is in another place, or contradicts itself.
    """
    counts = [check_model(model) for model in models]
    model = models[counts.index(max(counts))]
    notes = []
    if len(models) > 1:
        notes.append(
            f"COLMAP made {len(models)} separate models of {', '.join(map(str, counts))} images: "
            f"the largest, {model.relative_to(folder)}, is used"
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
    """The model as an object of pycolmap."""
    try:
        return colmap().Reconstruction(str(model))
    except (ValueError, IndexError, RuntimeError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{model} is no COLMAP model that can be read: copy it again or make it again "
            f"({printable(str(error))[:200]})"
        ) from error


def _name(image: Any) -> str:
    """The name of an image, decoded as Python decodes paths if it is not UTF-8."""
    try:
        return image.name
    except UnicodeDecodeError as error:
        return os.fsdecode(error.object)


def _image_folder(folder: Path, notes: list[str]) -> Path:
    """The folder of the photos: `images`, or the folder that its text names.

    Where git cannot make a link, it writes a file with the link's target as text. The text comes
    with the files, while a link is made by the person who keeps them here. So the text may only
    lead to places inside the folder that contains the capture, and a link may lead anywhere.
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
                f"{photos} is a file, and its text names no folder inside {around}: make it the "
                "folder of the photos, or a link to that folder"
            )
        if os.path.isdir(target):  # Unlike Path's, it returns False if the text is too long.
            notes.append(f"{photos} is the text of a link: the photos in {target} are used")
            return target
    raise FileNotFoundError(
        f"{photos} is not there: copy the photos of the COLMAP model into this folder"
    )


def _mask(folder: Path, name: str) -> Path | None:
    """The mask of a photo, named NAME.SUFFIX.png as in COLMAP, or NAME.png; None without one."""
    candidates = (folder / f"{name}.png", (folder / name).with_suffix(".png"))
    return next((path for path in candidates if path.is_file()), None)


def _lens(camera: Any, model: Path) -> Lens:
    params = tuple(map(float, camera.params))
    lens = Lens(camera.model_name, camera.width, camera.height, params)
    return checked_lens(lens, f"camera {camera.camera_id} in {model}")


def _points(reconstruction: Any) -> tuple[Tensor, Tensor]:
    """The points of the model and their colours."""
    found = [reconstruction.points3D[key] for key in sorted(reconstruction.points3D)]
    if not found:
        return no_points()
    points = np.stack([point.xyz for point in found]).astype(np.float64)
    return sound_points(points, np.stack([point.color for point in found]).astype(np.uint8))
