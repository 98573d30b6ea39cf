"""Small plots as SVG, for pages that need nothing else and are read by day and by night."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 52.0, 462.0, 12.0, 190.0
"""Of the area of the curves, in a picture of 480 x 236."""

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Between two marks of an axis, times a power of ten: what people count in."""

PLOT_STYLE = """
.plots { display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
svg .ideal { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 5 4; fill: none; }
"""
"""What a page needs besides the style of reports."""


@dataclass(frozen=True)
class Plot:
    """A curve over shares, and the best that it could be.

    Attributes:
        title: What is shown.
        across: What the shares are of, along the bottom.
        up: What the values are, along the side.
        caption: What to look for.
    """

    title: str
    across: str
    up: str
    caption: str


def plot_svg(
    plot: Plot, at: Sequence[float], values: Sequence[float], ideal: Sequence[float]
) -> str:
    """The curve as a figure: `values` drawn through, `ideal` dashed, over shares in [0, 1]."""
    marks = axis_marks(max((*values, *ideal)))
    height = (BOTTOM - TOP) / marks[-1]

    def line(kind: str, heights: Sequence[float]) -> str:
        points = (
            f"{LEFT + share * (RIGHT - LEFT):.1f},{BOTTOM - max(value, 0.0) * height:.1f}"
            for share, value in zip(at, heights, strict=True)
        )
        return f'<polyline class="{kind}" points="{" ".join(points)}"/>'

    grid = "".join(_level(BOTTOM - mark * height, f"{mark:g}") for mark in marks)
    return (
        f'<figure><svg viewBox="0 0 480 236" role="img" aria-label="{escape(plot.title)}">'
        f"{grid}{_shares()}{line('ideal', ideal)}{line('curve', values)}"
        f'<text x="{(LEFT + RIGHT) / 2}" y="228" text-anchor="middle">{escape(plot.across)}</text>'
        f'<text transform="translate(12 {(TOP + BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(plot.up)}</text></svg>"
        f"<figcaption><b>{escape(plot.title)}.</b> {escape(plot.caption)}</figcaption></figure>"
    )


def axis_marks(most: float) -> list[float]:
    """Round numbers from 0 to one no less than `most`: three to six of them."""
    if not most > 0:
        return [0.0, 1.0]
    rough = most / 4 * (1 - 1e-9)  # 1 is 4 times 0.25, whatever sums and means make of it
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in STEPS if step * power >= rough) * power
    count = math.ceil(most / step * (1 - 1e-9))
    return [float(f"{k * step:.12g}") for k in range(count + 1)]


def _level(y: float, text: str) -> str:
    """A line across at a mark."""
    return (
        f'<line class="axis" x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _shares() -> str:
    """The marks along the bottom."""
    return "".join(
        f'<text x="{LEFT + share * (RIGHT - LEFT):.1f}" y="{BOTTOM + 18}" text-anchor="middle">'
        f"{100 * share:.0f} %</text>"
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
