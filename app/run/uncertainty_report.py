"""uncertainty/report.html: how far to trust a run, on one page without other files."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from lumigraph.app.run.cameras import picture_name, read_picture
from lumigraph.app.run.files import write_bytes
from lumigraph.app.run.folder import Run
from lumigraph.app.run.intervals import percent
from lumigraph.app.run.pictures import colored
from lumigraph.app.run.plots import PLOT_STYLE, Axis, Line, Plot, figure
from lumigraph.app.run.report import ERROR_SCALE, PICTURED, STYLE, image_tag, tile
from lumigraph.datasets import Frame
from lumigraph.datasets.files import printable

NUMBERS = {
    "ause_mae_ratio": "AUSE over chance (MAE): 0 is best, 1 is chance",
    "ause_rmse_ratio": "AUSE over chance (RMSE)",
    "spearman": "Spearman correlation with the error",
    "pearson": "Pearson correlation with the error",
    "nll": "negative log likelihood, nats",
    "ece": "expected calibration error: 0 is best",
    "coverage_95": "share of values within 1.96 standard deviations: 0.95 is best",
    "sharpness": "mean standard deviation",
    "mae": "mean error",
}
"""The metrics at the top of the page, with their labels."""

PLOTS = {
    "sparsification_mae": Plot(
        "Sparsification, MAE",
        Axis("share of the values removed, the most uncertain first", "share"),
        Axis("MAE of the rest, over that of all"),
        "The lower the curve, the better the map knows where the errors are. Dashed: the largest "
        "errors are removed first, which no map can beat. A random map stays at 1. AUSE is the "
        "area between the two curves.",
    ),
    "sparsification_rmse": Plot(
        "Sparsification, RMSE",
        Axis("share of the values removed, the most uncertain first", "share"),
        Axis("RMSE of the rest, over that of all"),
        "The same for the root of the mean squared error, in which large errors count most.",
    ),
    "risk_coverage": Plot(
        "Risk and coverage",
        Axis("share of the values kept, the most certain first", "share"),
        Axis("mean error of the kept values"),
        "The error to expect in the values that are kept; colour values go from 0 to 1. Dashed: "
        "the values with the smallest errors are kept.",
    ),
    "reliability": Plot(
        "Reliability",
        Axis("share of a normal distribution within \u00b1 z standard deviations", "share"),
        Axis("share of the values within \u00b1 z"),
        "On the dashed line the errors are normal with these standard deviations. Below it the "
        "standard deviations are too small; the intervals correct that.",
    ),
}
"""The plots of the curves in estimate.json."""


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
{_areas(mean)}{_published(estimate["published"])}
<h2>Test views</h2>{_views(run, estimate["per_image"])}
</body></html>
"""


_UNCALIBRATED = (
    "<p>* Not calibrated: this rate was not found by a search on the training photos of this "
    "scene, so its maps can be compared with each other but not with those of other scenes.</p>"
)


_TEST_VIEWS = {
    "every_nth": "They are every Nth photo of the same list, chosen without regard to what they "
    "show, so about the promised share of them should be covered.",
    "listed": "The capture itself or the list given with --test names them. They may be of another "
    "kind than the calibration views, along another path or in other light for example: then the "
    "promise does not extend to them.",
}
"""What the promise means for the test views, by how these were chosen."""


def _intervals(estimate: dict[str, Any]) -> str:
    """The width of the intervals, what they promise, and what they hold in the test views."""
    found, note = estimate["intervals"], estimate["intervals_note"]
    said = f"<p>{escape(note)}.</p>" if note else ""
    if found is None:
        return said
    level, within = percent(found["level"]), percent(1 - found["beta"])
    tiles = [
        tile(level, "of views covered: the promise"),
        tile(within, "of the colour values in a covered view"),
        tile(f"\u00b1 {found['q']:.3g}", "standard deviations (q)"),
    ]
    text = (
        "A colour value is one channel of one pixel. Its interval goes "
        f"{found['q']:.3g} standard deviations to both sides of the picture's value. This number "
        f"was measured on {found['views']} photos, the calibration views, which were set aside "
        "from training. A view is covered if at least "
        f"{within} of its colour values lie in their intervals. The promise: a further photo, "
        "chosen in the same way as the calibration views from the same photos and set aside from "
        f"training too, is covered with a probability of at least {level}. The promise holds for "
        "errors of any distribution, but not for cameras or light unlike those of the photos."
    )
    if found["covered_views"] is not None:
        tiles += _kept(estimate["per_image"], found)
        text += (
            " The test views were used neither for training nor for calibration, and show how "
            f"well the promise is kept. {_TEST_VIEWS[found['test_views']]} With few test views "
            "the covered share varies by chance."
        )
    if not estimate["calibrated"]:
        text += " It holds for a drop rate that is not calibrated, too: only the widths differ."
    return f'<div class="tiles">{"".join(tiles)}</div>{said}<p>{escape(text)}</p>'


