"""Measures the page in Chromium: frames per second, and the time from a turn to its pixels.

    .venv/bin/python benchmarks/page.py --runs 5
    .venv/bin/python benchmarks/page.py --page full --train --json

The page shows 100,000 generated splats. A script turns the view a little at each refresh of the
screen. A frame counts when it is drawn; its latency is the time from the turn to its view until the
next refresh after it was painted. The time to the first picture begins with opening the address in
a browser without a cache, and ends with a drawn frame; the server has drawn before. Browser and
server share the machine, without a graphics card: viser's page has WebGL in software.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

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
"""Sizes of the canvas in pixels."""

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
    """Measures, and prints the results."""
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
    parser.add_argument(
        "--page", choices=FLAGS, default="light", help="light, or full: viser's page [light]"
    )
    parser.add_argument("--mode", choices=MODES, default="color", help="mode of the page [color]")
    parser.add_argument("--splats", type=int, default=100_000, help="of the scene [100000]")
    parser.add_argument("--seconds", type=float, default=8, help="length of the turning [8]")
    parser.add_argument(
        "--runs", type=int, default=1, help="runs, reported as median and range [1]"
    )
    parser.add_argument(
        "--train", action="store_true", help="show a training in place of the scene"
    )
    parser.add_argument("--capture", type=Path, nargs="*", default=[], help="of --train")
    browser_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    if asked.seconds < 2 or asked.runs < 1:
        parser.error("--seconds must be at least 2, since the first does not count, and --runs 1")
    return asked


def _measured(asked: argparse.Namespace, served: Served) -> dict[str, Any]:
    """The figures of each size; RuntimeError if the training ended too early."""
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
                    raise RuntimeError(
                        "The training ended during the measurement: give fewer --runs"
                    )
        browser.close()
    splats = None if asked.train else asked.splats
    about = {"page": asked.page, "mode": asked.mode, "splats": splats, "training": asked.train}
    return about | {f"{width}x{height}": _over(runs[width, height]) for width, height in SIZES}


def _begin(asked: argparse.Namespace, viewer: ViewerState) -> None:
    """Starts the training, or shows the scene."""
    kind = "capture" if asked.train else "ply"
    sources = [source["id"] for source in viewer.library.as_dicts() if source["kind"] == kind]
    if asked.train:
        viewer.start(sources[-1] if asked.capture else "demo:full", TrainOptions(preset="standard"))
    else:
        viewer.show(sources[0])


def _figures(found: dict[str, Any]) -> dict[str, float | None]:
    """The figures of one run."""
    frames = found["moving"]
    whole = [frame for frame in frames if frame["scale"] >= 0.999]
    times = sorted(frame["ms"] for frame in frames if frame["ms"] is not None)
    if len(times) < len(frames):
        raise RuntimeError(
            f"{len(frames) - len(times)} frames belong to no turn: adapt this benchmark to the page"
        )
    return {
        "fps": len(frames) / found["seconds"],
        "fps_at_scale_1": len(whole) / found["seconds"],
        "fps_smaller": (len(frames) - len(whole)) / found["seconds"],
        "latency_ms_p50": times[len(times) // 2] if times else None,
        "latency_ms_p95": times[int(0.95 * len(times))] if times else None,
        "still_to_final_ms": found["still"],
    }


def _over(runs: list[dict[str, Any]]) -> dict[str, Summary | None]:
    """Median and range of each figure, over the runs in which it is known."""
    columns = {name: [run[name] for run in runs if run[name] is not None] for name in FIGURES}
    return {name: summary(values) if values else None for name, values in columns.items()}


def _text(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    sizes = {size: row for size, row in result.items() if isinstance(row, dict)}
    rows = [[size, *(cell(row[name]) for name in FIGURES)] for size, row in sizes.items()]
    return markdown(["canvas", *(name.replace("_", " ") for name in FIGURES)], rows)


def cell(figure: Summary | None) -> str:
    """The median of a figure, with its range if there is more than one run."""
    if figure is None:
        return "-"
    middle = number(figure["median"])
    return middle if figure["runs"] == 1 else f"{middle} ({spread(figure)})"


if __name__ == "__main__":
    main()
