"""Splats as PLY files in the layout of 3DGS, which other tools read."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from lumigraph.datasets.files import atomic
from lumigraph.datasets.ply_header import Element, Header, read_header
from lumigraph.kernels import Filter
from lumigraph.recon.splats.sound import sound
from lumigraph.render import Splats

ROWS = 1 << 14
"""Splats that are read or written at a time: their 4 MB fit into the processor's cache."""

INFINITE = 20.0
"""Replaces infinity in an opacity logit or a log scale: 1 - sigmoid(20) and exp(-20) are 2e-9.

Tools that convert 8-bit opacities or flat splats write infinities on purpose.
"""

CONFIDENCE = "confidence"
"""The property with the confidence of each splat, from 0 to 1, in our own files."""

MODES: dict[str, Filter] = {"default": "classic", "mip": "antialiased"}
"""The values of the comment `SplatRenderMode`, which Brush introduced."""

REST_COUNTS = (0, 9, 24, 45)
"""The number of properties f_rest for degrees 0 to 3."""


def save_ply(
    scene: Splats,
    path: Path,
    *,
    comments: Sequence[str] = (),
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the splats as a PLY file, atomically; `load_ply` gives them back bit for bit.

    Args:
        scene: The splats, in the frame of the file.
        path: The file; an existing one is replaced.
        comments: Lines for the header; characters beyond ASCII become question marks.
        extra: Further properties by name, which other tools ignore. Each [splats]

    Raises:
        ValueError: A comment has more than one line, or a further property has a name that is taken
            or not plain, or does not have one number for each splat.
        FileNotFoundError: The folder does not exist.
    """
    mode = next(mode for mode, filter in MODES.items() if filter == scene.filter)
    tensors = {name: t.detach().float().cpu().numpy() for name, t in scene.tensors.items()}
    columns = _columns(tensors)
    names = ["x", "y", "z", "nx", "ny", "nz", *list(columns)[3:]]
    for name, values in (extra or {}).items():
        if not name.isidentifier() or not name.isascii() or name in names:
            raise ValueError(
                f"A further property of a PLY file is named {name!r}: take another name"
            )
        if values.shape != (len(scene),):
            raise ValueError(
                f"{name} is {list(values.shape)}, but should be [{len(scene)}]: one for each splat"
            )
        columns[name] = values.detach().float().cpu().numpy()
        names.append(name)
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {comment}" for comment in [f"SplatRenderMode: {mode}", *comments]),
        f"element vertex {len(scene)}",
        *(f"property float {name}" for name in names),
        "end_header",
    ]
    if any(len(line.splitlines()) != 1 for line in lines):
        raise ValueError(
            f"A comment of a PLY file must be one line, but one of {list(comments)} has more"
        )
    with atomic(path) as partial, open(partial, "wb") as file:
        file.write("".join(line + "\n" for line in lines).encode("ascii", "replace"))
        for start, stop in _blocks(len(scene)):
            block = np.zeros((stop - start, len(names)), dtype="<f4")
            for index, name in enumerate(names):
                if name in columns:
                    block[:, index] = columns[name][start:stop]
            file.write(block.data)


def load_ply(path: Path) -> Splats:
    """The splats of a PLY file in the layout of 3DGS, in the frame of the file.

    Properties are found by name and may have any numeric type; unknown ones are ignored. The
    comments `SplatRenderMode: mip` (Brush) and `antialiased 1` (Postshot) set the filter. Infinite
    opacity logits and log scales of minus infinity are replaced (see `INFINITE`). A splat with any
    other value that is not finite, or without a rotation, is left out; a warning counts them.

    Raises:
        ValueError: The file is not a PLY, is cut off or compressed, or does not hold splats of
            degree 0 to 3.
        OSError: The file cannot be opened.
    """
    return _load(path, ())[0]


def load_trusted_ply(path: Path) -> tuple[Splats, Tensor | None]:
    """The splats as from `load_ply`, and their confidence, if the file has it.

    Confidence is a property `confidence` of numbers from 0 to 1. A property of that name with other
    numbers, such as a scanner's, is ignored with a warning.

    Returns:
        The splats.
        Their confidence. float32 [splats]
    """
    splats, extra = _load(path, (CONFIDENCE,))
    confidence = extra.get(CONFIDENCE)
    if confidence is None:
        return splats, None
    unfit = int((~((confidence >= 0) & (confidence <= 1))).sum())  # NaN is neither
    if unfit:
        warnings.warn(
            f"{path}: {unfit} of {len(splats)} splats have a confidence that is not from 0 to 1, "
            "so the confidence of all splats is left out",
            stacklevel=2,
        )
        return splats, None
    return splats, confidence


def _load(path: Path, further: Sequence[str]) -> tuple[Splats, dict[str, Tensor]]:
    """The splats of a file, and those of the named further properties that it has."""
    with open(path, "rb") as file:
        header = read_header(file, path)
        vertex = _vertices(header, path)
        rest = _rest_count(vertex, path)
        _seek(file, header, vertex, path)
        arrays = _empty(vertex.count, rest)
        columns = _columns(arrays)
        found = [name for name in further if name in vertex.properties]
        extra = {name: np.empty(vertex.count, np.float32) for name in found}
        columns |= extra
        read = _text_block if header.encoding == "ascii" else _binary_block
        # A double beyond the range of float32 becomes infinite here; its splat is left out below.
        with np.errstate(over="ignore", invalid="ignore"):
            for start, stop in _blocks(vertex.count):
                block = read(file, header, vertex, stop - start, path)
                for name, column in columns.items():
                    column[start:stop] = block[name]
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    splats = _finite(Splats(**tensors, filter=_filter(header.comments, path)))
    kept = sound(splats)
    if lost := len(splats) - int(kept.sum()):
        warnings.warn(
            f"{path}: {lost} of {len(splats)} splats have values that are not finite, or no "
            "rotation, and were left out",
            stacklevel=3,
        )
        splats, extra = splats[kept], {name: array[kept.numpy()] for name, array in extra.items()}
    return splats, {name: torch.from_numpy(array) for name, array in extra.items()}


def _empty(count: int, rest: int) -> dict[str, np.ndarray]:
    """Empty arrays for the parameters of `count` splats, by their names in `Splats`."""
    shapes = {
        "means": (count, 3),
        "quaternions": (count, 4),
        "log_scales": (count, 3),
        "opacity_logits": (count,),
        "base": (count, 3),
        "rest": (count, rest // 3, 3),
    }
    return {name: np.empty(shape, np.float32) for name, shape in shapes.items()}


def _columns(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The column of each property, in the order of the file: views into the arrays.

    The file keeps the higher harmonics channel by channel: all of red, then green, then blue.
    """
    columns = {name: arrays["means"][:, i] for i, name in enumerate("xyz")}
    columns |= {f"f_dc_{i}": arrays["base"][:, i] for i in range(3)}
    count = arrays["rest"].shape[1]
    columns |= {f"f_rest_{i}": arrays["rest"][:, i % count, i // count] for i in range(3 * count)}
    columns["opacity"] = arrays["opacity_logits"]
    columns |= {f"scale_{i}": arrays["log_scales"][:, i] for i in range(3)}
    columns |= {f"rot_{i}": arrays["quaternions"][:, i] for i in range(4)}
    return columns


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + ROWS, count)) for start in range(0, count, ROWS))


