"""The built-in scene as plain data: a walled garden with a pavilion.

This file holds all that can be tuned: shapes, paints, light. Units are metres, and z is up.
"""

import math
from functools import cache

import torch

from lumigraph.kernels.tracer import KINDS, PATTERNS, TracedScene

Row = tuple[float, ...]
Point = tuple[float, float, float]

CLOUDS = ((0.08, 0.30, 1.0), (0.33, 0.42, 0.8), (0.55, 0.26, 1.1), (0.83, 0.38, 0.9))
"""For each cloud: angle in turns, sine of the elevation, size."""

LATTICE_RADIUS = 0.007
"""Radius of the lattice's rods, which are 1.4 pixels wide at 4.6 m and a focal length of 460."""

SUN = (-0.55, -0.62, 0.56)
"""Direction towards the sun: low enough for long shadows, high enough to light the ground."""


def paint(
    pattern: str,
    *,
    first: str,
    second: str = "000000",
    third: str | Point = "000000",
    base: str = "000000",
    size: float = 1.0,
    aspect: float = 1.0,
    count: float = 1.0,
    dot: float = 0.0,
    jitter: float = 0.0,
    variation: float = 0.0,
    rare: float = 0.0,
    shine: float = 0.0,
    rows: tuple[float, float] = (-1e9, 1e9),
    twist: float = 0.0,
) -> Row:
    """A row of the table of materials; colours are display colours in hexadecimal."""
    motif = third if isinstance(third, tuple) else _light(third)
    measures = (size, aspect, count, dot, jitter, variation, rare, shine)
    colors = (*_light(base), *_light(first), *_light(second), *motif)
    return (PATTERNS.index(pattern), *measures, *colors, *rows, twist)


