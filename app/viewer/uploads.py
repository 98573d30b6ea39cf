"""Files that pages upload: received in pieces, checked, and unpacked into new folders.

A zip of a capture is unpacked into a folder of its own, and a PLY file stays as it is. Photos that
are sent one by one form a capture together with the files of their cameras. All of them go into one
folder: photos into `images`, a COLMAP model into `sparse/0`, and a transforms.json, which must list
its photos as images/NAME, into the folder itself. The files may come in any order and at any time,
and a file that is sent again replaces the first one. A photo begins a new folder if another photo
of its name but of another size is there, and so does the first file after a training was started.
"""

import os
import shutil
import threading
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from lumigraph.datasets.files import printable
from lumigraph.datasets.zips import CAMERAS, MEMBERS, PHOTOS, RESERVED, Unpacked, claimed, unpack

FILE_BYTES, SITTING_BYTES = 4 << 30, 16 << 30
"""Largest size of one file, and of all files, unpacked, that pages send to one server."""

IMAGES, MODEL = "images", "sparse/0"
LOOSE = {
    **{f"transforms{split}.json": "" for split in ("", "_train", "_test", "_val")},
    **{f"{name}{end}": MODEL for name in ("cameras", "images", "points3D") for end in CAMERAS[1:3]},
}
"""Files of cameras that may be sent one by one, and the folder of a capture each belongs to."""

STEM_BYTES, SUFFIX_BYTES = 80, 8
"""Length in UTF-8 of a name's two parts: file systems allow 255 bytes, and a number may follow."""


@dataclass(eq=False)
class Upload:
    """A file that is being received.

    Attributes:
        path: The file that is written.
        size: Bytes that were announced.
        received: Bytes that were received.
    """

    path: Path
    size: int
    file: BinaryIO = field(repr=False)
    received: int = 0

    def add(self, data: bytes) -> bool:
        """Writes the next piece; after the last one, closes the file and returns True.

        Raises:
            ValueError: More bytes came than were announced.
            OSError: The file cannot be written.
        """
        if self.received + len(data) > self.size:
            raise ValueError(f"{self.path.name} is larger than the {self.size} bytes announced")
        self.file.write(data)
        self.received += len(data)
        if self.received < self.size:
            return False
        self.file.close()
        return True


class Sitting:
    """All files that pages send while one server runs; any thread may call its methods."""

    def __init__(self, folder: Path) -> None:
        """Begins without any files.

        Args:
            folder: Receives the files; it is made when the first file is announced.
        """
        self._folder, self._lock = folder, threading.Lock()
        self._held: dict[Path, int] = {}  # Bytes received, unpacked or announced.
        self._coming: set[Upload] = set()
        self._capture: Path | None = None  # Receives photos that are sent one by one.

    def begin(self, name: str, size: int) -> Upload:
        """A new upload, to a file of that name or a similar one.

        Raises:
            ValueError: The kind of file is not accepted, or there is no room for the file.
            OSError: The file cannot be written.
        """
        safe = safe_name(name)
        kind = Path(safe).suffix.lower()
        if kind not in (*PHOTOS, ".zip", ".ply") and safe not in LOOSE:
            raise ValueError(
                f"{printable(name)[:80]} is not accepted: send a zip of a capture, a .ply of "
                f"splats, or photos ({', '.join(PHOTOS)}) with a transforms.json or a COLMAP model"
            )
        if not 0 < size <= FILE_BYTES:
            raise ValueError(f"{safe} has {size} bytes, expected 1 to {FILE_BYTES}: send less")
        with self._lock:
            self._check_room(safe, size)
            alone = kind in (".zip", ".ply")
            path = self._folder / safe if alone else self._place(safe, size)
            path.parent.mkdir(parents=True, exist_ok=True)
            path, file = claimed(path, _new_file)
            upload = Upload(path, size, file)
            self._held[path] = size
            self._coming.add(upload)
        return upload

    def drop(self, upload: Upload) -> None:
        """Deletes an unfinished upload; a finished or dropped one is left alone."""
        if upload.file.closed:
            return
        upload.file.close()
        self.remove(upload.path)

    def remove(self, path: Path) -> None:
        """Deletes the file or folder at that path, and frees its share of the limit."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        with self._lock:
            self._held.pop(path, None)

    def unpack(self, path: Path) -> Unpacked:
        """Unpacks a zip that was sent into a folder beside it, and always deletes the zip.

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
        """The folder of the capture that contains a photo, or a file of its cameras."""
        return self._folder / path.relative_to(self._folder).parts[0]

    def end_capture(self) -> None:
        """Makes the next photo that is sent begin another capture."""
        with self._lock:
            self._capture = None

    def _check_room(self, name: str, size: int) -> None:
        """Raises ValueError if there is no room for the file; the caller holds the lock."""
        if sum(self._held.values()) + size > SITTING_BYTES:
            raise ValueError(
                f"With {name} more than {SITTING_BYTES >> 30} GB would be uploaded: restart the "
                "server, or start it with the folder that contains the files"
            )
        if len(self._held) >= MEMBERS:
            raise ValueError(
                f"At most {MEMBERS} files can be sent, and {name} is one more: send a zip"
            )
        if self._free() < 2 * size:
            raise ValueError(f"There is no room for the {size >> 20} MB of {name}: free some space")

    def _free(self) -> int:
        """Bytes that are free on the disk, less those announced; the caller holds the lock."""
        self._coming = {upload for upload in self._coming if not upload.file.closed}
        coming = sum(upload.size - upload.received for upload in self._coming)
        return shutil.disk_usage(_existing(self._folder)).free - coming

    def _place(self, name: str, size: int) -> Path:
        """A free path for a photo, or for a file of its cameras; the caller holds the lock."""
        within = Path(LOOSE.get(name, IMAGES)) / name
        if self._capture is not None:
            path = self._capture / within
            coming = any(u.path == path and not u.file.closed for u in self._coming)
            # Different photos almost never have the same size to the byte.
            again = name in LOOSE or self._held.get(path) == size
            if again and not coming and self._held.pop(path, None) is not None:
                path.unlink(missing_ok=True)
            if not os.path.lexists(path):
                return path
        self._folder.mkdir(parents=True, exist_ok=True)
        self._capture, _ = claimed(self._folder / "photos", Path.mkdir)
        return self._capture / within


def safe_name(name: str) -> str:
    """The last part of a name, without characters that file systems or terminals interpret."""
    last = unicodedata.normalize("NFC", name.replace("\\", "/")).rsplit("/", 1)[-1]
    kept = "".join(c if c.isalnum() or c in "._- " else "_" for c in last).strip(". ")
    stem, suffix = _cut(Path(kept).stem, STEM_BYTES), _cut(Path(kept).suffix, SUFFIX_BYTES)
    if not stem or stem.split(".")[0].upper() in RESERVED:
        stem = f"file_{stem}"
    return stem + suffix


def _new_file(path: Path) -> BinaryIO:
    return open(path, "xb")


def _cut(text: str, limit: int) -> str:
    """The beginning of the text, at most `limit` bytes in UTF-8."""
    return text.encode()[:limit].decode(errors="ignore")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest of its parents that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