def _kept(entries: Sequence[dict[str, Any]], found: dict[str, Any]) -> list[str]:
    """What the intervals hold in the test views."""
    covered = sum(entry["interval"]["covered"] for entry in entries)
    return [
        tile(f"{covered} of {len(entries)}", "test views covered"),
        tile(percent(found["covered_values"]), "of their colour values in their intervals"),
        tile(f"{found['width']:.3f}", "mean width; colour values go from 0 to 1"),
    ]


def _areas(metrics: dict[str, float]) -> str:
    """The areas behind the ratios, as other papers report them."""
    if not metrics:
        return ""
    return (
        f"<p>AUSE as other papers report it is {metrics['ause_mae']:.3f} (MAE) and "
        f"{metrics['ause_rmse']:.3f} (RMSE). On the errors of these views a random map scores "
        f"{metrics['ause_mae_chance']:.3f} and {metrics['ause_rmse_chance']:.3f}; the ratios above "
        "are the means of each view's AUSE over what chance scores there.</p>"
    )


def _published(metrics: dict[str, float] | None) -> str:
    """The numbers with errors of the mean over masks."""
    if metrics is None:
        return ""
    return (
        "<p>All these errors are those of the picture with all splats. PH-Dropout was published "
        "with the errors of the mean over masks, which get darker at higher drop rates. By "
        f"those errors AUSE over chance is {metrics['ause_mae_ratio']:.3f} (MAE) and "
        f"{metrics['ause_rmse_ratio']:.3f} (RMSE), AUSE in the units of that paper "
        f"{metrics['ause_published']:.3f}, Spearman {metrics['spearman']:.3f}, and the negative "
        f"log likelihood {metrics['nll']:.3f}.</p>"
    )


def _curves(curves: dict[str, dict[str, Sequence[float]]] | None) -> str:
    """The plots of the curves, each the mean over the test views."""
    if curves is None:
        return "<p>No photos were held out.</p>"
    plots = (figure(plot, _lines(**curves[name])) for name, plot in PLOTS.items())
    return f'<div class="plots">{"".join(plots)}</div>'


def _lines(
    at: Sequence[float], values: Sequence[float], ideal: Sequence[float]
) -> tuple[Line, Line]:
    return Line(at, ideal, kind="ideal"), Line(at, values)


def _views(run: Run, entries: Sequence[dict[str, Any]]) -> str:
    """The table of test views, the worst map first."""
    if not entries:
        return "<p>No photos were held out.</p>"
    frames = {frame.name: (i, frame) for i, frame in enumerate(run.capture().test)}
    rows = []
    for place, entry in enumerate(sorted(entries, key=lambda e: -e["metrics"]["ause_mae_ratio"])):
        pictures = _pictures(run, *frames[entry["name"]]) if place < PICTURED else "<td></td>" * 3
        numbers = entry["metrics"]
        rows.append(
            f"<tr><td>{escape(printable(entry['name']))}<br>AUSE over chance "
            f"{numbers['ause_mae_ratio']:.3f}<br>Spearman {numbers['spearman']:.3f}"
            f"{_within(entry['interval'])}</td>{pictures}</tr>"
        )
    return (
        '<div class="wide"><table><tr><th>View; the worst map first</th><th>Photo</th>'
        "<th>Uncertainty: the square root of the standard deviation, from 0 to 0.25</th>"
        f"<th>Error, {ERROR_SCALE:.0f} times as bright</th></tr>{''.join(rows)}</table></div>"
    )


def _within(held: dict[str, Any] | None) -> str:
    """The share of a view's colour values that lie in their intervals, if there are intervals."""
    if held is None:
        return ""
    return f"<br>{percent(held['inside'])} in intervals{'' if held['covered'] else ': not covered'}"


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
