"""Checks COLMAP's model files before pycolmap reads them.

pycolmap 4.2 trusts every count in a file: if the file was cut, it returns random intrinsics, or
takes memory until it is killed. The layouts are those of https://colmap.github.io/format.html and,
for rigs and frames, of the files that COLMAP 3.12 and later write.
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

from lumigraph.datasets.files import lines
from lumigraph.datasets.lens import colmap

NEEDED = ("cameras", "images", "points3D")

LINE_LIMIT = 1 << 26
"""Longest line of a text file in bytes: an image with a million features."""

Skip = Callable[[mmap.mmap, int], int]
"""From the offset of an entry to its end; struct.error if the file ends before that."""


def is_model(folder: Path) -> bool:
    """Whether the folder holds a COLMAP model."""
    return _complete(folder, ".bin") or _complete(folder, ".txt")


def check_model(folder: Path) -> int:
    """Walks through the files of a model, and returns the number of its images.

    Raises:
        ValueError: A binary file is shorter or longer than its counts say, or a text file has a
            line that is too long.
    """
    if _complete(folder, ".bin"):  # pycolmap reads these, too, if both kinds are there.
        counts = {
            name: _check(folder / f"{name}.bin", skip)
            for name, skip in ENTRIES.items()
            if (folder / f"{name}.bin").is_file()
        }
        return counts["images"]
    return {name: _count_lines(folder / f"{name}.txt") for name in NEEDED}["images"] // 2


def _count_lines(path: Path) -> int:
    """The number of lines of a text file that are not comments."""
    with open(path, "rb") as file:
        return sum(not line.startswith(b"#") for line in lines(file, path, LINE_LIMIT))


def _complete(folder: Path, suffix: str) -> bool:
    return all((folder / f"{name}{suffix}").is_file() for name in NEEDED)


def _check(path: Path, skip: Skip) -> int:
    """The number of entries of a binary file, all of which are complete."""
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
            f"{path} was cut: it has {size} bytes, too few for its {count} entries: copy it again"
        )
    if end < size:
        raise ValueError(
            f"{path} has {size} bytes, expected {end} for its {count} entries: copy it again"
        )
    return count


def _camera(data: mmap.mmap, start: int) -> int:
    """Id, model, width, height, then the parameters of the model."""
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
    """Id, rotation, translation, camera, name with a zero byte, then 24 bytes for each feature."""
    name = data.find(b"\0", start + 64)
    if name < 0:
        raise struct.error
    return name + 9 + 24 * struct.unpack_from("<Q", data, name + 1)[0]


def _point(data: mmap.mmap, start: int) -> int:
    """Id, position, colour, error, then 8 bytes for each view of it."""
    return start + 51 + 8 * struct.unpack_from("<Q", data, start + 43)[0]


def _rig(data: mmap.mmap, start: int) -> int:
    """Id, count of sensors; type and id of the first; type, id and perhaps a pose of the others."""
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
