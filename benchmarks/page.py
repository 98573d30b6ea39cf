"""How fluent the page is: frames a second and the time from a hand to its pixels, in Chromium.

    .venv/bin/python benchmarks/page.py --runs 5
    .venv/bin/python benchmarks/page.py --page full --train --json

The page shows 100,000 generated splats and is turned without a pause, a little for each refresh of
the screen. A frame counts where it is drawn; its latency is from the moment its view was turned to,
to the next refresh after it was painted. The first picture is timed from the address to a drawn
frame, in a browser that has nothing of the page yet, of a server that has drawn before. Browser and
server share the machine, and no graphics card helps: WebGL, for viser's page, is software.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from measuring import Summary, markdown, number, spread, summary
from playwright.sync_api import sync_playwright
from visiting import FLAGS, address, browser_option, launched, opened, turned, window_for

from lumigraph.app.commands.bench import generated_scene
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.viewer.controls import MODES
from lumigraph.app.viewer.serve import Page as Served
from lumigraph.app.viewer.serve import open_page
from lumigraph.app.viewer.state import ViewerState
from lumigraph.recon.files import save_ply

SIZES = ((640, 360), (1280, 720))
"""Of the canvas, in pixels."""

FIGURES = (
    "fps",
    "fps_at_scale_1",
    "fps_smaller",
    "latency_ms_p50",
    "latency_ms_p95",
    "still_to_final_ms",
    "first_picture_s",
)


def main() -> None:
    """Measures, and prints what came of it."""
    asked = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_ply(generated_scene(asked.splats), folder / "scene.ply")
        page = open_page(
            ViewerState([folder, *asked.capture], folder / "runs"), folder / "runs", port=0
        )
        try:
            result = _measured(asked, page)
        except RuntimeError as error:
            sys.exit(str(error))
        finally:
            page.close()
    print(json.dumps(result) if asked.json else _text(result))


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", choices=FLAGS, default="light", help="full is viser's [light]")
    parser.add_argument("--mode", choices=MODES, default="color", help="what is shown [color]")
    parser.add_argument("--splats", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=8, help="of turning [8]")
    parser.add_argument("--runs", type=int, default=1, help="median and range of so many [1]")
    parser.add_argument("--train", action="store_true", help="watch a training instead")
    parser.add_argument("--capture", type=Path, nargs="*", default=[], help="for --train")
    browser_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    if asked.seconds < 2 or asked.runs < 1:
        parser.error("--seconds takes at least 2, the first of which does not count, --runs 1")
    return asked


def _measured(asked: argparse.Namespace, served: Served) -> dict[str, Any]:
    """The figures of each size; RuntimeError if they would not be what they are called."""
    viewer, url = served.viewer, address(served.server.urls["control"], asked.page)
    _begin(asked, viewer)
    with sync_playwright() as playwright:
        browser = launched(playwright, asked.browser, asked.page)
        windows = {size: window_for(browser, url, size) for size in SIZES}
        runs: dict[tuple[int, int], list[dict[str, Any]]] = {size: [] for size in SIZES}
        for _ in range(asked.runs):
            for size, window in windows.items():
                page, seconds = opened(browser, url, window)
                page.evaluate("(mode) => window.lumigraph.set('mode', mode)", asked.mode)
                found = turned(page, asked.page, size, asked.seconds)
                runs[size].append({**_figures(found), "first_picture_s": seconds})
                page.close()
                if asked.train and not viewer.jobs.training:
                    raise RuntimeError("The training ended meanwhile: take fewer --runs")
        browser.close()
    splats = None if asked.train else asked.splats
    about = {"page": asked.page, "mode": asked.mode, "splats": splats, "training": asked.train}
    return about | {f"{width}x{height}": _over(runs[width, height]) for width, height in SIZES}


def _begin(asked: argparse.Namespace, viewer: ViewerState) -> None:
    """Has the viewer show what is to be looked at."""
    kind = "capture" if asked.train else "ply"
    sources = [source["id"] for source in viewer.library.as_dicts() if source["kind"] == kind]
    if asked.train:
        viewer.start(sources[-1] if asked.capture else "demo:full", TrainOptions(preset="standard"))
    else:
        viewer.show(sources[0])


def _figures(found: dict[str, Any]) -> dict[str, float | None]:
    """What is said of one turning."""
    frames = found["moving"]
    whole = [frame for frame in frames if frame["scale"] >= 0.999]
    times = sorted(frame["ms"] for frame in frames if frame["ms"] is not None)
    if len(times) < len(frames):
        raise RuntimeError(f"{len(frames) - len(times)} frames are of views that nobody turned to")
    return {
        "fps": len(frames) / found["seconds"],
        "fps_at_scale_1": len(whole) / found["seconds"],
        "fps_smaller": (len(frames) - len(whole)) / found["seconds"],
        "latency_ms_p50": times[len(times) // 2] if times else None,
        "latency_ms_p95": times[int(0.95 * len(times))] if times else None,
        "still_to_final_ms": found["still"],
    }


def _over(runs: list[dict[str, Any]]) -> dict[str, Summary | None]:
    """Median and range of each figure over the runs that have it."""
    columns = {name: [run[name] for run in runs if run[name] is not None] for name in FIGURES}
    return {name: summary(values) if values else None for name, values in columns.items()}


def _text(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    sizes = {size: row for size, row in result.items() if isinstance(row, dict)}
    rows = [[size, *(cell(row[name]) for name in FIGURES)] for size, row in sizes.items()]
    return markdown(["canvas", *(name.replace("_", " ") for name in FIGURES)], rows)


def cell(figure: Summary | None) -> str:
    """The median of a figure, and its range if there was more than one run."""
    if figure is None:
        return "-"
    middle = number(figure["median"])
    return middle if figure["runs"] == 1 else f"{middle} ({spread(figure)})"


if __name__ == "__main__":
    main()
