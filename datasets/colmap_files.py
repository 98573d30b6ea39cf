"""COLMAP's model files, checked before pycolmap sees them: it believes every count it reads.

A cut file makes pycolmap 4.2 return random intrinsics, or take memory until it is killed.
The layouts are those of https://colmap.github.io/format.html and, for rigs and frames, of the files
that COLMAP 3.12 and later write.
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

from lumigraph.datasets.files import lines
from lumigraph.datasets.lens import colmap

NEEDED = ("cameras", "images", "points3D")

LINE_LIMIT = 1 << 26
"""Bytes of a line of a text file: those of an image with a million features."""

Skip = Callable[[mmap.mmap, int], int]
"""From where an entry begins to where it ends; struct.error if the file ends within it."""


def is_model(folder: Path) -> bool:
    """Whether the folder holds a COLMAP model."""
    return _complete(folder, ".bin") or _complete(folder, ".txt")


def check_model(folder: Path) -> int:
    """How many images the model registers, after its binary files were walked to their ends.

    Raises:
        ValueError: A file ends before all that it promises, or goes on after it.
    """
    if _complete(folder, ".bin"):  # What pycolmap reads too where both kinds are there.
        counts = {
            name: _check(folder / f"{name}.bin", skip)
            for name, skip in ENTRIES.items()
            if (folder / f"{name}.bin").is_file()
        }
        return counts["images"]
    return {name: _count_lines(folder / f"{name}.txt") for name in NEEDED}["images"] // 2


def _count_lines(path: Path) -> int:
    """Lines of a text file that are no comments."""
    with open(path, "rb") as file:
        return sum(not line.startswith(b"#") for line in lines(file, path, LINE_LIMIT))


def _complete(folder: Path, suffix: str) -> bool:
    return all((folder / f"{name}{suffix}").is_file() for name in NEEDED)


def _check(path: Path, skip: Skip) -> int:
    """How many entries the file has, all of them complete."""
    size = path.stat().st_size
    if size < 8:
        raise ValueError(f"{path} has {size} bytes, expected at least 8: copy it again")
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        (count,) = struct.unpack_from("<Q", data)
        end = 8
        try:
            for _ in range(count):
                end = skip(data, end)
        except (struct.error, OverflowError):
            end = size + 1
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
    if end > size:
        raise ValueError(
            f"{path} was cut: it has {size} bytes, too few for its {count} entries; copy it again"
        )
    if end < size:
        raise ValueError(f"{path} has {size} bytes, expected {end} for its {count} entries")
    return count


def _camera(data: mmap.mmap, start: int) -> int:
    """Id, model, width, height, then as many parameters as the model has."""
    model = struct.unpack_from("<iiQQ", data, start)[1]
    known = {int(value): value for value in colmap().CameraModelId.__members__.values()}
    if model < 0 or model not in known:
        raise ValueError(
            f"has a camera of model number {model}, expected one of "
            f"{sorted(value for value in known if value >= 0)}: update pycolmap, or copy it again"
        )
    camera = colmap().Camera.create_from_model_id(0, known[model], 1.0, 1, 1)
    return start + 24 + 8 * len(camera.params)


def _image(data: mmap.mmap, start: int) -> int:
    """Id, rotation, translation, camera, the name to its zero, then 24 bytes for each feature."""
    name = data.find(b"\0", start + 64)
    if name < 0:
        raise struct.error
    return name + 9 + 24 * struct.unpack_from("<Q", data, name + 1)[0]


def _point(data: mmap.mmap, start: int) -> int:
    """Id, position, colour, error, then 8 bytes for each view of it."""
    return start + 51 + 8 * struct.unpack_from("<Q", data, start + 43)[0]


def _rig(data: mmap.mmap, start: int) -> int:
    """Id and count of sensors: the first has type and id, the others maybe a pose too."""
    _, sensors = struct.unpack_from("<II", data, start)
    start += 8 + 8 * min(sensors, 1)
    for _ in range(sensors - 1):
        start += 9 + 56 * struct.unpack_from("<?", data, start + 8)[0]
    return start


def _frame(data: mmap.mmap, start: int) -> int:
    """Id, rig, rotation, translation, then 16 bytes for each image."""
    return start + 68 + 16 * struct.unpack_from("<I", data, start + 64)[0]


ENTRIES: dict[str, Skip] = {
    "cameras": _camera,
    "images": _image,
    "points3D": _point,
    "rigs": _rig,
    "frames": _frame,
}
