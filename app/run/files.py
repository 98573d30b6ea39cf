"""Files of a run: written whole or not at all, and JSON that is checked when it is read."""

import json
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import msgspec

from lumigraph.datasets.files import atomic, printable

T = TypeVar("T")

RESTORE = "Restore it from a copy"

JSON_LIMIT = 256 << 20
"""Bytes: a million cameras fit, and a file that pretends to be one does no harm."""


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data`, atomically; OSError names the file and the reason."""
    with atomic(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes the text as UTF-8, atomically; what UTF-8 does not have becomes an escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, atomically; numbers that JSON does not have become null.

    Half a surrogate pair, as in a file name that is not UTF-8, is written as JSON's own escape, so
    that it is read as it was.
    """
    write_text(path, json.dumps(finite(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, kind: type[T] | Any = Any, remedy: str = RESTORE) -> T | Any:
    """The content of a JSON file, checked to be of a type that msgspec knows.

    Args:
        path: Of the file.
        kind: The type.
        remedy: What to do if the file is malformed, for the message.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is no JSON, or not of that type; the message says where.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: the run folder is not complete")
    if path.stat().st_size > JSON_LIMIT:
        raise ValueError(f"{path} is larger than {JSON_LIMIT >> 20} MB: Lumigraph did not write it")
    try:
        value = json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): restore it from a copy") from None
    return checked(value, kind, str(path), remedy)


def checked(value: Any, kind: type[T] | Any, where: str, remedy: str = RESTORE) -> T | Any:
    """`value` as the type `kind`; ValueError says where it is something else, and the remedy."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeError) as error:
        reason = printable(str(error))[:300].replace(" - at `$.", " under `")
        raise ValueError(f"{where} is malformed: {reason}. {remedy}") from None


def finite(value: Any) -> Any:
    """The value as JSON holds it, with None for every infinite or undefined number."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number of a size that a count, a time or a metric can have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
