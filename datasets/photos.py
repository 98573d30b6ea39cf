"""Developed photos: undistorted and made smaller once, then read from a cache on disk.

The key of an entry is the content of the photo's file, its lens and its new size. So an entry is
never used for another photo, whatever happens to names and times of files. A photo without
distortion at full size is not kept there.
"""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from lumigraph.datasets.cache import cache_folder, prune
from lumigraph.datasets.images import (
    PIXEL_LIMIT,
    ImageCache,
    decode_mask,
    decode_rgb,
    exif_turned,
    image_bytes,
    image_header,
    save_png,
    saved_png,
    shrunk,
    stretched,
)
from lumigraph.datasets.lens import Lens, colmap, is_pinhole, pinhole_of, rescaled, undistort

METHOD = 1
"""Part of every key of the disk cache: raise it whenever developing changes a pixel."""

PRUNED_AT = "0"
"""The cache is pruned when an entry with this first digit is written. Digits are random, so this
happens once in 16 entries, and listing the folder costs little beside developing 16 photos."""


@dataclass(frozen=True)
class Photo:
    """A photo's file, and everything that determines its developed pixels.

    Attributes:
        path: The photo's file.
        lens: The lens for the file's full size.
        downscale: The factor by which width and height are divided.
        turned: Whether the EXIF rotation is applied.
        mask: The mask's file, which is white where the photo is used; None without a mask.
    """

    path: Path
    lens: Lens
    downscale: int = 1
    turned: bool = False
    mask: Path | None = None

    @property
    def pinhole(self) -> Lens:
        """The lens of the developed photo."""
        full, n = pinhole_of(self.lens), self.downscale
        return Lens("PINHOLE", full.width // n, full.height // n, tuple(p / n for p in full.params))


def photo_from(
    path: Path, lens: Lens, downscale: int = 1, mask: Path | None = None
) -> tuple[Photo, bool]:
    """The photo with its lens scaled to the file's size, and whether it has transparency.

    Raises:
        ValueError: The file is no image, is too large or too small, or has another shape than its
            camera says.
    """
    width, height, alpha = image_header(path)
    turned = False
    if not _same_shape(width, height, lens) and _same_shape(height, width, lens):
        turned = exif_turned(path)
        width, height = (height, width) if turned else (width, height)
    if not _same_shape(width, height, lens):
        raise ValueError(
            f"{path} is {width}x{height} but its camera says {lens.width}x{lens.height}: "
            "use the photos that the cameras were made from, or evenly scaled copies of them"
        )
    if (width, height) != (lens.width, lens.height):
        lens = rescaled(lens, width, height)
    photo = Photo(path, lens, downscale, turned, mask)
    straight = pinhole_of(lens)
    if straight.width * straight.height > PIXEL_LIMIT:
        raise ValueError(
            f"{path} would have {straight.width}x{straight.height} pixels without its distortion, "
            f"more than {PIXEL_LIMIT}: undistort it first, or make it smaller"
        )
    if min(photo.pinhole.width, photo.pinhole.height) < 1:
        raise ValueError(f"{path} is {width}x{height}, too small for --downscale {downscale}")
    return photo, alpha


def load_photo(cache: ImageCache, photo: Photo) -> Tensor:
    """The developed photo; callers must not change it. uint8 [height, width, 3]

    Raises:
        ValueError: The file is damaged, or its size changed after the capture was loaded.
        OSError: The disk cache cannot be written.
    """
    return cache.get(photo, lambda: torch.from_numpy(_developed(photo, "photo")))


def load_mask(cache: ImageCache, photo: Photo) -> Tensor:
    """The pixels of the developed photo that are used: their whole area is. bool [height, width]"""
    # White is 255, less the rounding of two interpolations.
    return cache.get((photo, "mask"), lambda: torch.from_numpy(_developed(photo, "mask")) >= 253)


def disk_cache() -> Path:
    """The folder of developed photos, which may be deleted at any time."""
    return cache_folder() / "photos"


def _developed(photo: Photo, kind: str) -> np.ndarray:
    """The pixels, from the disk cache if they were developed before."""
    if photo.downscale == 1 and is_pinhole(photo.lens):
        return _decoded(photo, kind)  # Reading an entry would take as long.
    data = image_bytes(_source(photo, kind))
    path = disk_cache() / f"{_key(photo, kind, data)}.png"
    shape = (photo.pinhole.height, photo.pinhole.width)
    made = saved_png(path, (*shape, 3) if kind == "photo" else shape)
    if made is not None:
        with suppress(OSError):  # Another process may have deleted it, or another user may own it.
            os.utime(path)
        return made
    pixels = _decoded(photo, kind, data)
    if not is_pinhole(photo.lens):
        pixels = undistort(pixels, photo.lens)
    pixels = shrunk(pixels, photo.downscale)
    _keep(pixels, path)
    return pixels


def _keep(pixels: np.ndarray, path: Path) -> None:
    """Writes an entry of the disk cache, and sometimes prunes the cache."""
    try:
        save_png(pixels, path)
    except OSError as error:
        raise OSError(f"{error}: set LUMIGRAPH_CACHE to a folder that can be written") from error
    if path.name.startswith(PRUNED_AT):
        prune(path.parent)


def _decoded(photo: Photo, kind: str, data: bytes | None = None) -> np.ndarray:
    """The pixels of the file, which must have the lens's size."""
    path, size = _source(photo, kind), (photo.lens.width, photo.lens.height)
    if kind == "photo":
        pixels = decode_rgb(path, photo.turned, data)
    else:
        pixels = _fitted(decode_mask(path, photo.turned, data), photo.lens)
    if pixels.shape[1::-1] != size:
        raise ValueError(
            f"{path} is {pixels.shape[1]}x{pixels.shape[0]}, expected {size[0]}x{size[1]}: "
            "load the capture again if the file was changed, else replace it"
        )
    return pixels


def _fitted(mask: np.ndarray, lens: Lens) -> np.ndarray:
    """The mask, scaled to the resolution of its photo if only that differs."""
    height, width = mask.shape
    if (width, height) == (lens.width, lens.height) or not _same_shape(width, height, lens):
        return mask
    return stretched(mask, lens.width, lens.height)


def _source(photo: Photo, kind: str) -> Path:
    """The file that the pixels come from."""
    return (photo.mask if kind == "mask" else None) or photo.path


def _key(photo: Photo, kind: str, data: bytes) -> str:
    """A name that stands for everything the developed pixels depend on."""
    parts = (METHOD, PIL.__version__, colmap().__version__, kind)
    parts += (photo.lens, photo.downscale, photo.turned)
    digest = hashlib.sha256(repr(parts).encode())
    digest.update(data)
    return digest.hexdigest()


def _same_shape(width: int, height: int, lens: Lens) -> bool:
    """Whether an image has the lens's size times any factor, with sides rounded up or down."""
    across, down = width / lens.width, height / lens.height
    return abs(width - lens.width * down) <= max(1, down) and abs(
        height - lens.height * across
    ) <= max(1, across)
