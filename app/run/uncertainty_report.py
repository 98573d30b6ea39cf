"""uncertainty/report.html: how far to trust a run, on one page that needs nothing else."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from lumigraph.app.run.files import printable, write_bytes
from lumigraph.app.run.folder import Run
from lumigraph.app.run.intervals import percent
from lumigraph.app.run.pictures import colored, picture_name, read_picture
from lumigraph.app.run.plots import PLOT_STYLE, Plot, plot_svg
from lumigraph.app.run.report import ERROR_SCALE, PICTURED, STYLE, image_tag, tile
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

PLOTS = {
    "sparsification_mae": Plot(
        "Sparsification, MAE",
        "of the values removed, the most uncertain first",
        "error of the rest, over that of all",
        "The sooner it falls, the better the map knows where the errors are. Dashed: the largest "
        "errors removed first, which no map can beat. A map that knows nothing stays at 1.",
    ),
    "sparsification_rmse": Plot(
        "Sparsification, RMSE",
        "of the values removed, the most uncertain first",
        "error of the rest, over that of all",
        "The same for squared errors, in which the few large ones count most.",
    ),
    "risk_coverage": Plot(
        "Risk and coverage",
        "of the values kept, the most certain",
        "their mean error",
        "What to expect of the part that is trusted: errors where colours go from 0 to 1. Dashed: "
        "the smallest errors kept.",
    ),
    "reliability": Plot(
        "Reliability",
        "of a normal distribution, in colour \u00b1 z standard deviations",
        "share of the values within",
        "Below the dashed line the standard deviations are too small to be read as they are: this "
        "is what intervals mend.",
    ),
}
"""What is drawn of the curves of estimate.json."""


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
<title>{title}, uncertainty - Lumigraph</title><style>{STYLE}{PLOT_STYLE}
th:first-child {{ min-width: 8.5rem; }}
</style></head><body>
<h1>{title}: how far to trust it</h1><p class="under">PH-Dropout, {escape(how)}</p>
<div class="tiles">{"".join(tiles)}</div>{note}
<h2>Intervals</h2>{_intervals(estimate)}
<h2>How well the map knows its errors</h2>{_curves(estimate["curves"])}
{_published(estimate["published"])}
<h2>Test views</h2>{_views(run, estimate["per_image"])}
</body></html>
"""


_UNCALIBRATED = (
    "<p>* Not calibrated: this rate was given, and no training photo was asked whether the scene "
    "allows it.</p>"
)


def _intervals(estimate: dict[str, Any]) -> str:
    """How wide intervals are, what they promise and what became of it, for whoever reads it."""
    found, note = estimate["intervals"], estimate["intervals_note"]
    said = f"<p>{escape(note)}.</p>" if note else ""
    if found is None:
        return said
    level, within = percent(found["level"]), percent(1 - found["beta"])
    tiles = [
        tile(level, "of views covered, as promised"),
        tile(within, "of the values in such a view"),
        tile(f"\u00b1 {found['q']:.3g}", "standard deviations (q)"),
    ]
    text = (
        f"Each colour value gets an interval: itself, and {found['q']:.3g} standard deviations "
        f"to both sides. How many it takes was measured on {found['views']} of the photos, which "
        "were set aside from training. The promise: a further view taken like those is covered "
        f"with a probability of at least {level}, and covered means that at least {within} of its "
        "values lie within their intervals. It holds whatever the shape of the errors, but not for "
        "cameras or light unlike those of the photos."
    )
    if found["covered_views"] is not None:
        tiles += _kept(estimate["per_image"], found)
        text += (
            " The test views had no part in it and show whether it is kept; a few of them can "
            "well be off it by chance."
        )
    if not estimate["calibrated"]:
        text += " That the drop rate was given changes nothing in this, only how wide they are."
    return f'<div class="tiles">{"".join(tiles)}</div>{said}<p>{escape(text)}</p>'


def _kept(entries: Sequence[dict[str, Any]], found: dict[str, Any]) -> list[str]:
    """What became of the promise in the test views."""
    covered = sum(entry["interval"]["covered"] for entry in entries)
    return [
        tile(f"{covered} of {len(entries)}", "test views covered"),
        tile(percent(found["covered_values"]), "of their values within"),
        tile(f"{found['width']:.3f}", "mean width, of colours from 0 to 1"),
    ]


def _published(metrics: dict[str, float] | None) -> str:
    """The numbers with errors of the mean over masks."""
    if metrics is None:
        return ""
    return (
        "<p>All errors are those of the picture with all splats. PH-Dropout was published with "
        "errors of the mean over masks, which is darker the more is left out: so counted, AUSE is "
        f"{metrics['ause_mae']:.3f} (MAE) and {metrics['ause_rmse']:.3f} (RMSE), in the units of "
        f"the paper {metrics['ause_published']:.3f}, Spearman {metrics['spearman']:.3f}, the "
        f"negative log likelihood {metrics['nll']:.3f}.</p>"
    )


def _curves(curves: dict[str, dict[str, Sequence[float]]] | None) -> str:
    """The curves, each the mean over the test views."""
    if curves is None:
        return "<p>No views were held out.</p>"
    plots = (plot_svg(plot, **curves[name]) for name, plot in PLOTS.items())
    return f'<div class="plots">{"".join(plots)}</div>'


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
            f"Spearman {numbers['spearman']:.3f}{_within(entry['interval'])}</td>{pictures}</tr>"
        )
    return (
        '<div class="wide"><table><tr><th>View; the worst map first</th><th>Photo</th>'
        "<th>Uncertainty: std, 0 to 0.25, its root</th>"
        f"<th>Error, {ERROR_SCALE:.0f} times</th></tr>{''.join(rows)}</table></div>"
    )


def _within(held: dict[str, Any] | None) -> str:
    """What the intervals hold of a view, if there are any."""
    if held is None:
        return ""
    return f"<br>{percent(held['inside'])} within{'' if held['covered'] else ': not covered'}"


def _pictures(run: Run, index: int, frame: Frame) -> str:
    """Three cells: photo, map, error."""
    name, size = picture_name(index, frame.name), (frame.camera.width, frame.camera.height)
    try:
        photo = frame.image()
        spread = read_picture(run.folder / "uncertainty" / "maps" / name, *size)
        seen = read_picture(run.folder / "uncertainty" / "pictures" / name, *size)
    except (OSError, ValueError):
        return "<td>missing</td>" * 3
    error: torch.Tensor = (seen.float() - photo.float()).abs().mean(-1) / 255 * ERROR_SCALE
    cells = ((photo, "photo"), (spread, "uncertainty"), (colored(error), "error"))
    return "".join(f"<td>{image_tag(pixels, alt)}</td>" for pixels, alt in cells)
