"""Files sent by a page: taken in pieces, checked, unpacked where nothing else lies."""

import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lumigraph.app.files import printable

FILE_BYTES, FOLDER_BYTES = 4 << 30, 16 << 30
"""Of one file, and of all that is unpacked from a zip or sent in a row."""

MEMBERS = 20_000
"""Files in a zip: more than any capture has photos."""

RATIO = 200
"""A zip may grow so many times: photos hardly do, text of cameras about tenfold."""

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
CAMERAS = (".json", ".bin", ".txt", ".ply", ".db")
KINDS = (*PHOTOS, *CAMERAS)
"""What is taken out of a zip, by the end of its name; all else stays in it."""


@dataclass
class Upload:
    """A file that is on its way.

    Attributes:
        path: Where it is written to.
        size: Bytes that were announced.
        received: Bytes that have come.
    """

    path: Path
    size: int
    file: BinaryIO = field(repr=False)
    received: int = 0

    def add(self, data: bytes) -> bool:
        """Writes the next piece; True when it was the last, and the file is closed.

        Raises:
            ValueError: More came than was announced.
            OSError: It cannot be written.
        """
        if self.received + len(data) > self.size:
            raise ValueError(f"{self.path.name} is larger than the {self.size} bytes announced")
        self.file.write(data)
        self.received += len(data)
        if self.received < self.size:
            return False
        self.file.close()
        return True

    def drop(self) -> None:
        """Lets go of it, unless it is whole or was let go of before."""
        if not self.file.closed:
            self.file.close()
            self.path.unlink(missing_ok=True)


def begin_upload(folder: Path, name: str, size: int) -> Upload:
    """A file of that name, or one like it, that is to be filled.

    Raises:
        ValueError: The name has no end that is known, or the size is none that is taken.
    """
    safe = safe_name(name)
    suffix = Path(safe).suffix.lower()
    if suffix not in (*PHOTOS, ".zip", ".ply"):
        raise ValueError(
            f"{printable(name)[:80]} is not taken: send photos ({', '.join(PHOTOS)}), a zip of a "
            "capture, or a .ply of splats"
        )
    if not 0 < size <= FILE_BYTES:
        raise ValueError(f"{safe} has {size} bytes, expected 1 to {FILE_BYTES}: send less at once")
    if shutil.disk_usage(_existing(folder)).free < 2 * size:
        raise ValueError(f"There is no room for the {size >> 20} MB of {safe}: free some space")
    folder.mkdir(parents=True, exist_ok=True)
    path = free_path(folder / safe)
    return Upload(path, size, open(path, "xb"))


def safe_name(name: str) -> str:
    """The last part of a name, without what file systems and terminals take for commands."""
    last = unicodedata.normalize("NFC", name.replace("\\", "/")).rsplit("/", 1)[-1]
    kept = "".join(c if c.isalnum() or c in "._- " else "_" for c in last).strip(". ")
    stem, suffix = Path(kept).stem[:80], Path(kept).suffix[:8]
    if not stem or stem.upper() in ("CON", "PRN", "AUX", "NUL"):
        stem = f"file_{stem}"
    return stem + suffix


def unpack(path: Path, folder: Path) -> int:
    """Unpacks the photos and cameras of a zip into a new folder; returns how many.

    Raises:
        ValueError: It is no zip, or one that would lead outside, or grow too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = list(_members(archive, path))
            if not members:
                raise ValueError(f"{path.name} holds no photos or cameras")
            folder.mkdir(parents=True)
            for info, place in members:
                _extract(archive, info, folder / place)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ValueError(f"{path.name} is not a zip that can be unpacked: {error}") from None
    except ValueError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return len(members)


def _members(
    archive: zipfile.ZipFile, path: Path
) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """What is to be unpacked and where to, checked before a byte of it is."""
    infos = archive.infolist()
    if len(infos) > MEMBERS:
        raise ValueError(f"{path.name} holds {len(infos)} files, more than {MEMBERS}")
    total = sum(info.file_size for info in infos)
    if total > min(FOLDER_BYTES, max(RATIO * path.stat().st_size, 1 << 20)):
        raise ValueError(f"{path.name} would grow to {total >> 20} MB: that is no zip of photos")
    for info in infos:
        place = PurePosixPath(info.filename.replace("\\", "/"))
        if info.is_dir() or place.suffix.lower() not in KINDS:
            continue
        outside = place.is_absolute() or ".." in place.parts or ":" in place.parts[0]
        if outside or stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"{path.name} holds {printable(info.filename)[:80]}, which leads out")
        yield info, place


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Writes one member, but not a byte more than it announced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = info.file_size
    with archive.open(info) as source, open(path, "xb") as out:
        while block := source.read(min(1 << 20, left + 1)):
            left -= len(block)
            if left < 0:
                raise ValueError(f"{path.name} is larger than its zip says")
            out.write(block)


def free_path(path: Path) -> Path:
    """The path, or the first with a number that nothing lies at."""
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")
    return free


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
