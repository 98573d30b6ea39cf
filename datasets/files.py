"""Files that are written completely or not at all, and names that are safe to show."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` once all of it is on the disk.

    If writing fails, `path` stays as it was and the temporary file is removed.

    Raises:
        FileNotFoundError: The folder of `path` does not exist.
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
    finally:
        partial.unlink(missing_ok=True)


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
