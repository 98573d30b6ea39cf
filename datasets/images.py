"""The one door for images: Pillow in, uint8 out, and a memory of bounded size between."""

import os
import struct
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from lumigraph.datasets.files import atomic

if TYPE_CHECKING:
    from PIL import Image

SHARE = 4
"""The cache takes a quarter of the free memory: a fit needs the rest for splats and their moments,
and photos that do not fit come back from disk at a few milliseconds each."""

ROTATED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


@contextmanager
def opened(path: Path) -> Iterator["Image.Image"]:
    """The image file, its header read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an image, is damaged, or claims to be too large to be one.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} claims more pixels than a photo has: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(
            f"{path} is not an image that can be read: replace it or remove it ({error})"
        ) from error


def image_header(path: Path) -> tuple[int, int, bool]:
    """Width, height, and whether it has transparency; the pixels are not decoded."""
    with opened(path) as image:
        return (*image.size, _has_alpha(image))


def exif_turned(path: Path) -> bool:
    """Whether EXIF says to turn it by a right angle; for a PNG all of it is decoded."""
    with opened(path) as image:
        return image.getexif().get(0x0112) in ROTATED


def decode_rgb(path: Path, turned: bool = False) -> np.ndarray:
    """The photo's pixels, transparency laid over white. uint8 [height, width, 3]

    EXIF rotation is applied only if `turned`: COLMAP calibrates photos as they are stored.
    """
    from PIL import Image, ImageOps

    with opened(path) as image:
        deep = image.mode in ("I", "F") or image.mode.startswith("I;")
        if not deep:
            if turned:
                image = ImageOps.exif_transpose(image)
            if _has_alpha(image):
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.array(image.convert("RGB"))
    raise ValueError(
        f"{path} has grey values of more than 8 bits, expected an 8-bit photo: convert it"
    )


def decode_mask(path: Path, turned: bool = False) -> np.ndarray:
    """The mask as 255 where it is lighter than mid-grey, else 0. uint8 [height, width]"""
    from PIL import ImageOps

    with opened(path) as image:
        if turned:
            image = ImageOps.exif_transpose(image)
        grey = np.array(image.convert("L"))
    return np.where(grey >= 128, np.uint8(255), np.uint8(0))


def shrunk(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Each square of `factor` x `factor` pixels as its mean; a remainder at the far edges is cut.

    Cutting keeps every pixel an exact mean of whole ones, so that the intrinsics scale by exactly
    1 / factor; rounding the size up or down instead would shift the image by parts of a pixel.
    """
    from PIL import Image

    if factor == 1:
        return pixels
    height, width = (side // factor * factor for side in pixels.shape[:2])
    return np.array(Image.fromarray(pixels[:height, :width]).reduce(factor))


def averaged(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The photo at a smaller size, each pixel the mean of the area it covers; its edges stay."""
    from PIL import Image

    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def stretched(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """The mask at another size, each pixel that of the nearest before. [height, width]"""
    from PIL import Image

    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def saved_png(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """What `save_png` wrote there; None if it is absent, damaged or of another shape."""
    mode = "RGB" if len(shape) == 3 else "L"
    try:
        with opened(path) as image:
            # The size is looked at first: a damaged one may be too large for the memory.
            fits = (image.height, image.width) == shape[:2] and image.mode == mode
            return np.array(image) if fits else None
    except (FileNotFoundError, ValueError):
        return None


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Write the pixels losslessly, whole or not at all; folders are made.

    Raises:
        OSError: The folder cannot be written to.
    """
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        # Level 1 is three times as fast as the default and a tenth larger.
        Image.fromarray(pixels).save(partial, "PNG", compress_level=1)


class ImageCache:
    """Decoded images, the least recently used dropped first; any number of threads may ask.

    Attributes:
        limit_bytes: Of all images held together; a single larger one is not held.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = available_memory() // SHARE if limit_bytes is None else limit_bytes
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}
        self._bytes = 0
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["ImageCache"], tuple[int]]:
        """Another process gets an empty cache of the same limit."""
        return ImageCache, (self.limit_bytes,)

    @property
    def used_bytes(self) -> int:
        """Of the images held now."""
        return self._bytes

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The image held under `key`, else the one that `make` returns; not to be written to."""
        with self._lock:
            if (image := self._find(key)) is not None:
                return image
            making = self._making.setdefault(key, Lock())
        with making:  # One thread makes an image, others that want the same one wait for it.
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
    """Bytes that this process can take without pushing others out; half of all if not known."""
    with suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(dict(line.split(":") for line in lines)["MemAvailable"].split()[0]) * 1024
        return min(free, _container_memory())
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _container_memory() -> int:
    """What the container's limit (cgroup v2) leaves; a very large number without one."""
    with suppress(OSError, ValueError):
        limit = Path("/sys/fs/cgroup/memory.max").read_text()
        return int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text())
    return sys.maxsize


def _has_alpha(image: "Image.Image") -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
