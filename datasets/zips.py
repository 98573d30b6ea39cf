"""Zips of captures: checked before anything is unpacked, and unpacked into a new folder.

Python's `zipfile` believes what a zip says about itself. So a zip is refused if it has too many
members or folders, if it would grow too large, or if a member is packed by a method that could fill
the memory, is no plain file, or has a name that leads elsewhere or stands for something else.
"""

import errno
import shutil
import stat
import struct
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from lumigraph.datasets.files import printable

MEMBERS = 20_000
"""Members of a zip: more than any capture has photos."""

FOLDERS, DEPTH = 1_000, 16
"""Folders in a zip, and how deep they are nested: a capture has about five, three deep."""

DIRECTORY_BYTES = 400 * MEMBERS
"""Size of a zip's directory, which `zipfile` reads into memory at once. An entry has 46 bytes and
its name, and some programs add as much again."""

RATIO = 200
"""How much larger the members may be than their zip: photos hardly shrink, text about tenfold."""

NAME_BYTES = 255
"""Length of a file's or folder's name in UTF-8 that file systems have room for."""

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
CAMERAS = (".json", ".bin", ".txt", ".ply", ".db")
KINDS = (*PHOTOS, *CAMERAS)
"""Endings of the names of members that are unpacked; all other members stay in the zip."""

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How members may be packed. `zipfile` unpacks bzip2 and LZMA into memory without a limit."""

RESERVED = {"CON", "PRN", "AUX", "NUL"} | {
    f"{port}{n}" for port in ("COM", "LPT") for n in "123456789"
}
"""Names that stand for devices in Windows, whatever their ending."""

_END, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")

Made = TypeVar("Made")


class Unfit(ValueError):
    """A zip is refused; the message says why."""


@dataclass(frozen=True)
class Unpacked:
    """The folder that a zip was unpacked into, the number of files, and their bytes together."""

    folder: Path
    files: int
    size: int


def unpack(path: Path, folder: Path, room: int) -> Unpacked:
    """Unpacks the photos and cameras of a zip into a new folder.

    Args:
        path: The zip.
        folder: The folder to make; if it exists, a number is added to its name.
        room: Bytes that the files may take together.

    Raises:
        ValueError: The file is no zip, is damaged, would write outside the folder or grow too
            large. Nothing of it is left.
    """
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path, room)
            made, _ = claimed(folder, Path.mkdir)
            try:
                for info, place in members:
                    _extract(archive, info, made / place)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
    except Unfit:
        raise
    except Exception as error:  # zipfile raises errors of many kinds for damaged files.
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        wrong = "needs more room than the disk has" if full else "is damaged, or no zip"
        raise Unfit(f"{path.name} {wrong} ({error or type(error).__name__})") from None
    return Unpacked(made, len(members), sum(info.file_size for info, _ in members))


def claimed(path: Path, make: Callable[[Path], Made]) -> tuple[Path, Made]:
    """The path, or the first free one with a number added, and what `make` returned for it."""
    number, free = 1, path
    while True:
        with suppress(FileExistsError):  # Another thread may have made it first.
            return free, make(free)
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")


def _check_directory(path: Path) -> None:
    """Raises Unfit if the directory of a zip is too large for `zipfile` to read into memory.

    The directory's end record is searched where `zipfile` searches it, and must end the file:
    otherwise the two could find different records (APPNOTE.TXT, sections 4.3.14 to 4.3.16).
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = max(0, size - _END.size - 0xFFFF - _LOCATOR.size - _END64.size)
        file.seek(start)
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise Unfit(f"{path.name} is no zip, or was cut off: send it again")
    *_, count, length, _, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise Unfit(f"{path.name} is damaged, or no zip: there are bytes behind its end")
    locator = at - _LOCATOR.size
    if locator >= 0 and tail[locator:at].startswith(b"PK\6\7"):
        if locator < _END64.size or not tail.startswith(b"PK\6\6", locator - _END64.size):
            raise Unfit(f"{path.name} is damaged, or no zip: its Zip64 record is missing")
        *_, count, length, _ = _END64.unpack_from(tail, locator - _END64.size)
    _check_count(path, count)
    if length > DIRECTORY_BYTES:
        raise Unfit(f"{path.name} has a directory of {length} bytes, more than {DIRECTORY_BYTES}")


