"""metrics.jsonl: loss, splats and, at some steps, PSNR over the steps of a run."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

import msgspec
from msgspec import Meta

from lumigraph.app.run.files import finite, write_bytes
from lumigraph.app.run.record import OptionalNumber

LINE_LIMIT = 10_000
"""Characters: Lumigraph writes no longer line."""


class Entry(TypedDict, total=False):
    """A line of metrics.jsonl."""

    step: Required[Annotated[int, Meta(ge=0, le=10**15)]]
    loss: OptionalNumber
    splats: OptionalNumber
    degree: OptionalNumber
    seconds: OptionalNumber
    psnr: OptionalNumber
    lm: dict[str, Any]


@contextmanager
def open_log(
    path: Path, trouble: Callable[[str], None]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that appends an entry; the first one that fails is reported to `trouble`."""
    troubled = False

    def append(entry: dict[str, Any]) -> None:
        nonlocal troubled
        try:
            file.write(_line(entry))
        except OSError as error:
            if not troubled:
                trouble(f"{path} could not be written, the training continues: {error}")
            troubled = True

    # Unbuffered: a line that does not fit on the disk must not be tried again and again.
    with open(path, "ab", buffering=0) as file:
        yield append


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries that can be read: a crash may have cut off the last. Empty without a file."""
    entries: list[dict[str, Any]] = []
    if path.exists():
        with open(path, "rb") as file:
            for text in iter(lambda: file.readline(LINE_LIMIT), b""):
                with suppress(ValueError, RecursionError):
                    entry: Any = msgspec.convert(json.loads(text), Entry)
                    entries.append(entry)
    return entries


def rewind_log(path: Path, step: int) -> float:
    """Drops the entries after `step`, and returns the training seconds noted at it, or 0."""
    entries = [entry for entry in read_log(path) if entry["step"] <= step]
    write_bytes(path, b"".join(_line(entry) for entry in entries))
    return max((entry.get("seconds") or 0.0 for entry in entries), default=0.0)


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(finite(entry)).encode() + b"\n"
