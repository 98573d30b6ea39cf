"""Measures the pictures per second of a client in control, alone and beside guests.

    .venv/bin/python benchmarks/guests.py
    .venv/bin/python benchmarks/guests.py --guests 1 7 --mode uncertainty --seconds 10 --json

The client in control and each guest turn their view 60 times a second, and acknowledge every
picture at once. All clients run in one process beside the server, on the same machine, and decode
no picture. Runs without guests and with guests take turns; a ratio is that of two runs in a row.
"""

import argparse
import asyncio
import http.client
import json
import math
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from measuring import markdown, number
from websockets.asyncio.client import ClientConnection, connect

from lumigraph.app.commands.bench import generated_scene
from lumigraph.app.viewer.controls import MODES
from lumigraph.app.viewer.renderer import FRAME, HEADER
from lumigraph.app.viewer.serve import open_page
from lumigraph.app.viewer.state import ViewerState
from lumigraph.recon.files import save_ply

WIDTH, HEIGHT = 640, 360
TURNS = 60
"""Changes of the view per second."""


def main() -> None:
    """Measures, and prints the figures."""
    asked = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_ply(generated_scene(asked.splats), folder / "scene.ply")
        viewer = ViewerState([folder], folder / "runs")
        page = open_page(viewer, folder / "runs", port=0)
        try:
            viewer.show_now(viewer.library.add(folder / "scene.ply").id)
            rows = [_measured(page.server.urls, asked, guests) for guests in asked.guests]
        finally:
            page.close()
    if asked.json:
        print(json.dumps({"mode": asked.mode, "splats": asked.splats, "rows": rows}))
    else:
        names = list(rows[0])
        print(markdown(names, [[number(row[name]) for name in names] for row in rows]))


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--guests", type=int, nargs="+", default=[1, 7], help="numbers of guests [1 7]"
    )
    parser.add_argument("--mode", choices=MODES, default="uncertainty", help="mode of the guests")
    parser.add_argument("--splats", type=int, default=100_000, help="splats of the scene [100000]")
    parser.add_argument("--seconds", type=float, default=8, help="length of each run [8]")
    parser.add_argument("--runs", type=int, default=3, help="runs of which to take the median [3]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _measured(urls: Any, asked: argparse.Namespace, guests: int) -> dict[str, float]:
    """Medians over the runs: pictures per second alone and beside the guests, and their ratio."""
    runs: list[tuple[float, float, float]] = []
    for _ in range(asked.runs):
        (alone, _), (beside, theirs) = (
            _visited(urls, count, asked.mode, asked.seconds) for count in (0, guests)
        )
        runs.append((alone, beside, theirs))
    return {
        "guests": guests,
        "alone, pictures/s": median(alone for alone, _, _ in runs),
        "beside guests, pictures/s": median(beside for _, beside, _ in runs),
        "ratio": median(beside / alone for alone, beside, _ in runs),
        "each guest, pictures/s": median(theirs for _, _, theirs in runs),
    }


def _visited(urls: Any, guests: int, mode: str, seconds: float) -> tuple[float, float]:
    """Pictures per second of the client in control, and of each guest."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    visitors = context.Process(target=_visit, args=(theirs, dict(urls), guests, mode, seconds))
    visitors.start()
    theirs.close()
    control, *others = ours.recv()
    visitors.join()
    return control / seconds, sum(others) / seconds / max(1, len(others))


def _visit(pipe: Connection, urls: dict[str, str], guests: int, mode: str, seconds: float) -> None:
    """Sends through the pipe each client's number of pictures; the first client is in control."""

    async def all_clients() -> list[int]:
        visitors = [_client(urls["view"], mode, seconds) for _ in range(guests)]
        # The server keeps its last place for a client in control, so the guests connect first.
        control = _client(urls["control"], "color", seconds, delay=0.5)
        return await asyncio.gather(control, *visitors)

    pipe.send(asyncio.run(all_clients()))


async def _client(url: str, mode: str, seconds: float, *, delay: float = 0.0) -> int:
    """The number of pictures that a turning client gets; the first second is not counted."""
    await asyncio.sleep(delay)
    host = url.split("/?")[0]
    headers = {"Cookie": await asyncio.to_thread(_cookie, url)}
    options: dict[str, Any] = {"additional_headers": headers, "origin": host, "proxy": None}
    async with connect(host.replace("http", "ws") + "/stream", **options) as line:
        await line.send(json.dumps({"t": "display", "mode": mode, "map": "turbo"}))
        turning = asyncio.create_task(_turn(line))
        counted, began = 0, time.monotonic()
        while (now := time.monotonic()) < began + 1 + seconds:
            try:
                message = await asyncio.wait_for(line.recv(), began + 1 + seconds - now)
            except TimeoutError:
                break
            if isinstance(message, bytes):
                _, kind, _, frame, *_ = HEADER.unpack_from(message)
                if kind == FRAME:
                    await line.send(json.dumps({"t": "ack", "frame": frame, "ms": 2}))
                    counted += time.monotonic() > began + 1
        turning.cancel()
    return counted


async def _turn(line: ClientConnection) -> None:
    """Sends a new camera `TURNS` times a second until it is cancelled."""
    number = 0
    while True:
        angle = number * 0.01
        c, s = math.cos(angle), math.sin(angle)
        matrix = [c, 0, -s, 0, 0, 1, 0, 0, s, 0, c, 4]
        view = {"matrix": matrix, "fov": 0.8, "width": WIDTH, "height": HEIGHT}
        await line.send(json.dumps({"t": "camera", "id": number, "view": view}))
        number += 1
        await asyncio.sleep(1 / TURNS)


def _cookie(url: str) -> str:
    """The cookie that the server sets for the token in an address."""
    parts = urlsplit(url)
    line = http.client.HTTPConnection(parts.netloc, timeout=30)
    line.request("GET", f"{parts.path}?{parts.query}")
    cookie = line.getresponse().headers["Set-Cookie"]
    line.close()
    return cookie.split(";")[0]


if __name__ == "__main__":
    main()
