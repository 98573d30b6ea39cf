"""Image files as uint8 pixels, and a cache of decoded images with a limit.

Every image file that Lumigraph reads is opened by `opened`, which decides which formats and which
sizes are accepted: Pillow alone would start other programs, such as Ghostscript for PostScript.
"""

import io
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING

import numpy as np
from torch import Tensor

from lumigraph.datasets.files import atomic

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM")
"""Formats of photos and masks, under Pillow's names. Cameras' MPO files count as JPEG."""

PIXEL_LIMIT, SIDE_LIMIT = 1 << 27, 1 << 16
"""Pixels of an image and of its longer side: photos of 108 megapixels are read. Decoding the most
pixels takes 1 GB of memory, however small the file is, and 2 GB for a WebP."""

TILE_LIMIT = 1 << 24
"""Pixels of a tile of a TIFF, for which memory is taken even if the image is smaller."""

FILE_LIMIT = 8 * PIXEL_LIMIT
"""Bytes of an image file: those of the most pixels, in four channels of 16 bits, uncompressed."""

BAND = 256
"""Rows that are converted to RGB at a time, so that no second copy of the image is in memory."""

SHARE = 4
"""The cache takes a quarter of the free memory: a fit needs the rest for splats and their moments,
and photos that do not fit are read again from disk in a few milliseconds each."""

ROTATED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


@contextmanager
def opened(path: Path, data: bytes | None = None) -> Iterator["Image.Image"]:
    """The image in a file; its header is read and its pixels are not decoded yet.

    Args:
        path: The file; errors name it.
        data: The content of the file if it was read before.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is no image of the accepted formats, is damaged, or is too large.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # Its check warns of what `_check_size` refuses.
    with open(path, "rb") if data is None else io.BytesIO(data) as file:
        if data is None:
            _check_bytes(file, path)
        try:
            with Image.open(file, formats=FORMATS) as image:
                _check_size(image)
                yield image
        except MemoryError:
            raise
        except Image.UnidentifiedImageError:
            raise ValueError(
                f"{path} is not an image that can be read: expected one of {', '.join(FORMATS)}"
            ) from None
        except Image.DecompressionBombError:
            raise ValueError(
                f"{path} is too large: expected at most {PIXEL_LIMIT // 10**6} million pixels, "
                f"{SIDE_LIMIT} on a side: make it smaller"
            ) from None
        except Exception as error:  # Pillow raises errors of many kinds for damaged files.
            raise ValueError(
                f"{path} is not an image that can be read: replace it or remove it ({error})"
            ) from error


def _check_bytes(file: IO[bytes], path: Path) -> None:
    """Raises ValueError if the file is larger than any image that is accepted."""
    if (size := os.fstat(file.fileno()).st_size) > FILE_LIMIT:
        raise ValueError(f"{path} has {size} bytes, expected an image of at most {FILE_LIMIT}")


def _check_size(image: "Image.Image") -> None:
    """Raises DecompressionBombError if decoding the image would take too much memory."""
    from PIL import Image

    tags = getattr(image, "tag_v2", {})  # Of a TIFF; 322 and 323 are the sides of its tiles.
    if (
        image.width * image.height > PIXEL_LIMIT
        or max(image.size) > SIDE_LIMIT
        or tags.get(322, 1) * tags.get(323, 1) > TILE_LIMIT
    ):
        raise Image.DecompressionBombError


def image_bytes(path: Path) -> bytes:
    """The content of an image file, of at most `FILE_LIMIT` bytes."""
    with open(path, "rb") as file:
        _check_bytes(file, path)
        return file.read()


def image_header(path: Path) -> tuple[int, int, bool]:
    """The image's width, height, and whether it has transparency."""
    with opened(path) as image:
        return (*image.size, _has_alpha(image))


def exif_turned(path: Path) -> bool:
    """Whether the EXIF orientation turns the photo by a right angle.

    Pillow decodes all of a PNG to find this out.
    """
    with opened(path) as image:
        return image.getexif().get(0x0112) in ROTATED


def decode_rgb(path: Path, turned: bool = False, data: bytes | None = None) -> np.ndarray:
    """The photo's pixels; transparency is laid over white. uint8 [height, width, 3]

    Args:
        path: The file.
        turned: Whether the EXIF orientation is applied; COLMAP calibrates photos as stored.
        data: The content of the file if it was read before.
    """
    from PIL import ImageOps

    with opened(path, data) as image:
        if not _is_deep(image):
            return _rgb(ImageOps.exif_transpose(image) if turned else image)
    raise ValueError(_too_deep(path))


