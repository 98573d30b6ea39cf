"""What the benchmarks share: scenes and cameras from files, calibration, summaries, tables."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from stages import LOSS, whole_step

from lumigraph.app.commands.bench import (
    SIZES,
    SPLATS,
    Size,
    Subject,
    generated_camera,
    generated_scene,
)
from lumigraph.app.run.cameras import CamerasFile, capture_from
from lumigraph.app.run.files import checked
from lumigraph.recon.files import load_ply
from lumigraph.render import Camera, Splats

Summary = dict[str, float]
"""Of one figure: median, least and most in milliseconds, and the number of runs."""


@dataclass(frozen=True)
class View:
    """A scene, and a camera that looks at it."""

    name: str
    scene: Splats
    camera: Camera


def scene_options(parser: argparse.ArgumentParser) -> None:
    """The options that `views` reads."""
    parser.add_argument("--scene", type=Path, metavar="FILE.ply", help="[a generated one]")
    parser.add_argument("--cameras", type=Path, metavar="FILE.json", help="of --scene")
    parser.add_argument("--view", type=int, default=0, help="which of the cameras [0]")
    parser.add_argument("--trained", type=Path, metavar="RUN", help="the scene of a run folder")
    parser.add_argument("--splats", type=int, default=SPLATS, help=f"of the generated [{SPLATS}]")


def views(asked: argparse.Namespace) -> list[View]:
    """The scene that is asked for, or the generated one; and after it that of a run.

    Raises:
        ValueError: The scene comes without cameras, or they without it, or there is no such view.
    """
    if (asked.scene is None) != (asked.cameras is None):
        raise ValueError("--scene and --cameras belong together: give both or neither")
    found = []
    if asked.scene is not None:
        found.append(_view_of(asked.scene.stem, asked.scene, asked.cameras, asked.view))
    else:
        camera = generated_camera(*SIZES[0])
        found.append(View("generated", generated_scene(asked.splats), camera))
    if asked.trained is not None:
        run = asked.trained
        found.append(_view_of(run.name, run / "scene.ply", run / "cameras.json", 0))
    return found


def _view_of(name: str, scene: Path, cameras: Path, view: int) -> View:
    known = cameras_in(cameras)
    if not 0 <= view < len(known):
        raise ValueError(f"{cameras} has {len(known)} cameras, so there is no view {view}")
    return View(name, load_ply(scene), known[view])


def sizes(text: str) -> tuple[Size, ...]:
    """Sizes from "1280x720,640x360"."""
    pairs = (part.split("x") for part in text.split(","))
    return tuple((int(width), int(height)) for width, height in pairs)


def summary(times: Sequence[float]) -> Summary:
    """Median, least, most and number of some times."""
    return {
        "median": median(times),
        "least": min(times),
        "most": max(times),
        "runs": len(times),
    }


def spread(times: Summary) -> str:
    """Least and most as a table shows them."""
    return f"{number(times['least'])} to {number(times['most'])}"


def number(value: float) -> str:
    """Three digits that matter, and no more: 0.123, 1.23, 12.3, 123, 1,234."""
    digits = 0 if value >= 99.5 else 1 if value >= 9.95 else 2 if value >= 0.995 else 3
    return f"{value:,.{digits}f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown whose columns line up in plain text too."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    table.insert(1, ["-" * max(width, 3) for width in widths])
    lines = (
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in table
    )
    return "\n".join(lines)


def calibrate(command: str) -> str:
    """What the calibration program prints; leaves with its last words if it fails."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(shlex.split(command), env=environment, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-5:])
        sys.exit(f"{command} failed with exit code {done.returncode}:\n{last}")
    return done.stdout


