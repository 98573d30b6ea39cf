"""uncertainty/report.html: how far to trust a run, on one page that needs nothing else."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from lumigraph.app.files import printable, write_bytes
from lumigraph.app.pictures import colored, picture_name, read_picture
from lumigraph.app.report import ERROR_SCALE, PICTURED, STYLE, image_tag, tile
from lumigraph.app.run_folder import Run
from lumigraph.datasets import Frame

NUMBERS = {
    "ause_mae": "AUSE, MAE (0: perfect)",
    "ause_rmse": "AUSE, RMSE",
    "spearman": "Spearman with the error",
    "pearson": "Pearson",
    "nll": "negative log likelihood, nats",
    "ece": "expected calibration error",
    "coverage_95": "share inside 1.96 std",
    "sharpness": "mean std",
    "mae": "mean error",
}
"""What is in the table, and what it is."""


def write_uncertainty_report(run: Run, estimate: dict[str, Any]) -> Path:
    """Writes the page, and returns its path."""
    path = run.part("uncertainty") / "report.html"
    write_bytes(path, _page(run, estimate).encode("utf-8", "replace"))
    return path


def _page(run: Run, estimate: dict[str, Any]) -> str:
    title = escape(printable(run.record["capture"]))
    mean = estimate["mean"] or {}
    tiles = [
        tile(f"{estimate['rate']:.4f}", "drop rate" + ("" if estimate["calibrated"] else "*")),
        *(tile(f"{mean[key]:.3f}", noun) for key, noun in NUMBERS.items() if key in mean),
    ]
    how = "exact, over all masks" if estimate["trials"] is None else f"{estimate['trials']} masks"
    note = "" if estimate["calibrated"] else _UNCALIBRATED
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}, uncertainty - Lumigraph</title><style>{STYLE}
figure {{ max-width: 32rem; }}
svg .ideal {{ stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 5 4; fill: none; }}
</style></head><body>
<h1>{title}: how far to trust it</h1><p class="under">PH-Dropout, {escape(how)}</p>
<div class="tiles">{"".join(tiles)}</div>{note}
<h2>What is left when the most uncertain goes</h2>{_curve(estimate["sparsification"])}
<h2>Test views</h2>{_views(run, estimate["per_image"])}
</body></html>
"""


_UNCALIBRATED = (
    "<p>* Not calibrated: this rate was given, and no training photo was asked whether the scene "
    "allows it.</p>"
)


def _curve(curve: dict[str, Sequence[float]] | None) -> str:
    """The sparsification curves: by the map, and by the error itself."""
    if curve is None:
        return "<p>No views were held out.</p>"
    left, right, top, bottom = 52.0, 470.0, 10.0, 200.0

    def points(values: Sequence[float]) -> str:
        return " ".join(
            f"{left + share * (right - left):.1f},"
            f"{bottom - min(max(value, 0.0), 1.2) / 1.2 * (bottom - top):.1f}"
            for share, value in zip(curve["shares"], values, strict=True)
        )

    unit = bottom - (bottom - top) / 1.2
    return (
        '<div class="charts"><figure><svg viewBox="0 0 480 225" role="img" '
        'aria-label="Sparsification">'
        f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
        f'<line class="axis" x1="{left}" y1="{top}" x2="{left}" y2="{bottom}"/>'
        f'<line class="axis" x1="{left}" y1="{unit}" x2="{right}" y2="{unit}"/>'
        f'<polyline class="ideal" points="{points(curve["oracle"])}"/>'
        f'<polyline class="curve" points="{points(curve["left"])}"/>'
        f'<text x="{left - 6}" y="{unit + 4}" text-anchor="end">1</text>'
        f'<text x="{left - 6}" y="{bottom + 4}" text-anchor="end">0</text>'
        f'<text x="{left}" y="{bottom + 18}">0 %</text>'
        f'<text x="{right}" y="{bottom + 18}" text-anchor="end">99 % of the pixels removed</text>'
        "</svg><figcaption>Mean error of the pixels that are left, over that of all, as the most "
        "uncertain are removed; dashed as the largest errors are, which no map can beat."
        "</figcaption></figure></div>"
    )


def _views(run: Run, entries: Sequence[dict[str, Any]]) -> str:
    """The table of test views, the worst map first."""
    if not entries:
        return "<p>None were held out.</p>"
    frames = {frame.name: (i, frame) for i, frame in enumerate(run.capture().test)}
    rows = []
    for place, entry in enumerate(sorted(entries, key=lambda e: -e["metrics"]["ause_mae"])):
        pictures = _pictures(run, *frames[entry["name"]]) if place < PICTURED else "<td></td>" * 3
        numbers = entry["metrics"]
        rows.append(
            f"<tr><td>{escape(printable(entry['name']))}<br>AUSE {numbers['ause_mae']:.3f}<br>"
            f"Spearman {numbers['spearman']:.3f}</td>{pictures}</tr>"
        )
    return (
        '<div class="wide"><table><tr><th>View; the worst map first</th><th>Photo</th>'
        "<th>Uncertainty: std, 0 to 0.25, its root</th>"
        f"<th>Error, {ERROR_SCALE:.0f} times</th></tr>{''.join(rows)}</table></div>"
    )


def _pictures(run: Run, index: int, frame: Frame) -> str:
    """Three cells: photo, map, error."""
    name, size = picture_name(index, frame.name), (frame.camera.width, frame.camera.height)
    try:
        photo = frame.image()
        spread = read_picture(run.folder / "uncertainty" / "maps" / name, *size)
        seen = read_picture(run.folder / "uncertainty" / "means" / name, *size)
    except (OSError, ValueError):
        return "<td>missing</td>" * 3
    error: torch.Tensor = (seen.float() - photo.float()).abs().mean(-1) / 255 * ERROR_SCALE
    cells = ((photo, "photo"), (spread, "uncertainty"), (colored(error), "error"))
    return "".join(f"<td>{image_tag(pixels, alt)}</td>" for pixels, alt in cells)