def _vertices(header: Header, path: Path) -> Element:
    """The element that holds the splats."""
    vertex = next((e for e in header.elements if e.name == "vertex"), None)
    if vertex is None:
        raise ValueError(f"{path} has no element named vertex, where splats are kept")
    if "packed_position" in vertex.properties:
        raise ValueError(
            f"{path} is a compressed PLY, which is not readable yet: "
            "`splat-transform IN.compressed.ply OUT.ply` unpacks it"
        )
    if vertex.lists:
        raise ValueError(f"{path} has a list ({vertex.lists[0][:40]!r}) in its vertices: no splats")
    return vertex


def _rest_count(vertex: Element, path: Path) -> int:
    """The number of properties f_rest, once all properties of splats are known to be there."""
    names = {name for name in vertex.properties if name.startswith("f_rest_")}
    if len(names) not in REST_COUNTS:
        raise ValueError(
            f"{path} has {len(names)} properties f_rest, but harmonics of degree 0, 1, 2 and 3 "
            f"have {', '.join(map(str, REST_COUNTS))}: export it with degree 3 or less"
        )
    for name in _columns(_empty(0, len(names))):
        if name not in vertex.properties:
            raise ValueError(
                f"{path} has no property {name}: it is a point cloud or a mesh, not splats in the "
                "layout of 3DGS"
            )
    return len(names)


