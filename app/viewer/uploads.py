"""Files sent by pages: taken in pieces, checked, unpacked where nothing else lies.

A zip of a capture is unpacked into a folder of its own, and a PLY lies by itself. Photos that are
sent one by one make a capture together with the files of their cameras: all go into one folder, the
photos into `images`, a COLMAP model into `sparse/0`, a transforms.json, which has to name its
photos as images/NAME, beside them. They may come in any order and in several goes, and a file that
is sent again takes the place of the first. A photo of the name of one there, but of another size,
begins another such folder, and so does the first file after a training was started.
"""

import errno
import os
import shutil
import stat
import struct
import threading
import unicodedata
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from lumigraph.app.run.files import printable

FILE_BYTES, SITTING_BYTES = 4 << 30, 16 << 30
"""Of one file, and of all that pages send, unpacked, as long as one server runs."""

MEMBERS = 20_000
"""Files in a zip: more than any capture has photos."""

DIRECTORY_BYTES = 400 * MEMBERS
"""Of a zip's directory: an entry has 46 and its name, some add as much again. It is read whole."""

RATIO = 200
"""A zip may grow so many times: photos hardly do, text of cameras about tenfold."""

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
CAMERAS = (".json", ".bin", ".txt", ".ply", ".db")
KINDS = (*PHOTOS, *CAMERAS)
"""What is taken out of a zip, by the end of its name; all else stays in it."""

IMAGES, MODEL = "images", "sparse/0"
LOOSE = {
    **{f"transforms{split}.json": "" for split in ("", "_train", "_test", "_val")},
    **{f"{name}{end}": MODEL for name in ("cameras", "images", "points3D") for end in CAMERAS[1:3]},
}
"""Files of cameras that may be sent one by one, and where in a capture each lies."""

STEM_BYTES, SUFFIX_BYTES = 80, 8
"""Of a name in UTF-8: file systems have room for 255, of which a folder's path may need some."""

_END, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")

Made = TypeVar("Made")


class Unfit(ValueError):
    """A zip that is not taken, and why."""


@dataclass(eq=False)
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


@dataclass(frozen=True)
class Unpacked:
    """What came out of a zip: the folder that was made, how many files, of how many bytes."""

    folder: Path
    files: int
    size: int


