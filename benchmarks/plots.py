"""Draws the plots of `scaling.py` as SVG files, legible on light and dark pages."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lumigraph.app.run.plots import Axis, Line, Plot, sheet
from lumigraph.datasets.files import atomic

SIZE = (330, 300)
"""Width and height of a panel in pixels."""

Point = dict[str, Any]


def draw(result: dict[str, Any], work: Sequence[str], folder: Path) -> list[Path]:
    """Draws time over splats, time over pixels and memory over splats; returns the files."""
    points = result["points"]
    threads = max(point["threads"] for point in points)
    counts = sorted({point["splats"] for point in points})
    middle = counts[len(counts) // 2 - (len(counts) % 2 == 0)]
    most = [point for point in points if point["threads"] == threads]
    some = [point for point in points if point["splats"] == middle]
    panels = {
        "splats": [(name, f"time, ms ({threads} threads)", most, _time) for name in work],
        "pixels": [(name, f"time, ms ({middle:,} splats)", some, _time) for name in work],
        "memory": [(name, "peak memory of the process, MB", most, _memory) for name in work],
    }
    files = []
    for kind, drawn in panels.items():
        across = "pixels" if kind == "pixels" else "splats"
        lines = _over_pixels if kind == "pixels" else _over_splats
        plots = [
            (Plot(name, Axis(across, "log"), Axis(label, "log")), lines(chosen, values, name))
            for name, label, chosen, values in drawn
        ]
        files.append(save(sheet(plots, SIZE), folder / f"scaling-{kind}.svg"))
    return files


Values = Callable[[Point, str], tuple[float, tuple[float, float]]]
"""A function from a point and a kind of work to the value and the ends of its bar."""


def _time(point: Point, work: str) -> tuple[float, tuple[float, float]]:
    return point[work]["median"], (point[work]["least"], point[work]["most"])


def _memory(point: Point, work: str) -> tuple[float, tuple[float, float]]:
    peak = point[work]["peak_bytes"] / 1e6
    return peak, (peak, peak)


def _over_splats(points: Sequence[Point], values: Values, work: str) -> list[Line]:
    """A line for each size of the picture."""
    lines = []
    for width, height in sorted({tuple(point["size"]) for point in points}):
        chosen = [point for point in points if tuple(point["size"]) == (width, height)]
        x = [point["splats"] for point in chosen]
        lines.append(_line(x, chosen, values, work, f"{width}x{height}"))
    return lines


def _over_pixels(points: Sequence[Point], values: Values, work: str) -> list[Line]:
    """A line for each number of threads."""
    lines = []
    for threads in sorted({point["threads"] for point in points}):
        chosen = [point for point in points if point["threads"] == threads]
        x = [point["size"][0] * point["size"][1] for point in chosen]
        lines.append(_line(x, chosen, values, work, f"{threads} thread" + "s" * (threads > 1)))
    return lines


def _line(
    x: Sequence[float], points: Sequence[Point], values: Values, work: str, label: str
) -> Line:
    y, bars = zip(*(values(point, work) for point in points), strict=True)
    return Line(x, y, label, bars=bars, marked=True)


def save(text: str, path: Path) -> Path:
    """Writes a plot, and returns its path."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path