def decode_mask(path: Path, turned: bool = False, data: bytes | None = None) -> np.ndarray:
    """The mask as 255 where it is lighter than mid-grey, else 0. uint8 [height, width]"""
    from PIL import ImageOps

    with opened(path, data) as image:
        if not _is_deep(image):
            grey = np.array((ImageOps.exif_transpose(image) if turned else image).convert("L"))
            return np.where(grey >= 128, np.uint8(255), np.uint8(0))
    raise ValueError(_too_deep(path))


def shrunk(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each square of `factor` x `factor` pixels; a remainder at the far edges is cut.

    Because of the cut, every new pixel is the mean of whole pixels, and the intrinsics scale by
    exactly 1 / factor. Rounding the size up or down would shift the image by parts of a pixel.
    """
    from PIL import Image

    if factor == 1:
        return pixels
    height, width = (side // factor * factor for side in pixels.shape[:2])
    return np.array(Image.fromarray(pixels[:height, :width]).reduce(factor))


def averaged(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The whole photo at a smaller size; each new pixel is the mean of the area it covers."""
    from PIL import Image

    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def stretched(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """The mask at another size; each new pixel is the nearest old one. [height, width]"""
    from PIL import Image

    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def saved_png(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The pixels that `save_png` wrote; None if the file is absent, damaged or of another shape."""
    mode = "RGB" if len(shape) == 3 else "L"
    try:
        with opened(path) as image:
            # The size is checked before decoding: a damaged file may claim a very large one.
            fits = (image.height, image.width) == shape[:2] and image.mode == mode
            return np.array(image) if fits else None
    except (OSError, ValueError):
        return None


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Writes the pixels as a PNG, completely or not at all, and makes its folder.

    Raises:
        OSError: The file cannot be written.
    """
    import imageio.v3 as imageio

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        # Level 1 is three times as fast as the default and a tenth larger. The bytes are written
        # here, since imageio takes some paths for addresses or for members of archives.
        partial.write_bytes(
            imageio.imwrite("<bytes>", pixels, extension=".png", plugin="pillow", compress_level=1)
        )


class ImageCache:
    """Keeps decoded images in memory up to a limit, and drops the least recently used first.

    Any number of threads may use it.

    Attributes:
        limit_bytes: Most bytes of all images together; a single larger image is not kept.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = available_memory() // SHARE if limit_bytes is None else limit_bytes
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}
        self._bytes = 0
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["ImageCache"], tuple[int]]:
        """Makes pickling give another process an empty cache with the same limit."""
        return ImageCache, (self.limit_bytes,)

    @property
    def used_bytes(self) -> int:
        """Bytes of the images that are kept now."""
        return self._bytes

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The image kept under `key`, else that of `make`; callers must not change it."""
        with self._lock:
            if (image := self._find(key)) is not None:
                return image
            making = self._making.setdefault(key, Lock())
        with making:  # One thread makes the image; others that need it wait.
            with self._lock:
                if (image := self._find(key)) is not None:
                    return image
            try:
                image = make()
                with self._lock:
                    self._keep(key, image)
                return image
            finally:
                with self._lock:
                    self._making.pop(key, None)

    def _find(self, key: Hashable) -> Tensor | None:
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def _keep(self, key: Hashable, image: Tensor) -> None:
        if image.nbytes > self.limit_bytes or key in self._held:
            return
        self._held[key] = image
        self._bytes += image.nbytes
        while self._bytes > self.limit_bytes:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= dropped.nbytes


def available_memory() -> int:
    """Bytes of memory that are free for this process; half of all memory if this is not known."""
    with suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(dict(line.split(":") for line in lines)["MemAvailable"].split()[0]) * 1024
        return min(free, _container_memory())
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _container_memory() -> int:
    """Bytes that a container's limit (cgroup v2) leaves; a very large number without a limit."""
    with suppress(OSError, ValueError):
        limit = Path("/sys/fs/cgroup/memory.max").read_text()
        return int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text())
    return sys.maxsize


def _rgb(image: "Image.Image") -> np.ndarray:
    """The pixels of an image with at most 8 bits in a channel. uint8 [height, width, 3]"""
    from PIL import Image

    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, BAND):
        band = image.crop((0, top, image.width, min(top + BAND, image.height)))
        if _has_alpha(band):
            band = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
        pixels[top : top + BAND] = np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
    return pixels


def _is_deep(image: "Image.Image") -> bool:
    """Whether grey values have more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;")


def _too_deep(path: Path) -> str:
    return f"{path} has grey values of more than 8 bits, expected 8 bits: convert it"


def _has_alpha(image: "Image.Image") -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
