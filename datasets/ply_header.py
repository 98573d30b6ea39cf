"""Reads the header of a PLY file (Turk, "The PLY Polygon File Format", 1994) and checks it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numpy as np

HEADER_LIMIT = 1 << 16
"""Longest header in bytes: splats of SH degree 3 need 1,500."""

TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}

ENCODINGS: dict[str, Literal["ascii", "<", ">"]] = {
    "ascii": "ascii",
    "binary_little_endian": "<",
    "binary_big_endian": ">",
}


@dataclass
class Element:
    """One table of the file.

    Attributes:
        name: The name of the table, such as "vertex".
        count: The number of rows that the header claims; it is not checked yet.
        properties: Name and NumPy type of each column, without byte order.
        lists: Names of the columns with lists, which have no fixed size.
    """

    name: str
    count: int
    properties: dict[str, str] = field(default_factory=dict)
    lists: list[str] = field(default_factory=list)

    def record(self, order: Literal["<", ">"]) -> np.dtype:
        """The layout of a row of a binary file."""
        return np.dtype([(name, order + kind) for name, kind in self.properties.items()])


@dataclass(frozen=True)
class Header:
    """The content of a PLY file's header.

    Attributes:
        encoding: "ascii", or the byte order of the numbers.
        elements: The tables in the order of the file.
        comments: The comments without the word "comment".
        length: Bytes of the header.
    """

    encoding: Literal["ascii", "<", ">"]
    elements: list[Element]
    comments: list[str]
    length: int


def read_header(file: IO[bytes], path: Path) -> Header:
    """The header of the PLY file; `path` is named in errors.

    Raises:
        ValueError: The file is no PLY file, or its header is cut off, too long or malformed.
    """
    text = file.read(HEADER_LIMIT)
    if not text:
        raise ValueError(f"{path} is not a PLY file but empty: copy or export it again")
    if not re.match(rb"ply[ \t]*\r?\n", text):
        raise ValueError(f"{path} is not a PLY file: its first line is not 'ply'")
    end = re.search(rb"\nend_header[ \t]*\r?\n", text)
    if end is None:
        if len(text) < HEADER_LIMIT:
            raise ValueError(f"{path} ends within its header: copy or export it again")
        raise ValueError(
            f"{path} has no end of header in its first {HEADER_LIMIT} bytes: it is damaged"
        )
    lines = text[: end.start()].decode("utf-8", "replace").splitlines()[1:]
    return _parse(lines, end.end(), path)


def _parse(lines: list[str], length: int, path: Path) -> Header:
    encoding = None
    elements: list[Element] = []
    comments = []
    for line in lines:
        match line.split():
            case []:
                pass
            case ["comment" | "obj_info", *words]:
                comments.append(" ".join(words))
            case ["format", name, "1.0"] if name in ENCODINGS:
                encoding = ENCODINGS[name]
            case ["element", name, count] if re.fullmatch("[0-9]{1,15}", count, re.ASCII):
                elements.append(Element(name, int(count)))
            case ["property", "list", count, kind, name] if (
                elements and count in TYPES and kind in TYPES
            ):
                elements[-1].lists.append(name)
            case ["property", kind, name] if elements and kind in TYPES:
                if name in elements[-1].properties:
                    raise ValueError(f"{path} names the property {name[:40]!r} twice: export again")
                elements[-1].properties[name] = TYPES[kind]
            case _:
                raise ValueError(f"{path} has a header line that is not PLY: {line[:60]!r}")
    if encoding is None:
        raise ValueError(f"{path} does not name its format (such as binary_little_endian 1.0)")
    return Header(encoding, elements, comments, length)
