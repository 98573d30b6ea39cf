"""What a page costs the training that it shows, and what visitors leave behind in its server.

    .venv/bin/python benchmarks/watching.py --runs 5
    .venv/bin/python benchmarks/watching.py --only memory --reloads 300 --json

Costs: processor time of the process that trains, for a step of the same training of the built-in
scene: by `train` without what it draws on the terminal, with a page that nobody looks at, and with
one client who looks and does not move. They take turns, each time in new processes. Beside it that
of the page's server.

Memory: what the server holds before and after the light page is loaded again and again, while a
training is shown whose splats are as many all the time. One client is there at each reading. The
browser is driven from another process, so that nothing of it counts.
"""

import argparse
import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

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
"""So stretched, the scene grows from step 500,000 on: at a thousand steps a second, the most there
are, that is after all readings."""

WAYS = {"train": "train", "nobody": "page, nobody there", "client": "page, one client"}

FIGURES = ("trainer_ms_per_step", "server_ms_per_step", "wall_ms_per_step", "to_train")

WINDOW: ViewportSize = {"width": 960, "height": 360}
"""Of a canvas of 640x360."""

SETTLED = 2.0
"""Seconds after which what closes has closed."""

LISTENS = "() => window.lumigraph?.stream.socket.readyState === WebSocket.OPEN"


def main() -> None:
    """Measures, and prints what came of it."""
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
        sys.exit("The process that was measured ended too early: it says why above")
    print(json.dumps(result) if asked.json else _text(result))


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("costs", "memory"), help="[both]")
    parser.add_argument("--scene", choices=SIZES, default="small", help="[small]")
    parser.add_argument("--steps", type=int, nargs=2, default=[400, 1400], help="[400 1400]")
    parser.add_argument("--runs", type=int, default=3, help="rounds of the costs [3]")
    parser.add_argument("--reloads", type=int, default=100, help="of the page [100]")
    parser.add_argument("--warm", type=int, default=20, help="reloads before these [20]")
    browser_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    (first, last), end = asked.steps, PRESETS["quick"].steps
    if not 0 < first < last < end:
        parser.error(f"--steps takes two numbers, the first below the second, that below {end}")
    if asked.runs < 1 or asked.reloads < 2:
        parser.error("--runs takes at least 1, --reloads at least 2")
    return asked


# Processor time.


def _costs(asked: argparse.Namespace, playwright: Playwright) -> dict[str, Any]:
    """Median and range of each figure, by the way of training."""
    runs: dict[str, list[dict[str, float | None]]] = {way: [] for way in WAYS}
    for turn in range(asked.runs):
        # There and back, so that a machine that grows slower does so for all.
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
    """Milliseconds for a step between two marks; RuntimeError if these are one."""
    steps = last["step"] - first["step"]
    if steps < 1:  # a page hears of every step that is the last in a fifth of a second
        raise RuntimeError("The training passed both --steps at once: take them farther apart")
    each = {
        name: 1e3 * (last[name] - first[name]) / steps for name in ("trainer", "server", "clock")
    }
    return {
        "trainer_ms_per_step": each["trainer"],
        "server_ms_per_step": each["server"] if served else None,
        "wall_ms_per_step": each["clock"],
    }


def _marks(asked: argparse.Namespace, playwright: Playwright, way: str) -> tuple[Mark, Mark]:
    """Where a new training was at the two steps."""
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
                raise RuntimeError("The client saw no scene change: take --steps farther apart")
            assert page.context.browser
            page.context.browser.close()
        return marks


# Memory.


def _memory(asked: argparse.Namespace, playwright: Playwright) -> list[dict[str, float]]:
    """What the server holds when it is warm, after half of the reloads, and after all."""
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
            pipe.send(1)  # which it passed long ago: it says where it is
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
