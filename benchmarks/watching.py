"""Measures the time that a page takes from a training, and the memory that its server keeps.

    .venv/bin/python benchmarks/watching.py --runs 5
    .venv/bin/python benchmarks/watching.py --only memory --reloads 300 --json

Costs: the processor time of the training process for a step, in the same training of the built-in
scene, in three ways: `train` without its progress on the terminal, a page without a client, and a
page with one client that does not move. The three take turns, each time in new processes. The
processor time of the page's server is measured beside them.

Memory: that of the server before and after many reloads of the light page. The page shows a
training with a constant number of splats, and has one client at each reading. The browser runs in
another process, so its memory does not count.
"""

import argparse
import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from measuring import markdown, number, summary
from page import cell
from playwright.sync_api import Playwright, ViewportSize, sync_playwright
from processes import Mark, holdings, process, serve, train
from visiting import DRAWN, address, browser_option, launched

from lumigraph.app.training.inputs import TrainOptions
from lumigraph.datasets.demo import SIZES
from lumigraph.recon import PRESETS

ORDER = TrainOptions(preset="quick", seed=0)

LONG = TrainOptions(preset="quick", seed=0, changes={"steps": 10_000_000})
"""With these steps the scene first grows at step 500,000. At the highest speed, a thousand steps a
second, that is after all readings."""

WAYS = {"train": "train", "page": "page without a client", "client": "page with one client"}

FIGURES = ("trainer_ms_per_step", "server_ms_per_step", "wall_ms_per_step", "to_train")

WINDOW: ViewportSize = {"width": 960, "height": 360}
"""The window in which the canvas has 640x360 pixels."""

SETTLED = 2.0
"""Seconds after which the connections of a closed page are closed."""

LISTENS = "() => window.lumigraph?.stream.socket.readyState === WebSocket.OPEN"


def main() -> None:
    """Measures, and prints the results."""
    asked = _arguments()
    result: dict[str, Any] = {"scene": asked.scene}
    try:
        with sync_playwright() as playwright:
            if asked.only != "memory":
                result["steps"], result["costs"] = asked.steps, _costs(asked, playwright)
            if asked.only != "costs":
                result["reloads"], result["memory"] = asked.reloads, _memory(asked, playwright)
    except RuntimeError as error:
        sys.exit(str(error))
    except EOFError:
        sys.exit("The measured process ended too early: its error is printed above")
    print(json.dumps(result) if asked.json else _text(result))


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("costs", "memory"), help="measure one part [both]")
    parser.add_argument("--scene", choices=SIZES, default="small", help="built-in scene [small]")
    steps = "steps between which to measure [400 1400]"
    parser.add_argument("--steps", type=int, nargs=2, default=[400, 1400], help=steps)
    parser.add_argument("--runs", type=int, default=3, help="rounds of the costs [3]")
    parser.add_argument(
        "--reloads", type=int, default=100, help="measured reloads of the page [100]"
    )
    parser.add_argument(
        "--warm", type=int, default=20, help="reloads before the first reading [20]"
    )
    browser_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    (first, last), end = asked.steps, PRESETS["quick"].steps
    if not 0 < first < last < end:
        parser.error(f"--steps must be two numbers, the first below the second, both below {end}")
    if asked.runs < 1 or asked.reloads < 2:
        parser.error("--runs must be at least 1, and --reloads at least 2")
    return asked


# Processor time.


def _costs(asked: argparse.Namespace, playwright: Playwright) -> dict[str, Any]:
    """Median and range of each figure, for each way of training."""
    runs: dict[str, list[dict[str, float | None]]] = {way: [] for way in WAYS}
    for turn in range(asked.runs):
        # Every second round goes backward, so that a machine that grows slower affects all alike.
        for way in WAYS if turn % 2 == 0 else reversed(WAYS):
            first, last = _marks(asked, playwright, way)
            runs[way].append(_per_step(first, last, served=way != "train"))
    for way, found in runs.items():
        for one, base in zip(found, runs["train"], strict=True):
            ours, plain = one["trainer_ms_per_step"], base["trainer_ms_per_step"]
            one["to_train"] = None if way == "train" or not ours or not plain else ours / plain
    return {way: {name: _over(found, name) for name in FIGURES} for way, found in runs.items()}


def _over(runs: list[dict[str, float | None]], name: str) -> dict[str, float] | None:
    values = [value for run in runs if (value := run[name]) is not None]
    return summary(values) if values else None


def _per_step(first: Mark, last: Mark, *, served: bool) -> dict[str, float | None]:
    """Milliseconds per step between two marks; RuntimeError if the marks are at one step."""
    steps = last["step"] - first["step"]
    if steps < 1:  # the server gets the training's progress five times a second
        raise RuntimeError("The training passed both --steps at once: give steps farther apart")
    each = {
        name: 1e3 * (last[name] - first[name]) / steps for name in ("trainer", "server", "clock")
    }
    return {
        "trainer_ms_per_step": each["trainer"],
        "server_ms_per_step": each["server"] if served else None,
        "wall_ms_per_step": each["clock"],
    }


def _marks(asked: argparse.Namespace, playwright: Playwright, way: str) -> tuple[Mark, Mark]:
    """The marks of a new training at the two steps."""
    if way == "train":
        with process(train, asked.scene, ORDER, asked.steps) as (_, pipe):
            return pipe.recv(), pipe.recv()
    with process(serve, asked.scene, ORDER) as (_, pipe):
        url = pipe.recv()
        page = None
        if way == "client":
            page = launched(playwright, asked.browser).new_page(viewport=WINDOW)
            page.goto(address(url))
            page.wait_for_function(LISTENS)
        pipe.send("start")
        for step in asked.steps:
            pipe.send(step)
        marks = pipe.recv(), pipe.recv()
        if page is not None:
            if page.evaluate("() => window.lumigraph.screen.drawn") < 2:
                raise RuntimeError(
                    "The client saw no change of the scene: give --steps farther apart"
                )
            assert page.context.browser
            page.context.browser.close()
        return marks


# Memory.


def _memory(asked: argparse.Namespace, playwright: Playwright) -> list[dict[str, float]]:
    """Readings of the server when it is warm, after half of the reloads, and after all."""
    with process(serve, asked.scene, LONG) as (pid, pipe):
        url = pipe.recv()
        pipe.send("start")
        browser = launched(playwright, asked.browser)
        page = browser.new_page(viewport=WINDOW)
        page.goto(address(url))
        readings, half = [], asked.reloads // 2
        for done, more in ((0, asked.warm), (half, half), (asked.reloads, asked.reloads - half)):
            for _ in range(more):
                page.reload()
                page.wait_for_function(DRAWN, timeout=120_000)
            time.sleep(SETTLED)
            pipe.send(1)  # the training is past step 1, so the mark comes at once
            mark = pipe.recv()
            place = {"reloads": done, "step": mark["step"], "splats": mark["splats"]}
            readings.append(place | holdings(pid))
        browser.close()
        return readings


def _text(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    tables = []
    if "costs" in result:
        head = ["", *(name.replace("_", " ") for name in FIGURES)]
        costs = result["costs"].items()
        rows = [[WAYS[way], *(cell(row[name]) for name in FIGURES)] for way, row in costs]
        tables.append(markdown(head, rows))
    if "memory" in result:
        names = list(result["memory"][0])
        rows = [[_counted(row[name]) for name in names] for row in result["memory"]]
        tables.append(markdown([name.replace("_", " ") for name in names], rows))
    return "\n\n".join(tables)


def _counted(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else number(value)


if __name__ == "__main__":
    main()
