"""report.html: the results of a run on one page, which needs no other files."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct

from lumigraph.app.run.cameras import picture_name, read_picture
from lumigraph.app.run.files import is_number, read_json, write_text
from lumigraph.app.run.folder import Run
from lumigraph.app.run.metrics import read_log
from lumigraph.app.run.pictures import colored, thumbnail
from lumigraph.app.run.plots import Axis, Line, Plot, figure
from lumigraph.app.run.record import OptionalNumber
from lumigraph.datasets import Frame
from lumigraph.datasets.files import printable

PICTURED, PICTURE_WIDTH = 24, 320
"""The number of views that the page shows, and their width in pixels. A view takes some 30 kB, so
that the page can be mailed."""

ERROR_SCALE = 4.0
"""Errors are multiplied by this, so that a quarter of the full range is the brightest colour."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --paper: #fbfbf9; --card: #fff; --line: #dcdfe6;
  --soft: #646c7d; --mark: #2b6cb0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ee; --paper: #14171d; --card: #1b1f27;
  --line: #323846; --soft: #98a1b3; --mark: #7db4ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
p.under { margin: .25rem 0 1.5rem; color: var(--soft); overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; }
.tile { padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
.tile b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: .75rem; }
figure { margin: 0; padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
figcaption { color: var(--soft); font-size: .85rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
svg .axis { stroke: var(--line); } svg .curve { stroke: var(--mark); stroke-width: 2; fill: none; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 500; font-size: .85rem; }
td img { display: block; width: 100%; min-width: 9rem; border-radius: .3rem; }
"""


class Score(Struct):
    """The scores of a test view."""

    name: str
    psnr: OptionalNumber = None
    ssim: OptionalNumber = None


class Evaluation(Struct):
    """The entries of eval/metrics.json that the page shows."""

    psnr: OptionalNumber = None
    ssim: OptionalNumber = None
    images: OptionalNumber = None
    per_image: list[Score] = []


def write_report(run: Run) -> Path:
    """Writes report.html from the files of the run folder, and returns its path."""
    path = run.folder / "report.html"
    write_text(path, _page(run))
    return path


def _evaluation(run: Run) -> Evaluation:
    """The evaluation of the present scene; ValueError if its file is malformed."""
    path = run.folder / "eval" / "metrics.json"
    if "metrics" not in run.record or not path.exists():  # else eval/ is of an earlier scene
        return Evaluation()
    return read_json(path, Evaluation, "Run `lumigraph eval` again")


def _page(run: Run) -> str:
    """The page as HTML."""
    record = run.record
    metrics = _evaluation(run)
    log = read_log(run.folder / "metrics.jsonl")
    title = escape(printable(record["capture"]))
    subtitle = f"{record['state']} at step {record.get('step', 0):,} of {record.get('steps', 0):,}"
    charts = [
        _chart(log, "loss", "Loss, smoothed"),
        _chart(log, "psnr", "PSNR of up to four test views, dB"),
        _chart(log, "splats", "Splats"),
    ]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - Lumigraph</title><style>{STYLE}</style></head><body>
<h1>{title}</h1><p class="under">Lumigraph {escape(str(record["versions"].get("lumigraph")))},
{escape(subtitle)}</p>
<div class="tiles">{"".join(tile(*each) for each in _numbers(record, metrics))}</div>
<h2>Training</h2><div class="charts">{"".join(charts)}</div>{_iterations(record, log)}
<h2>Test views</h2>{_views(run, metrics)}
<h2>How it was made</h2>{_facts(record)}
</body></html>
"""


ITERATION = {
    "number": ("iteration", "{:.0f}"),
    "before": ("cost before", "{:.5g}"),
    "tried": ("cost after", "{:.5g}"),
    "gain": ("gain ratio", "{:.3f}"),
    "damping": ("damping", "{:.4g}"),
    "products": ("products", "{:.0f}"),
    "shortened": ("share of the step", "{:.3f}"),
    "length": ("step length", "{:.3f}"),
    "seconds": ("seconds", "{:.1f}"),
}
"""The columns for an iteration of Levenberg-Marquardt: title and format."""


def iterations(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The iterations of Levenberg-Marquardt in a log."""
    return [entry["lm"] for entry in log if isinstance(entry.get("lm"), dict)]


def _iteration_rows(log: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows of the table of iterations: the columns of `ITERATION`, then taken or refused."""
    rows = []
    for tried in iterations(log):
        numbers = [
            text.format(tried[name]) if is_number(tried.get(name)) else "-"
            for name, (_, text) in ITERATION.items()
        ]
        rows.append([*numbers, "taken" if tried.get("accepted") is True else "refused"])
    return rows


JUDGED = {
    "lm": "A cost is the mean loss over the steps of an iteration, each of which learns from one "
    "photo. The gain ratio is taken over the photos that are linearized in the iteration, with one "
    "product with J for each.",
    "lm-published": "A cost is taken over the last batch of photos, on which a step is judged. "
    "Products are with J^T J.",
}
"""How to read the table of iterations, by optimizer."""


def _iterations(record: Mapping[str, Any], log: Sequence[dict[str, Any]]) -> str:
    """The table of the iterations of Levenberg-Marquardt; empty if there were none."""
    rows = _iteration_rows(log)
    if not rows:
        return ""
    titles = [title for title, _ in ITERATION.values()] + ["step"]
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
    judged = JUDGED.get(str(record.get("plan", {}).get("optimizer")), "")
    return (
        f"<h2>Levenberg-Marquardt</h2><p>{judged}</p>"
        f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
    )


def _numbers(record: dict[str, Any], metrics: Evaluation) -> list[tuple[str, str]]:
    """The main numbers of the run that are known, as (value, label)."""
    shown = [
        (metrics.psnr, "{:.2f} dB", "PSNR"),
        (metrics.ssim, "{:.4f}", "SSIM"),
        (metrics.images, "{:,}", "test views"),
        (record.get("splats"), "{:,}", "splats"),
        (record.get("seconds"), "{:.0f} s", "training"),
        (record.get("steps_per_second"), "{:.1f}", "steps per second"),
        (record.get("peak_memory_mb"), "{:,} MB", "peak memory"),
    ]
    return [(text.format(v), noun) for v, text, noun in shown if is_number(v)]


def tile(value: str, noun: str) -> str:
    """A number in a box, with its label."""
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(noun)}</span></div>'


def _chart(log: Sequence[dict[str, Any]], key: str, title: str) -> str:
    """A curve over steps as a figure; nothing if there are fewer than two points."""
    points = [(e["step"], e[key]) for e in log if is_number(e.get(key))]
    if len(points) < 2:
        return ""
    steps, values = zip(*(_smoothed(points) if key == "loss" else points), strict=True)
    return figure(Plot(title, Axis("step", "range"), Axis("", "range")), [Line(steps, values)])


def _smoothed(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Each value replaced by the mean of its neighbours, as the loss differs from view to view."""
    reach = max(1, len(points) // 50)
    smooth = []
    for i, (step, _) in enumerate(points):
        near = [value for _, value in points[max(0, i - reach) : i + reach + 1]]
        smooth.append((step, sum(near) / len(near)))
    return smooth


def _views(run: Run, metrics: Evaluation) -> str:
    """The table of test views, the worst first."""
    if not metrics.per_image:
        return "<p>No photos were held out, or the scene is not evaluated yet.</p>"
    frames = {frame.name: (i, frame) for i, frame in enumerate(run.capture().test)}
    known = [score for score in metrics.per_image if score.name in frames]
    scores = sorted(known, key=lambda score: score.psnr or -math.inf)
    rows = []
    for place, score in enumerate(scores):
        pictures = _pictures(run, *frames[score.name]) if place < PICTURED else "<td></td>" * 3
        rows.append(
            f"<tr><td>{escape(printable(score.name))}<br>{_known(score.psnr, '{:.2f} dB')}<br>"
            f"{_known(score.ssim, '{:.4f}')}</td>{pictures}</tr>"
        )
    return (
        '<div class="wide"><table><tr><th>View, PSNR, SSIM; the worst first</th><th>Rendering</th>'
        f"<th>Photo</th><th>Error, {ERROR_SCALE:.0f} times</th></tr>{''.join(rows)}</table></div>"
    )


def _known(value: float | None, text: str) -> str:
    return "unknown" if value is None else text.format(value)


def _pictures(run: Run, index: int, frame: Frame) -> str:
    """Three cells: rendering, photo, error."""
    path = run.folder / "eval" / "renders" / picture_name(index, frame.name)
    try:
        seen = read_picture(path, frame.camera.width, frame.camera.height)
        photo = frame.image()
    except (OSError, ValueError):
        return "<td>missing</td>" * 3
    error = (seen.float() - photo.float()).abs().mean(-1) / 255 * ERROR_SCALE
    cells = ((seen, "rendering"), (photo, "photo"), (colored(error), "error"))
    return "".join(f"<td>{image_tag(pixels, alt)}</td>" for pixels, alt in cells)


def image_tag(pixels: torch.Tensor, alt: str) -> str:
    """A picture inside the page itself."""
    data = base64.b64encode(thumbnail(pixels, PICTURE_WIDTH)).decode()
    return f'<img alt="{alt}" loading="lazy" src="data:image/jpeg;base64,{data}">'


def _facts(record: dict[str, Any]) -> str:
    """The options, the plan and the versions as a table."""
    rows = [
        (name, key, value)
        for name in ("asked", "plan", "inputs", "versions", "timings")
        for key, value in (record.get(name) or {}).items()
    ]
    cells = "".join(
        f"<tr><td>{name}</td><td>{escape(str(key))}</td><td>{escape(str(value))}</td></tr>"
        for name, key, value in rows
    )
    return f'<div class="wide"><table>{cells}</table></div>'
