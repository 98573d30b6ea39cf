"""Files that are written completely or not at all, and names that are safe to show."""

import os
import re
import reprlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

PARTIAL = re.compile(r"\..+\.(\d+)\.\d+\.part")
"""Names of the temporary files of `atomic`, with the process that writes them."""

ABANDONED_SECONDS = 3600.0
"""A temporary file is abandoned if nothing was written to it for this long and no process of this
machine has its number: on a network drive, the process may run on another machine."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 72


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` once all of it is on the disk.

    If writing fails, `path` stays as it was and the temporary file is removed.

    Raises:
        FileNotFoundError: The folder of `path` does not exist.
        OSError: The file could not be written; the message names it and the reason.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: make the folder {path.parent} first")
    writer = f"{os.getpid()}.{threading.get_ident()}"  # Two may write the same file at once.
    partial = path.with_name(f".{path.name}.{writer}.part")
    try:
        partial.touch()
        mode = partial.stat().st_mode & 0o777
        yield partial
        # safetensors makes files that only their owner can read: set the usual permissions.
        partial.chmod(mode)
        _sync(partial)
        os.replace(partial, path)
        with suppress(OSError):  # Some network file systems cannot sync a folder.
            _sync(path.parent)  # The new name is on the disk only when its folder is.
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename not in (None, str(partial), partial):  # the data come from that file
            reason = f"{error.filename}: {reason}"
        raise OSError(f"{path} could not be written: {reason}") from None
    finally:
        partial.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Removes the temporary files of dead processes from the folder and the folders in it."""
    for place, _, names in os.walk(folder):
        for name in names:
            path, writer = Path(place, name), PARTIAL.fullmatch(name)
            if writer and not _is_alive(int(writer[1])):
                with suppress(OSError):
                    if time.time() - path.lstat().st_mtime > ABANDONED_SECONDS:
                        path.unlink()


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file, which may have `limit` bytes; ValueError if it has more."""
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} has more than {limit} bytes: replace it by a sound file")
    return data


def lines(file: IO[bytes], path: Path, limit: int) -> Iterator[bytes]:
    """The lines of a file; ValueError if one has `limit` bytes or more."""
    while line := file.readline(limit):
        if len(line) == limit:
            raise ValueError(f"{path} has a line of {limit} bytes or more: copy the file again")
        yield line


def shown(value: Any) -> str:
    """A value for an error message, cut to a harmless length."""
    return printable(_SHORT.repr(value))[:80]


def printable(text: str) -> str:
    """The text with every character that a terminal does not show replaced by "?".

    Names from files may hold escape sequences that control a terminal, and bytes that are not
    UTF-8, which no output can encode.
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def _sync(path: Path) -> None:
    """Waits until the file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_alive(process: int) -> bool:
    """Whether a process of this machine has the number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True
