"""Locks on a run folder: one for its training, one for a change of run.json."""

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""The errors of file systems without locks, as some network drives are."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other session trains into `folder`, which is made with its parents if absent.

    The lock is the kernel's: it ends with this process, however that ends, so a lock file that is
    left behind, or a copy of one, locks nothing. Programs that only read the run ignore it, and
    programs that are started meanwhile do not inherit it. Folders made for the lock are removed at
    the end if they are empty.

    Raises:
        BlockingIOError: Another process, or another session of this one, trains into the folder.
        NotADirectoryError: `folder` is a file.
        ValueError: Its path is not UTF-8, and safetensors could not read the scene in it.
    """
    if any(0xD800 <= ord(c) <= 0xDFFF for c in str(folder)):
        raise ValueError(f"{folder} has a name that is not UTF-8: choose another folder with -o")
    if sys.platform == "win32":  # has no fcntl, so nothing is locked there
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: choose another folder with -o")
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    file = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _lock(folder)
        yield
    finally:
        with suppress(OSError):
            if file is not None and _is_at(file, folder / LOCK):  # the run may have been moved
                (folder / LOCK).unlink()
        if file is not None:
            os.close(file)
        with suppress(OSError):
            for path in absent:
                path.rmdir()


@contextmanager
def locked_record(folder: Path) -> Iterator[None]:
    """Inside, no other program changes run.json: the folder itself is locked, for a moment.

    Where folders cannot be locked, as on some network drives, nothing is locked.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """The open lock file of a folder, locked; BlockingIOError if it is locked already.

    Python closes the descriptor in every program that is started from here.
    """
    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _flock(file, folder)
            # The process that had the lock may have removed the file after it was opened here, and
            # a third process may have made a new one: only a lock on the file at `path` counts.
            if _is_at(file, path):
                with suppress(OSError):  # the number is only for people to read
                    os.ftruncate(file, 0)
                    os.pwrite(file, b"%d\n" % os.getpid(), 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _flock(file: int, folder: Path) -> None:
    """Locks an open file, or warns if the file system cannot; BlockingIOError if it is locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        number = os.pread(file, 20, 0).strip()
        process = f"process {int(number)}" if number.isdigit() else "another process"
        raise BlockingIOError(
            f"{folder} is being trained by {process}: wait for its end or stop it, or train in "
            "another folder with -o"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(
            f"{folder} is on a file system that cannot lock files ({error.strerror}): make sure "
            "that no other program trains there",
            stacklevel=2,
        )


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False