class Sitting:
    """All that pages send while one server runs; any thread may call it."""

    def __init__(self, folder: Path) -> None:
        """Nothing was sent yet.

        Args:
            folder: Where it goes; made when the first file is announced.
        """
        self._folder, self._lock = folder, threading.Lock()
        self._held: dict[Path, int] = {}  # bytes of what lies here, or was announced
        self._coming: set[Upload] = set()
        self._capture: Path | None = None  # that takes the photos which are sent one by one

    def begin(self, name: str, size: int) -> Upload:
        """A file of that name, or one like it, that is to be filled.

        Raises:
            ValueError: It is of no kind that is known, or there is no room for it.
            OSError: It cannot be written.
        """
        safe = safe_name(name)
        kind = Path(safe).suffix.lower()
        if kind not in (*PHOTOS, ".zip", ".ply") and safe not in LOOSE:
            raise ValueError(
                f"{printable(name)[:80]} is not taken: send a zip of a capture, a .ply of splats, "
                f"or photos ({', '.join(PHOTOS)}) with a transforms.json or a COLMAP model"
            )
        if not 0 < size <= FILE_BYTES:
            raise ValueError(f"{safe} has {size} bytes, expected 1 to {FILE_BYTES}: send less")
        with self._lock:
            self._check_room(safe, size)
            alone = kind in (".zip", ".ply")
            path = self._folder / safe if alone else self._place(safe, size)
            path.parent.mkdir(parents=True, exist_ok=True)
            path, file = _claimed(path, _new_file)
            upload = Upload(path, size, file)
            self._held[path] = size
            self._coming.add(upload)
        return upload

    def drop(self, upload: Upload) -> None:
        """Lets go of a file, unless it is whole or was let go of before."""
        if upload.file.closed:
            return
        upload.file.close()
        self.remove(upload.path)

    def remove(self, path: Path) -> None:
        """Deletes what was sent, or unpacked, to that path."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        with self._lock:
            self._held.pop(path, None)

    def unpack(self, path: Path) -> Unpacked:
        """Unpacks a zip that was sent beside it; the zip itself is deleted, whatever comes of it.

        Raises:
            ValueError: See `unpack`.
        """
        try:
            with self._lock:
                others = sum(self._held.values()) - self._held.get(path, 0)
                room = min(SITTING_BYTES - others, self._free())
            unpacked = unpack(path, path.with_suffix(""), room)
            with self._lock:
                self._held[unpacked.folder] = unpacked.size
            return unpacked
        finally:
            self.remove(path)

    def capture_of(self, path: Path) -> Path:
        """The folder of the capture that a photo, or a file of its cameras, lies in."""
        return self._folder / path.relative_to(self._folder).parts[0]

    def end_capture(self) -> None:
        """Has the next photo that is sent begin another capture."""
        with self._lock:
            self._capture = None

    def _check_room(self, name: str, size: int) -> None:
        """Raises ValueError if a file of that size is too much; under the lock."""
        if sum(self._held.values()) + size > SITTING_BYTES:
            raise ValueError(
                f"With {name} more than {SITTING_BYTES >> 30} GB would have been sent: start the "
                "page anew, or give it the folder where the files are"
            )
        if self._free() < 2 * size:
            raise ValueError(f"There is no room for the {size >> 20} MB of {name}: free some space")

    def _free(self) -> int:
        """Bytes that the disk has room for, without those that are still to come; locked."""
        self._coming = {upload for upload in self._coming if not upload.file.closed}
        coming = sum(upload.size - upload.received for upload in self._coming)
        return shutil.disk_usage(_existing(self._folder)).free - coming

    def _place(self, name: str, size: int) -> Path:
        """Where a photo, or a file of its cameras, goes, which is free then; under the lock."""
        within = Path(LOOSE.get(name, IMAGES)) / name
        if self._capture is not None:
            path = self._capture / within
            coming = any(u.path == path and not u.file.closed for u in self._coming)
            # Two photos of one size to the byte are hardly ever different ones.
            again = name in LOOSE or self._held.get(path) == size
            if again and not coming and self._held.pop(path, None) is not None:
                path.unlink(missing_ok=True)
            if not os.path.lexists(path):
                return path
        self._folder.mkdir(parents=True, exist_ok=True)
        self._capture, _ = _claimed(self._folder / "photos", Path.mkdir)
        return self._capture / within


def safe_name(name: str) -> str:
    """The last part of a name, without what file systems and terminals take for commands."""
    last = unicodedata.normalize("NFC", name.replace("\\", "/")).rsplit("/", 1)[-1]
    kept = "".join(c if c.isalnum() or c in "._- " else "_" for c in last).strip(". ")
    stem, suffix = _cut(Path(kept).stem, STEM_BYTES), _cut(Path(kept).suffix, SUFFIX_BYTES)
    if not stem or stem.upper() in ("CON", "PRN", "AUX", "NUL"):
        stem = f"file_{stem}"
    return stem + suffix


def unpack(path: Path, folder: Path, room: int) -> Unpacked:
    """Unpacks the photos and cameras of a zip into a new folder.

    Args:
        path: Of the zip.
        folder: To be made; if something lies there, one of a similar name is.
        room: Bytes that there may be of them.

    Raises:
        ValueError: It is no zip, a damaged one, or one that would lead outside or grow too large.
            Nothing of it is left.
    """
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path, room)
            made, _ = _claimed(folder, Path.mkdir)
            try:
                for info, place in members:
                    _extract(archive, info, made / place)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
    except Unfit:
        raise
    except Exception as error:  # zipfile and its codecs raise many kinds, and more with each codec
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        wrong = "has more in it than the disk has room for" if full else "is damaged, or no zip"
        raise Unfit(f"{path.name} {wrong} ({error or type(error).__name__})") from None
    return Unpacked(made, len(members), sum(info.file_size for info, _ in members))


def _check_directory(path: Path) -> None:
    """Raises Unfit if a zip's directory is too large, for `zipfile` reads it whole before it says.

    Its end is looked for where `zipfile` does, and must be the end of the file: otherwise the two
    could find different ones (APPNOTE.TXT, sections 4.3.14 to 4.3.16).
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = max(0, size - _END.size - 0xFFFF - _LOCATOR.size - _END64.size)
        file.seek(start)
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise Unfit(f"{path.name} is no zip, or was cut off")
    *_, count, length, _, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise Unfit(f"{path.name} is damaged, or no zip: something stands behind its end")
    locator = at - _LOCATOR.size
    if locator >= 0 and tail[locator:at].startswith(b"PK\6\7"):
        if locator < _END64.size or not tail.startswith(b"PK\6\6", locator - _END64.size):
            raise Unfit(f"{path.name} is damaged, or no zip: its Zip64 record is not there")
        *_, count, length, _ = _END64.unpack_from(tail, locator - _END64.size)
    if count > MEMBERS:
        raise Unfit(f"{path.name} holds {count} files, more than {MEMBERS}")
    if length > DIRECTORY_BYTES:
        raise Unfit(f"{path.name} has a directory of {length} bytes, more than {DIRECTORY_BYTES}")


def _members(
    archive: zipfile.ZipFile, path: Path, room: int
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """What is to be unpacked and where to, checked before a byte of it is."""
    infos = archive.infolist()
    if len(infos) > MEMBERS:
        raise Unfit(f"{path.name} holds {len(infos)} files, more than {MEMBERS}")
    total = sum(info.file_size for info in infos)
    if total > max(RATIO * path.stat().st_size, 1 << 20):
        raise Unfit(f"{path.name} would grow to {total >> 20} MB: that is no zip of photos")
    members: list[tuple[zipfile.ZipInfo, PurePosixPath]] = []
    for info in infos:
        place = PurePosixPath(info.filename.replace("\\", "/"))
        if info.is_dir() or place.suffix.lower() not in KINDS:
            continue
        outside = place.is_absolute() or ".." in place.parts or ":" in place.parts[0]
        if outside or stat.S_ISLNK(info.external_attr >> 16):
            raise Unfit(f"{path.name} holds {printable(info.filename)[:80]}, which leads out")
        members.append((info, place))
    if not members:
        raise Unfit(f"{path.name} holds no photos or cameras")
    if (needed := sum(info.file_size for info, _ in members)) > room:
        raise Unfit(
            f"{path.name} would grow to {needed >> 20} MB, and there is room for {room >> 20} MB"
        )
    return members


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Writes one member, but not a byte more than it announced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = info.file_size
    with archive.open(info) as source, open(path, "xb") as out:
        while block := source.read(min(1 << 20, left + 1)):
            left -= len(block)
            if left < 0:
                raise Unfit(f"{printable(path.name)} is larger than its zip says")
            out.write(block)


def _claimed(path: Path, make: Callable[[Path], Made]) -> tuple[Path, Made]:
    """The path, or the first with a number that is free, and what `make` made there."""
    number, free = 1, path
    while True:
        with suppress(FileExistsError):  # somebody else may be quicker
            return free, make(free)
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")


def _new_file(path: Path) -> BinaryIO:
    return open(path, "xb")


def _cut(text: str, limit: int) -> str:
    """As much of the text as fits in so many bytes of UTF-8."""
    return text.encode()[:limit].decode(errors="ignore")


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