def _light(color: str) -> Point:
    """The linear light of a display colour."""
    r, g, b = (int(color[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return r * r, g * g, b * b


PAINTS: dict[str, Row] = {
    "terrace": paint(
        "mosaic",
        first="d6ccb9",
        second="9c9f9d",
        base="b0a794",
        size=0.125,
        dot=0.53,
        jitter=0.02,
        variation=0.08,
        count=16,
        third=(0.57, 0.17, 0.0),
        twist=1.75,
        rows=(0.0, 2.72),
    ),
    "lawn": paint(
        "dots",
        first="66903f",
        second="86a845",
        third="dfe0b8",
        base="668f45",
        size=0.22,
        dot=0.40,
        jitter=0.10,
        variation=0.08,
        rare=0.10,
        rows=(0.0, 7.2),
    ),
    "wall": paint(
        "tiles",
        first="ece2cd",
        second="7fa6c1",
        third="dfba74",
        base="bf7a56",
        size=0.46,
        dot=0.025,
        rows=(0.0, 1.38),
    ),
    "curb": paint(
        "bricks", first="d8cdb8", second="c3b59b", base="7c705f", size=0.12, aspect=3.2, dot=0.05
    ),
    "step": paint("checker", first="e6d8c2", second="d3a48c", size=0.20, count=28),
    "marble": paint("plain", first="efe7d9"),
    "column": paint("gores", first="efe6d6", second="d6c7af", count=10),
    "capital": paint("plain", first="d9a441", shine=0.12),
    "frieze": paint(
        "tiles", first="ece0c8", second="74a6a2", third="d9a670", base="ece0c8", size=0.16, dot=0.04
    ),
    "lattice": paint("plain", first="f2ebdd"),
    "gold": paint("plain", first="d8a23a", shine=0.35),
    "ball": paint("plain", first="0f4f63", shine=0.10),
    "ruby": paint("plain", first="a3202c", shine=0.08),
    "drum": paint("rings", first="ece0cb", second="7f9cae", size=0.12),
    "pot": paint("rings", first="c0683f", second="9c4a2a", size=0.10),
    "rim": paint("plain", first="cf7a4e"),
    "box tree": paint(
        "dots",
        first="679843",
        second="98b655",
        third="f0ead2",
        base="47703a",
        size=0.10,
        dot=0.50,
        jitter=0.06,
        variation=0.15,
        rare=0.05,
    ),
    "lemon tree": paint(
        "dots",
        first="558843",
        second="7fa54a",
        third="ebc04a",
        base="40683a",
        size=0.115,
        dot=0.52,
        jitter=0.05,
        variation=0.15,
        rare=0.2,
    ),
    "cypress": paint(
        "dots",
        first="466d3c",
        second="608847",
        third="82a152",
        base="3b603a",
        size=0.27,
        dot=0.52,
        jitter=0.08,
        variation=0.14,
        rare=0.15,
    ),
    "bark": paint("plain", first="7a5a3c"),
    "vase": paint("gores", first="efe5d2", second="6794b6", count=10, shine=0.05),
    "jar": paint("rings", first="e6b13e", second="b5482c", size=0.11, shine=0.05),
    "bench": paint(
        "bricks", first="c98f52", second="a86f3a", base="5f3d20", size=0.10, aspect=7, dot=0.06
    ),
    "cushion": paint("checker", first="cc6a5a", second="ecdcc4", size=0.17, count=1),
    "parasol": paint("gores", first="d8483a", second="f6ecd8", count=8),
}
"""All materials of shapes."""

NAMES = tuple(PAINTS)


def _shape(
    kind: str,
    material: str,
    center: Point,
    size: Point = (0.0, 0.0, 0.0),
    *,
    radius: float = 0.0,
    top: float = 0.0,
    turn: float = 0.0,
) -> Row:
    place = (KINDS.index(kind), NAMES.index(material), *center, *size)
    return (*place, radius, top, math.cos(turn), math.sin(turn))


def ellipsoid(material: str, center: Point, radii: Point) -> Row:
    """An ellipsoid with these radii along the axes."""
    return _shape("ellipsoid", material, center, radii)


def ball(material: str, center: Point, radius: float) -> Row:
    """A ball of this radius."""
    return ellipsoid(material, center, (radius, radius, radius))


def box(material: str, center: Point, half: Point, turn: float = 0.0) -> Row:
    """A box with these half sides, turned around the vertical by `turn` radians."""
    return _shape("box", material, center, half, turn=turn)


def frustum(material: str, base: Point, height: float, radius: float, top: float) -> Row:
    """A solid upright cone, cut off at both ends; a cylinder if the radii are equal."""
    return _shape("frustum", material, base, (0, 0, height), radius=radius, top=top)


def shell(material: str, base: Point, height: float, radius: float, top: float) -> Row:
    """The side of a frustum, seen from both sides."""
    return _shape("shell", material, base, (0, 0, height), radius=radius, top=top)


def rod(material: str, start: Point, end: Point, radius: float) -> Row:
    """A thin bar; its ends are open and must be inside other shapes."""
    length = math.dist(start, end)
    x, y, z = ((b - a) / length for a, b in zip(start, end, strict=True))
    return _shape("rod", material, start, (x, y, z), radius=radius, top=length)


def around(radius: float, angle: float, z: float) -> Point:
    """The point at this distance from the axis, at this angle in turns, at this height."""
    return radius * math.cos(math.tau * angle), radius * math.sin(math.tau * angle), z


def _grounds() -> list[Row]:
    return [
        _shape("ground", "lawn", (0, 0, 0), radius=40.0),
        frustum("curb", (0, 0, 0), 0.05, 2.85, 2.85),
        _shape("ground", "terrace", (0, 0, 0.052), radius=2.72),
        shell("wall", (0, 0, 0), 1.50, 7.2, 7.2),
    ]


def _pavilion() -> list[Row]:
    rows = [
        frustum("step", (0, 0, 0.05), 0.11, 1.28, 1.28),
        frustum("step", (0, 0, 0.16), 0.11, 1.10, 1.10),
        shell("frieze", (0, 0, 1.82), 0.16, 1.0, 1.0),
        ball("gold", (0, 0, 2.78), 0.13),
        frustum("marble", (0, 0, 2.58), 0.08, 0.34, 0.34),
    ]
    for i in range(6):
        x, y, _ = around(0.95, i / 6 + 0.04, 0)
        rows += [
            frustum("capital", (x, y, 0.27), 0.07, 0.105, 0.085),
            frustum("column", (x, y, 0.34), 1.42, 0.07, 0.058),
            frustum("capital", (x, y, 1.76), 0.07, 0.06, 0.11),
        ]
    for i in range(20):
        for side in (-1, 1):
            start, end = around(1.0, i / 20, 1.9), around(0.32, i / 20 + side * 0.17, 2.62)
            rows.append(rod("lattice", start, end, LATTICE_RADIUS))
    return rows


def _still_life() -> list[Row]:
    return [
        frustum("marble", (0, 0, 0.27), 0.06, 0.36, 0.36),
        frustum("drum", (0, 0, 0.33), 0.36, 0.24, 0.24),
        frustum("marble", (0, 0, 0.69), 0.05, 0.31, 0.31),
        ball("ball", (0, 0, 1.02), 0.29),
        ball("ruby", around(0.62, 0.16, 0.41), 0.14),
        ball("gold", around(0.66, 0.62, 0.37), 0.10),
    ]


def _pot(angle: float, radius: float, plant: str, size: float) -> list[Row]:
    x, y, _ = around(radius, angle, 0)
    return [
        frustum("pot", (x, y, 0.05), 0.34, 0.15, 0.22),
        frustum("rim", (x, y, 0.39), 0.06, 0.25, 0.25),
        frustum("bark", (x, y, 0.45), 0.42, 0.03, 0.03),
        ball(plant, (x, y, 0.72 + size), size),
    ]


def _furniture() -> list[Row]:
    bench, turn = around(2.15, 0.30, 0), math.tau * 0.30
    legs = [
        box("marble", (*_beside(bench, turn, side * 0.42)[:2], 0.16), (0.14, 0.07, 0.115), turn)
        for side in (-1, 1)
    ]
    x, y, _ = bench
    vase, jar = around(2.1, 0.79, 0), around(1.85, 0.86, 0)
    return [
        *legs,
        box("bench", (x, y, 0.32), (0.19, 0.62, 0.045), turn),
        box("cushion", (*_beside(bench, turn, 0.34)[:2], 0.43), (0.16, 0.17, 0.065), turn),
        frustum("vase", (*vase[:2], 0.05), 0.10, 0.12, 0.14),
        ellipsoid("vase", (*vase[:2], 0.40), (0.27, 0.27, 0.30)),
        frustum("vase", (*vase[:2], 0.66), 0.14, 0.10, 0.15),
        ellipsoid("jar", (*jar[:2], 0.25), (0.19, 0.19, 0.21)),
        frustum("jar", (*jar[:2], 0.43), 0.08, 0.09, 0.12),
    ]


def _beside(point: Point, turn: float, distance: float) -> Point:
    """The point, moved at a right angle to a direction."""
    return point[0] - math.sin(turn) * distance, point[1] + math.cos(turn) * distance, point[2]


def _trees() -> list[Row]:
    rows = []
    for i in range(22):
        size = 1.0 + 0.25 * math.sin(2.4 * i) + 0.2 * math.sin(5.1 * i)
        x, y, _ = around(8.6 + 0.5 * math.sin(3.3 * i), i / 22, 0)
        if i % 3 == 1:
            rows.append(ellipsoid("cypress", (x, y, 1.3 * size), (1.15, 1.15, 1.1 * size)))
        else:
            rows.append(ellipsoid("cypress", (x, y, 1.9 * size), (0.5, 0.5, 1.9 * size)))
    return rows


def _shapes() -> list[Row]:
    pots = [(0.07, "box tree"), (0.22, "lemon tree"), (0.42, "box tree"), (0.56, "lemon tree")]
    pots += [(0.70, "box tree"), (0.93, "lemon tree")]
    rows = _grounds() + _pavilion() + _still_life() + _furniture() + _trees()
    for angle, plant in pots:
        rows += _pot(angle, 2.3, plant, 0.26 if plant == "box tree" else 0.31)
    return rows


def _puffs() -> list[Row]:
    """Rows of soft clouds: direction, half width and half height on a unit sphere, weight."""
    rows = []
    for turn, rise, scale in CLOUDS:
        for k, (aside, up, wide) in enumerate(
            ((0, 0, 1.0), (0.04, 0.03, 0.7), (-0.045, 0.01, 0.8))
        ):
            z = rise + up * scale
            x, y, _ = around(math.sqrt(1 - z * z), turn + aside * scale, 0)
            rows.append((x, y, z, 0.34 * scale * wide, 0.09 * scale * wide, 0.85 - 0.1 * k))
    return rows


@cache
def demo_scene() -> TracedScene:
    """The built-in scene in the tables of the ray tracer."""
    norm = math.hypot(*SUN)
    light = [c / norm for c in SUN]
    light += [1.45, 1.22, 0.88]  # sunlight
    light += [0.40, 0.47, 0.60]  # from the sky
    light += [0.22, 0.19, 0.14]  # bounced from the ground
    for color in ("4a8fd6", "f3e6cf", "fdf8f0", "45351c"):
        light += _light(color)
    return TracedScene(
        torch.tensor(_shapes()),
        torch.tensor(list(PAINTS.values())),
        torch.tensor(_puffs()),
        torch.tensor(light),
    )
