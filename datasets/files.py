"""Files written whole or not at all."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to, whose file becomes `path` when all of it is on the disk, or not at all.

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
        # safetensors makes files that only their owner can read: give others what is usual.
        partial.chmod(mode)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