def parse_calibration(text: str) -> dict[str, float]:
    """The figures that a calibration program printed, as far as they are there.

    Returns:
        "refrender WxH": Median milliseconds of the reference renderer at that size, from the line
        that holds "total" after a line "refrender WxH:". "blend" and "blend backward": Most pairs
        of a pixel and a splat per second, from the line with the most threads that says
        "4T: blend fwd 7.95 Gpair/s, bwd 3.39 Gpair/s".
    """
    figures: dict[str, float] = {}
    name = None
    for line in text.splitlines():
        if found := re.match(r"\s*(refrender \d+x\d+):", line):
            name = found[1]
        elif name and (found := re.search(r"\btotal ([\d.]+)\(", line)):
            figures[name], name = float(found[1]), None
    rates = re.findall(r"\b(\d+)T: blend fwd ([\d.]+) Gpair/s, bwd ([\d.]+) Gpair/s", text)
    if rates:
        _, forward, backward = max(rates, key=lambda rate: int(rate[0]))
        figures |= {"blend": float(forward) * 1e9, "blend backward": float(backward) * 1e9}
    return figures


def together(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The mean of two calibrations, of what both know."""
    return {name: mean((before[name], after[name])) for name in before if name in after}


def drift(before: dict[str, float], after: dict[str, float]) -> float:
    """The largest relative difference between two calibrations: 0.1 is a tenth."""
    common = [name for name in before if name in after]
    return max((abs(after[name] / before[name] - 1) for name in common), default=0.0)


def memory_rate(*, megabytes: int = 128, runs: int = 15) -> float:
    """Most bytes per second that all threads move between memory and processor: a += b.

    Two streams come in and one goes out, of arrays that no cache holds. What is written was read
    before, so nothing moves that is not counted.
    """
    a, b = (torch.ones(megabytes << 18) for _ in range(2))
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        a.add_(b)
        times.append(time.perf_counter() - started)
    return 3 * (megabytes << 20) / min(times)


def cameras_in(path: Path) -> list[Camera]:
    """The cameras of a file: a run's cameras.json, test views first, or a list of matrices.

    The latter is an object with `width`, `height`, `K` and `world_to_camera`, a list of 4x4
    matrices with OpenCV axes.

    Raises:
        ValueError: The file is neither.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, dict) and "frames" in data:
        capture = capture_from(checked(data, CamerasFile, str(path)), path.parent)
        return [frame.camera for frame in (*capture.test, *capture.train)]
    if not isinstance(data, dict) or not {"width", "height", "K", "world_to_camera"} <= set(data):
        raise ValueError(
            f"{path} should be a run's cameras.json or have width, height, K and world_to_camera"
        )
    k = data["K"]
    return [
        Camera(
            torch.tensor(matrix, dtype=torch.float64),
            (k[0][0], k[1][1]),
            (k[0][2], k[1][2]),
            data["width"],
            data["height"],
        )
        for matrix in data["world_to_camera"]
    ]


def at_size(camera: Camera, size: Size) -> Camera:
    """The camera with another picture size: as wide a view, principal point in the middle.

    The height shows more or less of the scene where the sides' ratio differs; nothing is
    stretched. The reference renderer frames its views in the same way.
    """
    width, height = size
    scale = width / camera.width
    return Camera(
        camera.world_to_camera,
        (camera.focal[0] * scale, camera.focal[1] * scale),
        (width / 2, height / 2),
        width,
        height,
        camera.near,
    )


def without_loss(name: str, scene: Splats, camera: Camera) -> Subject:
    """A rendering, the way back to all parameters, and Adam: a training step but for its loss."""
    step = whole_step(scene, camera)

    def run() -> float:
        stages = step()
        return sum(stages) - stages[LOSS]

    return Subject(name, run)


def telling(what: str) -> Callable[[int, int], None]:
    """Progress on standard error: a line that is written over, or nothing if it is no terminal."""

    def told(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{what}: {done} of {total}", end=end, file=sys.stderr, flush=True)

    return told


def write_or_print(page: str, result: dict[str, Any], *, as_json: bool) -> None:
    """The result for programs or for people."""
    print(json.dumps(result, allow_nan=False) if as_json else page)
