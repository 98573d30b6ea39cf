"""The folder of files that can be made again, and how it is kept within its limit."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

LIMIT = 64 << 30
"""Most bytes of developed photos: those of some 20,000 photos of 2 megapixels."""

DAY = 24 * 3600
"""Seconds after which a temporary file belongs to a program that was killed."""


def cache_folder() -> Path:
    """$LUMIGRAPH_CACHE if it is set, else the folder `lumigraph` among the user's caches."""
    if own := os.environ.get("LUMIGRAPH_CACHE"):
        return Path(own)
    users = os.environ.get("XDG_CACHE_HOME")
    return (Path(users) if users else Path.home() / ".cache") / "lumigraph"


def prune(folder: Path, limit: int = LIMIT) -> None:
    """Deletes the least recently used files of a folder until the others are within the limit.

    They may take `limit` bytes, and at most as many as they leave free on the disk. A file counts
    as used at its time of modification, so readers touch it. Several processes may do this at once
    and read files meanwhile: a file that is gone is made again.
    """
    try:
        files, free = _files(folder), shutil.disk_usage(folder).free
    except OSError:  # Another process deleted the folder.
        return
    used = sum(size for _, size, _ in files)
    excess = used - min(limit, (used + free) // 2)
    for _, size, path in sorted(files):
        if excess <= 0:
            break
        with suppress(OSError):
            os.unlink(path)
        excess -= size


def _files(folder: Path) -> list[tuple[int, int, str]]:
    """Time of use, size and path of the files of a folder that no process is writing."""
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # Another process may delete it just now.
                facts = entry.stat(follow_symlinks=False)
                writing = entry.name.startswith(".") and time.time() - facts.st_mtime < DAY
                if not writing:
                    files.append((facts.st_mtime_ns, facts.st_size, entry.path))
    return files
