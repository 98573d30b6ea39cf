"""The plots of `scaling.py`: SVG that reads well on a light and on a dark page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from lumigraph.datasets.files import atomic

GREY = "#7d8794"
"""Of text and lines: its contrast is 3.7 on white and 5 on the darkest pages."""

COLORS = ("#2f81f7", "#c9860b", "#2da44e", "#d2599b", "#8b6cf0", "#cf5b3c")
"""One for each curve: told apart by people who see no red or no green, too, with the markers."""

MARKERS = "osD^vP"

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # Text stays text: small files, and found by a search.
    "svg.hashsalt": "lumigraph",  # The same file for the same figures.
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.titlesize": 10,
    "axes.prop_cycle": cycler(color=COLORS, marker=list(MARKERS)),
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.markersize": 5,
}


def draw(result: dict[str, Any], work: Sequence[str], folder: Path) -> list[Path]:
    """Time over splats, time over pixels, and peak memory over splats; returns the files."""
    points = result["points"]
    threads = max(point["threads"] for point in points)
    counts = sorted({point["splats"] for point in points})
    sizes = sorted({tuple(point["size"]) for point in points})
    middle = counts[len(counts) // 2 - (len(counts) % 2 == 0)]
    with pyplot.rc_context(STYLE):
        return [
            _splats(points, work, sizes, threads, folder / "scaling-splats.svg"),
            _pixels(points, work, middle, folder / "scaling-pixels.svg"),
            _memory(points, work, sizes, threads, folder / "scaling-memory.svg"),
        ]


def _splats(
    points: list[dict], work: Sequence[str], sizes: list[tuple], threads: int, path: Path
) -> Path:
    """Milliseconds over splats: a panel for each work, a curve for each size."""
    figure, panels = _panels(len(work))
    for panel, name in zip(panels, work, strict=True):
        for size in sizes:
            chosen = [p for p in points if tuple(p["size"]) == size and p["threads"] == threads]
            _times(panel, [p["splats"] for p in chosen], chosen, name, f"{size[0]}x{size[1]}")
        panel.set(title=name, xlabel="splats")
    panels[0].set_ylabel(f"time, ms ({threads} threads)")
    return _save(figure, path)


def _pixels(points: list[dict], work: Sequence[str], splats: int, path: Path) -> Path:
    """Milliseconds over pixels: a panel for each work, a curve for each number of threads."""
    figure, panels = _panels(len(work))
    for panel, name in zip(panels, work, strict=True):
        for threads in sorted({point["threads"] for point in points}):
            chosen = [p for p in points if p["splats"] == splats and p["threads"] == threads]
            pixels = [p["size"][0] * p["size"][1] for p in chosen]
            label = f"{threads} thread" + "s" * (threads > 1)
            _times(panel, pixels, chosen, name, label)
        panel.set(title=name, xlabel="pixels")
    panels[0].set_ylabel(f"time, ms ({splats:,} splats)")
    return _save(figure, path)


def _memory(
    points: list[dict], work: Sequence[str], sizes: list[tuple], threads: int, path: Path
) -> Path:
    """Peak memory over splats: a panel for each work, a curve for each size."""
    figure, panels = _panels(len(work))
    for panel, name in zip(panels, work, strict=True):
        for size in sizes:
            chosen = [p for p in points if tuple(p["size"]) == size and p["threads"] == threads]
            peaks = [p[name]["peak_bytes"] / 1e6 for p in chosen]
            panel.plot([p["splats"] for p in chosen], peaks, label=f"{size[0]}x{size[1]}")
        panel.set(title=name, xlabel="splats")
    panels[0].set_ylabel("peak memory of the process, MB")
    return _save(figure, path)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Panels side by side with common logarithmic axes."""
    figure, grid = pyplot.subplots(
        1, count, figsize=(3.3 * count, 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    panels = list(grid[0])
    for panel in panels:
        panel.set(xscale="log", yscale="log")
        panel.grid(which="major")
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _times(panel: Axes, x: list[int], chosen: list[dict], work: str, label: str) -> None:
    """A curve of medians, with bars from the least to the most."""
    medians = [p[work]["median"] for p in chosen]
    below = [p[work]["median"] - p[work]["least"] for p in chosen]
    above = [p[work]["most"] - p[work]["median"] for p in chosen]
    panel.errorbar(x, medians, yerr=[below, above], capsize=2, label=label)


def _save(figure: Figure, path: Path) -> Path:
    """Writes the figure with one legend for all panels, without a background or a date."""
    curves, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(curves, labels, loc="outside lower center", ncols=len(labels))
    with atomic(path) as partial:
        figure.savefig(partial, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    return path
