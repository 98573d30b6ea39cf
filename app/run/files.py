"""Files written whole or not at all, and JSON that nobody needs to trust."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from safetensors import SafetensorError

from lumigraph.datasets.files import atomic, printable

JSON_LIMIT = 256 << 20
"""Bytes: a million cameras fit, and reading a file that pretends to be one stays harmless."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns whatever writing `path` raises into an OSError that names the file and the reason."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from None
    except OSError as error:
        raise OSError(f"{path} could not be written: {error.strerror or error}") from None


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data`, atomically; OSError names the file and the reason."""
    with explained(path), atomic(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, atomically; numbers that JSON does not know become null.

    Bytes of a name that are not UTF-8 become JSON's escapes, and `read_json` gives them back.
    """
    text = json.dumps(finite(value), indent=1, allow_nan=False, ensure_ascii=False)
    write_bytes(path, text.encode("utf-8", "backslashreplace") + b"\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError or FileNotFoundError says what is wrong with it."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: the run folder is not complete")
    if path.stat().st_size > JSON_LIMIT:
        raise ValueError(f"{path} is larger than {JSON_LIMIT >> 20} MB: it is no file of ours")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): restore it from a copy") from None


def finite(value: Any) -> Any:
    """The value with every infinite or undefined number replaced by None."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: finite(item) for key, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
    return value


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number of a size that a count, a time or a metric can be."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def is_count(value: Any) -> bool:
    """Whether it is such a number and not negative."""
    return is_number(value) and value >= 0


def shown(value: Any) -> str:
    """A value for an error message, cut to a harmless length."""
    return printable(repr(value))[:80]