def _seek(file: IO[bytes], header: Header, vertex: Element, path: Path) -> None:
    """Moves to the first vertex, once the file is known to be long enough for all vertices."""
    before = header.elements[: header.elements.index(vertex)]
    start = header.length
    size = os.fstat(file.fileno()).st_size
    if header.encoding == "ascii":
        file.seek(start)
        for element in before:
            for _ in islice(file, element.count):
                pass
        start = file.tell()
        row = 2 * len(vertex.properties)  # A value takes at least a digit and a separator.
        needed = row * vertex.count - 1
    else:
        for element in before:
            if element.lists:
                raise ValueError(
                    f"{path} has lists ({element.name[:40]!r}) before its vertices: export it again"
                )
            start += element.count * element.record(header.encoding).itemsize
        needed = vertex.count * vertex.record(header.encoding).itemsize
    if start + needed > size:
        raise ValueError(
            f"{path} says it has {vertex.count} splats, which take {needed} bytes, but only "
            f"{max(size - start, 0)} are there: it was cut off, copy or export it again"
        )
    file.seek(start)


def _binary_block(
    file: IO[bytes], header: Header, vertex: Element, count: int, path: Path
) -> np.ndarray:
    assert header.encoding != "ascii"
    record = vertex.record(header.encoding)
    content = file.read(count * record.itemsize)
    if len(content) != count * record.itemsize:
        raise ValueError(f"{path} became shorter while it was read: wait until it is written")
    return np.frombuffer(content, dtype=record)


def _text_block(
    file: IO[bytes], header: Header, vertex: Element, count: int, path: Path
) -> dict[str, np.ndarray]:
    lines = list(islice(file, count))
    try:
        table = np.array([line.split() for line in lines], dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{path} has a row that is not numbers: {error}") from None
    if table.shape != (count, len(vertex.properties)):
        raise ValueError(
            f"{path} has rows without {len(vertex.properties)} numbers, or fewer than "
            f"{vertex.count} rows: it was cut off, copy or export it again"
        )
    return dict(zip(vertex.properties, table.T, strict=True))


def _filter(comments: Sequence[str], path: Path) -> Filter:
    """The filter that the header's comments name."""
    for comment in comments:
        match comment.split():
            case ["SplatRenderMode:", mode] if mode in MODES:
                return MODES[mode]
            case ["SplatRenderMode:", mode]:
                warnings.warn(
                    f"{path} asks for the render mode {mode[:20]!r}, which is not known: it is "
                    "drawn in the mode default",
                    stacklevel=4,
                )
            case ["antialiased", "1"]:
                return "antialiased"
    return "classic"


def _finite(splats: Splats) -> Splats:
    """The splats with finite numbers in place of the infinities that tools write on purpose."""
    logits = splats.opacity_logits.nan_to_num(nan=torch.nan, posinf=INFINITE, neginf=-INFINITE)
    scales = splats.log_scales.nan_to_num(nan=torch.nan, posinf=torch.inf, neginf=-INFINITE)
    return replace(splats, opacity_logits=logits, log_scales=scales)
