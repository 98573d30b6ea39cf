"""Reads points and colours from PLY files (Turk, "The PLY Polygon File Format", 1994)."""

from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from lumigraph.datasets.files import lines, printable
from lumigraph.datasets.listing import no_points, sound_points
from lumigraph.datasets.ply_header import Element, Header, read_header

COLORS = ("red", "green", "blue")

LINE_LIMIT = 1 << 16
"""Longest line of text in bytes: a vertex of some 3,000 numbers."""


def read_points(path: Path) -> tuple[Tensor, Tensor]:
    """The points of a file and their colours; they are grey if the file has no colours.

    Points with coordinates that are not finite or too large are left out.

    Returns:
        Points, float64 [points, 3], and colours, uint8 [points, 3].

    Raises:
        ValueError: The file is no PLY file of points, or ends before the last point.
    """
    with open(path, "rb") as file:
        header = read_header(file, path)
        vertex = _vertices(header, path)
        if vertex.count == 0:
            return no_points()
        file.seek(header.length)
        rows = _rows(file, header, vertex, path)
    points = np.stack([rows[name] for name in "xyz"], 1, dtype=np.float64, casting="unsafe")
    if set(COLORS) <= rows.keys():
        colors = np.stack([rows[name] for name in COLORS], 1)
        if colors.dtype.kind == "f":
            colors = np.nan_to_num(colors).clip(0, 1) * 255
        colors = colors.clip(0, 255).round().astype(np.uint8)
    else:
        colors = np.full(points.shape, 128, np.uint8)
    return sound_points(points, colors)


def _vertices(header: Header, path: Path) -> Element:
    """The element with the points, which must be the first one."""
    vertex = header.elements[0] if header.elements else None
    if vertex is None or vertex.name != "vertex" or vertex.lists:
        raise ValueError(
            f"{path} has no header of a file of points: expected 'vertex' as the first element, "
            "with plain numbers"
        )
    if not {"x", "y", "z"} <= vertex.properties.keys():
        raise ValueError(f"{path} has vertices without x, y and z, expected points")
    return vertex


def _rows(file: IO[bytes], header: Header, vertex: Element, path: Path) -> dict[str, np.ndarray]:
    """The columns with coordinates and colours of all vertices."""
    count, columns = vertex.count, vertex.properties
    left = path.stat().st_size - file.tell()
    record = vertex.record("<" if header.encoding == "ascii" else header.encoding)
    # A line of text has at least a digit and a space or line break for each number.
    least = 2 * len(columns) - 1 if header.encoding == "ascii" else record.itemsize
    if count * least > left:
        raise ValueError(
            f"{path} promises {count} points but only {left} bytes follow: copy it again"
        )
    if header.encoding != "ascii":
        table = np.frombuffer(file.read(count * record.itemsize), record)
        return {name: table[name] for name in columns if name in (*"xyz", *COLORS)}
    text = lines(file, path, LINE_LIMIT)
    try:
        found = np.loadtxt(text, max_rows=count, ndmin=2, usecols=range(len(columns)))
    except ValueError as error:
        reason = printable(str(error))[:200]
        raise ValueError(f"{path} has a vertex that is not numbers: {reason}") from error
    if len(found) != count:
        raise ValueError(f"{path} promises {count} points but has {len(found)}: copy it again")
    return {name: found[:, i].astype(kind) for i, (name, kind) in enumerate(columns.items())}
