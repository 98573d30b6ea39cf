"""Plots as SVG: figures of a report, and sheets of panels that are files of their own.

Both draw the same panels: lines over two axes with round marks. A figure has the colours of its
report. A sheet can be read on a light and on a dark page, and its lines differ by markers, too, for
those who see no red or no green.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

LEFT, RIGHT, TOP, BOTTOM = 52.0, 18.0, 12.0, 46.0
"""Margins around the area of the lines, in pixels."""

FIGURE = (480, 236)
"""Width and height of a figure's panel, in pixels."""

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Usual steps between two marks of an axis, times a power of ten."""

PLOT_STYLE = """
.plots { display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
svg .ideal { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 5 4; fill: none; }
"""
"""The style of figures, besides that of reports."""

GREY = "#7d8794"
"""Of a sheet's text and axes: its contrast is 3.7 on white and 5 on the darkest pages."""

COLORS = ("#2f81f7", "#c9860b", "#2da44e", "#d2599b", "#8b6cf0", "#cf5b3c")
"""Of a sheet's lines, in their order."""

MARKERS = (
    "M-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0z",  # circle
    "M-3,-3h6v6h-6z",  # square
    "M0,-4l4,4l-4,4l-4,-4z",  # diamond
    "M0,-4l4,7h-8z",  # triangle
    "M0,4l4,-7h-8z",  # triangle upside down
    "M-4,0h8M0,-4v8",  # cross
)
"""Of a sheet's lines, in the order of the colours: paths around the point."""

SHEET_STYLE = (
    f"text{{font:12px sans-serif;fill:{GREY}}}.axis{{stroke:{GREY};opacity:.3}}"
    "polyline{fill:none;stroke-width:1.6}.faint{stroke-width:.7;opacity:.4}"
)

Scale = Literal["zero", "range", "log", "share"]
"""An axis from 0 to a round number, over the range of the values, logarithmic over it, or from 0 to
100 percent."""


@dataclass(frozen=True)
class Axis:
    """What an axis measures, and its scale."""

    label: str
    scale: Scale = "zero"


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Attributes:
        x: Along the horizontal axis. [points]
        y: Along the vertical axis. [points]
        label: In the legend of a sheet; lines with one label have one colour. A line without is
            faint.
        kind: In a figure, whether it is drawn through or dashed.
        bars: Lower and upper end of a bar at each point, or none. [points]
        marked: Whether each point has a marker in a sheet.
    """

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    kind: Literal["curve", "ideal"] = "curve"
    bars: Sequence[tuple[float, float]] = ()
    marked: bool = False


@dataclass(frozen=True)
class Plot:
    """A panel without its lines.

    Attributes:
        title: What is shown.
        across: The horizontal axis.
        up: The vertical axis.
        caption: How to read it, below a figure.
    """

    title: str
    across: Axis
    up: Axis
    caption: str = ""


@dataclass(frozen=True)
class _Ends:
    """An axis with its ends and marks in numbers."""

    scale: Scale
    low: float
    high: float
    marks: Sequence[float]

    def place(self, value: float) -> float:
        """Where a value lies, from 0 at the low end to 1 at the high one."""
        if self.scale == "log":
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (max(value, self.low) - self.low) / (self.high - self.low)

    def text(self, mark: float) -> str:
        """A mark as it is read."""
        if self.scale == "share":
            return f"{100 * mark:.0f} %"
        for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if mark >= max(unit, 1e4):
                return f"{mark / unit:g}{name}"
        return f"{mark:g}"


ToPixel = Callable[[float, float], tuple[float, float]]
"""Where a point lies in a panel."""


def figure(plot: Plot, lines: Sequence[Line]) -> str:
    """A plot with its caption for a report, as HTML."""

    def drawn(line: Line, at: ToPixel) -> str:
        return _polyline(line, at, f'class="{line.kind}"')

    panel = _panel(plot, lines, _ends_of(plot, lines), FIGURE, drawn)
    return (
        f'<figure><svg viewBox="0 0 {FIGURE[0]} {FIGURE[1]}" role="img" '
        f'aria-label="{escape(plot.title)}">{panel}</svg>'
        f"<figcaption><b>{escape(plot.title)}.</b> {escape(plot.caption)}</figcaption></figure>"
    )


def sheet(panels: Sequence[tuple[Plot, Sequence[Line]]], size: tuple[int, int]) -> str:
    """Panels side by side with common axes and one legend, as the text of an SVG file.

    Args:
        panels: Each plot with its lines.
        size: Width and height of a panel, in pixels.
    """
    lines = [line for _, some in panels for line in some]
    labels = list(dict.fromkeys(line.label for line in lines if line.label))
    ends = _ends_of(panels[0][0], lines)

    def drawn(line: Line, at: ToPixel) -> str:
        return _series(line, at, labels.index(line.label) if line.label else None)

    width, height = size
    parts = [
        f'<g transform="translate({width * place},24)">'
        f"{_text(width / 2, -8, plot.title, 'middle')}{_panel(plot, some, ends, size, drawn)}</g>"
        for place, (plot, some) in enumerate(panels)
    ]
    whole = f"{width * len(panels)} {height + 48}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole}"><style>{SHEET_STYLE}'
        f"</style>{''.join(parts)}{_legend(labels, width * len(panels), height + 38)}</svg>\n"
    )


def axis_marks(most: float) -> list[float]:
    """Round numbers from 0 to one no less than `most`: three to six of them."""
    if not most > 0:
        return [0.0, 1.0]
    step = _step(most)
    count = math.ceil(most / step * (1 - 1e-9))
    return [float(f"{k * step:.12g}") for k in range(count + 1)]


def _step(width: float) -> float:
    """A round step, about a quarter of the width."""
    rough = width / 4 * (1 - 1e-9)  # 1 is 4 times 0.25, whatever sums and means make of it
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step for step in STEPS if step * power >= rough) * power


def _ends_of(plot: Plot, lines: Sequence[Line]) -> tuple[_Ends, _Ends]:
    """The ends of both axes, around these lines with their bars."""
    x = [value for line in lines for value in line.x]
    y = [value for line in lines for value in (*line.y, *(end for bar in line.bars for end in bar))]
    return _ends(plot.across.scale, x), _ends(plot.up.scale, y)


def _ends(scale: Scale, values: Sequence[float]) -> _Ends:
    """The ends and marks of an axis around its values."""
    if scale == "share":
        return _Ends(scale, 0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
    if scale == "zero":
        marks = axis_marks(max(values))
        return _Ends(scale, 0.0, marks[-1], marks)
    low, high = min(values), max(values)
    if scale == "log":
        decades = [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)))]
        inside = [mark for mark in decades if low <= mark <= high]
        if len(inside) < 2:
            inside = [k * mark for mark in decades for k in (1, 2, 5) if low <= k * mark <= high]
        return _Ends(scale, low, high if high > low else 2 * low, inside)
    high = high if high > low else low + 1
    step = _step(high - low)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    marks = [float(f"{k * step:.12g}") for k in range(first, last + 1)]
    return _Ends(scale, low, high, marks)


def _panel(
    plot: Plot,
    lines: Sequence[Line],
    ends: tuple[_Ends, _Ends],
    size: tuple[int, int],
    drawn: Callable[[Line, ToPixel], str],
) -> str:
    """The axes with their marks and labels, and the lines as `drawn` makes them."""
    (across, up), (width, height) = ends, size
    right, bottom = width - RIGHT, height - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + across.place(x) * (right - LEFT),
            bottom - up.place(y) * (bottom - TOP),
        )

    grid = "".join(_level(at(across.low, mark)[1], right, up.text(mark)) for mark in up.marks)
    grid += "" if up.low in up.marks else _level(bottom, right, "")
    below = "".join(
        _text(at(mark, up.low)[0], bottom + 18, across.text(mark), "middle")
        for mark in across.marks
    )
    return (
        f"{grid}{below}{''.join(drawn(line, at) for line in lines)}"
        f"{_text((LEFT + right) / 2, height - 8, plot.across.label, 'middle')}"
        f'<text transform="translate(12 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(plot.up.label)}</text>"
    )


def _polyline(line: Line, at: ToPixel, attributes: str) -> str:
    points = (f"{x:.1f},{y:.1f}" for x, y in map(at, line.x, line.y))
    return f'<polyline {attributes} points="{" ".join(points)}"/>'


def _series(line: Line, at: ToPixel, place: int | None) -> str:
    """A line of a sheet, with markers and bars; a faint one without a place in the legend."""
    if place is None:
        return _polyline(line, at, f'class="faint" stroke="{GREY}"')
    color = COLORS[place % len(COLORS)]
    markers = "".join(_marker(*at(x, y), place) for x, y in zip(line.x, line.y, strict=True))
    bars = "".join(
        f'<path d="M{at(x, low)[0]:.1f},{at(x, low)[1]:.1f}V{at(x, high)[1]:.1f}" '
        f'stroke="{color}"/>'
        for x, (low, high) in zip(line.x, line.bars, strict=bool(line.bars))
    )
    return _polyline(line, at, f'stroke="{color}"') + bars + (markers if line.marked else "")


def _marker(x: float, y: float, place: int) -> str:
    color = COLORS[place % len(COLORS)]
    return (
        f'<path transform="translate({x:.1f},{y:.1f})" d="{MARKERS[place % len(MARKERS)]}" '
        f'fill="{color}" stroke="{color}"/>'
    )


def _legend(labels: Sequence[str], width: float, y: float) -> str:
    """Each label with its marker, in a row about the middle."""
    lengths = [30 + 7 * len(label) for label in labels]
    x = (width - sum(lengths)) / 2
    parts = []
    for place, (label, length) in enumerate(zip(labels, lengths, strict=True)):
        parts += [_marker(x, y - 4, place), _text(x + 9, y, label, "start")]
        x += length
    return "".join(parts)


def _level(y: float, right: float, text: str) -> str:
    """A line across at a mark of the vertical axis."""
    return (
        f'<line class="axis" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        f"{_text(LEFT - 6, y + 4, text, 'end')}"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