def _check_count(path: Path, count: int) -> None:
    if count > MEMBERS:
        raise Unfit(f"{path.name} holds {count} files, more than {MEMBERS}: send parts of it")


def _members(
    archive: zipfile.ZipFile, path: Path, room: int
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The members to unpack and their places in the new folder, all of them checked."""
    infos = archive.infolist()
    _check_count(path, len(infos))
    total = sum(info.file_size for info in infos)
    if total > max(RATIO * path.stat().st_size, 1 << 20):
        raise Unfit(
            f"{path.name} would grow to {total >> 20} MB, far more than photos would: make "
            "a zip of the photos alone"
        )
    members = []
    for info in infos:
        place = PurePosixPath(info.filename.replace("\\", "/"))
        if info.is_dir() or place.suffix.lower() not in KINDS:
            continue
        if wrong := _wrong_with(info, place):
            raise Unfit(f"{path.name} holds {printable(info.orig_filename)[:80]}, which {wrong}")
        members.append((info, place))
    if not members:
        raise Unfit(f"{path.name} holds no photos or cameras")
    _check_places(path, [place for _, place in members])
    if (needed := sum(info.file_size for info, _ in members)) > room:
        raise Unfit(
            f"{path.name} would grow to {needed >> 20} MB, and there is room for {room >> 20} MB"
        )
    return members


def _wrong_with(info: zipfile.ZipInfo, place: PurePosixPath) -> str | None:
    """Why a member is not unpacked, as the end of a sentence; None if nothing is wrong."""
    # The upper half holds the file's mode in Unix, or nothing.
    mode, first = info.external_attr >> 16, place.parts[0]
    drive = len(first) > 1 and first[1] == ":" and first[0].isalpha()
    if place.is_absolute() or ".." in place.parts or drive:
        return "leads out of the folder: zip the folder itself, with relative names"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a link or a device: zip the file it stands for"
    if info.flag_bits & 1:
        return "is encrypted: zip it without a password"
    if info.compress_type not in METHODS:
        return f"is packed by method {info.compress_type}: zip it with deflate, the usual method"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in info.orig_filename):
        return "has control characters in its name: rename it"
    if any(part.split(".")[0].rstrip().upper() in RESERVED for part in place.parts):
        return "has a name that stands for a device in Windows: rename it"
    if any(len(part.encode()) > NAME_BYTES for part in place.parts):
        return f"has a name of more than {NAME_BYTES} bytes: rename it"
    if len(place.parts) > DEPTH:
        return f"is more than {DEPTH} folders deep: zip the folder of the photos"
    return None


def _check_places(path: Path, places: Iterable[PurePosixPath]) -> None:
    """Raises Unfit if there are too many folders, or two members would be one file.

    Names that differ only in case, or in how accents are encoded, are one name on some disks.
    """
    files: dict[str, PurePosixPath] = {}
    folders: dict[str, PurePosixPath] = {}
    for place in places:
        for parent in place.parents[:-1]:
            folders.setdefault(_as_one(parent), parent)
        twin = files.setdefault(_as_one(place), place)
        if twin is not place:
            names = " and ".join(printable(str(each))[:80] for each in (twin, place))
            raise Unfit(
                f"{path.name} holds {names}, which some disks take for one name: rename one"
            )
    if both := files.keys() & folders.keys():
        name = printable(str(files[min(both)]))[:80]
        raise Unfit(f"{path.name} holds {name} both as a file and as a folder: rename one")
    if len(folders) > FOLDERS:
        raise Unfit(f"{path.name} holds {len(folders)} folders, more than {FOLDERS}")


def _as_one(place: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(place)).casefold())


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Writes one member, which must have exactly the size that the zip says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = info.file_size
    with archive.open(info) as source, open(path, "xb") as out:
        while block := source.read(min(1 << 20, left + 1)):
            left -= len(block)
            if left < 0:
                break
            out.write(block)
    if left:
        raise Unfit(f"{printable(path.name)} is larger or smaller than its zip says: zip it again")
