"""metrics.jsonl: loss, splats and, now and then, PSNR over the steps of a run."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lumigraph.app.run.files import finite, is_count, write_bytes

LINE_LIMIT = 10_000
"""Characters: a longer line is not ours."""


@contextmanager
def open_log(
    path: Path, trouble: Callable[[str], None]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that appends an entry; where the disk is full `trouble` hears of it once."""
    troubled = False

    def append(entry: dict[str, Any]) -> None:
        nonlocal troubled
        try:
            file.write(_line(entry))
        except OSError as error:
            if not troubled:
                trouble(f"{path} could not be written, the training goes on: {error}")
            troubled = True

    # Unbuffered, so that a line that does not fit on the disk is not tried again and again.
    with open(path, "ab", buffering=0) as file:
        yield append


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries that can be read; the last may have been cut off by a crash. Empty if absent."""
    entries = []
    if path.exists():
        with open(path, "rb") as file:
            for text in iter(lambda: file.readline(LINE_LIMIT), b""):
                with suppress(ValueError, RecursionError):
                    entry = json.loads(text)
                    step = entry.get("step") if isinstance(entry, dict) else None
                    if isinstance(step, int) and is_count(step):
                        entries.append(entry)
    return entries


def rewind_log(path: Path, step: int) -> float:
    """Drops the entries after `step`, and returns the training seconds noted at it, or 0."""
    entries = [entry for entry in read_log(path) if entry["step"] <= step]
    write_bytes(path, b"".join(_line(entry) for entry in entries))
    seconds = [entry["seconds"] for entry in entries if is_count(entry.get("seconds"))]
    return max(seconds, default=0.0)


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(finite(entry), allow_nan=False).encode() + b"\n"
