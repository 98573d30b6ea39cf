"""Points and colours out of PLY files (Turk, "The PLY Polygon File Format", 1994)."""

from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from lumigraph.datasets.listing import no_points

HEADER_LIMIT = 1 << 16
"""Bytes within which the header must end."""

TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}

ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def read_points(path: Path) -> tuple[Tensor, Tensor]:
    """Points whose place is finite, and their colours, grey where the file has none.

    Returns:
        float64 [points, 3] and uint8 [points, 3]

    Raises:
        ValueError: The file is no PLY file of points, or ends before the last.
    """
    with open(path, "rb") as file:
        encoding, count, columns = _header(file, path)
        if not {"x", "y", "z"} <= columns.keys():
            raise ValueError(f"{path} has vertices without x, y and z, expected points")
        if count == 0:
            return no_points()
        rows = _rows(file, encoding, count, columns, path)
    points = np.stack([rows[name] for name in "xyz"], 1).astype(np.float64)
    if {"red", "green", "blue"} <= columns.keys():
        colors = np.stack([rows[name] for name in ("red", "green", "blue")], 1)
        if colors.dtype.kind == "f":
            colors = np.nan_to_num(colors).clip(0, 1) * 255
        colors = colors.clip(0, 255).round().astype(np.uint8)
    else:
        colors = np.full(points.shape, 128, np.uint8)
    finite = np.isfinite(points).all(1)
    return torch.from_numpy(points[finite]), torch.from_numpy(colors[finite])


def _header(file: IO[bytes], path: Path) -> tuple[str, int, dict[str, str]]:
    """Encoding, count of vertices and their columns; the file is left behind the header."""
    if file.readline(HEADER_LIMIT).strip() != b"ply":
        raise ValueError(f"{path} does not begin with the line 'ply': it is not a PLY file")
    encoding, element, count, columns = "", "", -1, {}
    while file.tell() < HEADER_LIMIT:
        words = file.readline(HEADER_LIMIT).decode("latin-1").split()
        match words:
            case ["end_header"] if encoding in ORDERS and count >= 0:
                return encoding, count, columns
            case ["format", name, "1.0"]:
                encoding = name
            case ["element", "vertex", number] if number.isdigit() and not element:
                element, count = "vertex", int(number)
            case ["element", name, _] if element:
                element = name
            case ["property", kind, name] if element == "vertex" and kind in TYPES:
                columns[name] = TYPES[kind]
            case ["property", *_] if element != "vertex":
                pass
            case ["comment" | "obj_info", *_] | ["end_header"]:
                if words == ["end_header"]:
                    break
            case _:
                break
    raise ValueError(
        f"{path} has a header that is not of points: expected a format and, first of all "
        "elements, 'vertex' with plain numbers"
    )


def _rows(
    file: IO[bytes], encoding: str, count: int, columns: dict[str, str], path: Path
) -> dict[str, np.ndarray]:
    """The columns of all vertices."""
    left = path.stat().st_size - file.tell()
    record = np.dtype([(name, ORDERS[encoding] + kind) for name, kind in columns.items()])
    # A line of text has a digit and a space for each number.
    least = 2 * len(columns) - 1 if encoding == "ascii" else record.itemsize
    if count * least > left:
        raise ValueError(
            f"{path} promises {count} points but only {left} bytes follow: copy it again"
        )
    if encoding != "ascii":
        table = np.frombuffer(file.read(count * record.itemsize), record)
        return {name: table[name].astype(kind) for name, kind in columns.items()}
    try:
        text = np.loadtxt(file, max_rows=count, ndmin=2, usecols=range(len(columns)))
    except ValueError as error:
        raise ValueError(f"{path} has a vertex that is not numbers: {error}") from error
    if len(text) != count:
        raise ValueError(f"{path} promises {count} points but has {len(text)}: copy it again")
    return {name: text[:, i].astype(kind) for i, (name, kind) in enumerate(columns.items())}
