"""Functions that the benchmarks share: scenes, cameras, calibration, summaries, tables."""

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
"""Median, least and most of one figure, in milliseconds, and the number of runs."""


@dataclass(frozen=True)
class View:
    """A scene, and a camera that looks at it."""

    name: str
    scene: Splats
    camera: Camera


def scene_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `views` reads."""
    parser.add_argument(
        "--scene", type=Path, metavar="FILE.ply", help="scene to measure [a generated scene]"
    )
    parser.add_argument("--cameras", type=Path, metavar="FILE.json", help="cameras of --scene")
    parser.add_argument("--view", type=int, default=0, help="index of the camera [0]")
    parser.add_argument(
        "--trained", type=Path, metavar="RUN", help="run folder, to measure its scene"
    )
    parser.add_argument(
        "--splats", type=int, default=SPLATS, help=f"of the generated scene [{SPLATS}]"
    )


def views(asked: argparse.Namespace) -> list[View]:
    """The scene of `--scene` or the generated scene, then the scene of `--trained`.

    Raises:
        ValueError: Only one of `--scene` and `--cameras` is given, or the view does not exist.
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
        raise ValueError(f"{cameras} has {len(known)} cameras, so --view {view} must be lower")
    return View(name, load_ply(scene), known[view])


def timing_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a benchmark that times its subjects in one picture, by turns."""
    scene_options(parser)
    parser.add_argument("--width", type=int, default=1280, help="of the picture [1280]")
    parser.add_argument("--height", type=int, default=720, help="of the picture [720]")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, each with all subjects [7]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def subject_of(name: str, work: Callable[[], object]) -> Subject:
    """A subject that does this work and is timed as a whole."""

    def run() -> None:
        work()

    return Subject(name, run)


def sizes(text: str) -> tuple[Size, ...]:
    """Parses sizes such as "1280x720,640x360"."""
    pairs = (part.split("x") for part in text.split(","))
    return tuple((int(width), int(height)) for width, height in pairs)


def summary(times: Sequence[float]) -> Summary:
    """Median, least and most of the times, and their number."""
    return {
        "median": median(times),
        "least": min(times),
        "most": max(times),
        "runs": len(times),
    }


def spread(times: Summary) -> str:
    """Least and most, as text for a table."""
    return f"{number(times['least'])} to {number(times['most'])}"


def number(value: float) -> str:
    """The number with at least three digits: 0.123, 1.23, 12.3, 123, 1,234."""
    digits = 0 if value >= 99.5 else 1 if value >= 9.95 else 2 if value >= 0.995 else 3
    return f"{value:,.{digits}f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, with columns that line up in plain text too."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    table.insert(1, ["-" * max(width, 3) for width in widths])
    lines = (
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in table
    )
    return "\n".join(lines)


def output_of(command: Sequence[str], **variables: str) -> str:
    """The output of a program, run with these environment variables.

    Raises:
        RuntimeError: The program failed; the message has its last lines.
    """
    # As in the command `lumigraph`, idle threads sleep, whatever this shell sets.
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"} | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-5:])
        raise RuntimeError(
            f"{shlex.join(command)} failed with exit code {done.returncode}:\n{last}"
        )
    return done.stdout


def parse_calibration(text: str) -> dict[str, float]:
    """The known figures in the output of a calibration program.

    Returns:
        "refrender WxH": Median milliseconds of the reference renderer at that size, from the line
        with "total" after a line "refrender WxH:". "blend" and "blend backward": The highest rates
        in pairs of a pixel and a splat per second, from the line with the most threads of the form
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
    """The mean of two calibrations, for the figures that both have."""
    return {name: mean((before[name], after[name])) for name in before if name in after}


def drift(before: dict[str, float], after: dict[str, float]) -> float:
    """The largest relative difference between two calibrations: 0.1 is a tenth."""
    common = [name for name in before if name in after]
    return max((abs(after[name] / before[name] - 1) for name in common), default=0.0)


def memory_rate(*, megabytes: int = 128, runs: int = 15) -> float:
    """The highest rate of all threads between memory and processor, in bytes per second: a += b.

    Two arrays are read and one is written; both are larger than any cache. Every written line was
    read before, so all traffic is counted.
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

    A list of matrices is an object with `width`, `height`, `K` and `world_to_camera`, which is a
    list of 4x4 matrices with OpenCV axes.

    Raises:
        ValueError: The file has neither form.
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
    """The camera with another picture size and the same horizontal field of view.

    The principal point is in the middle. If the aspect ratio changes, the vertical field of view
    changes, and the picture is not stretched. The reference renderer does the same.
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
    """A training step without the time of its loss: a rendering, its backward and Adam."""
    step = whole_step(scene, camera)

    def run() -> float:
        stages = step()
        return sum(stages) - stages[LOSS]

    return Subject(name, run)


def telling(what: str) -> Callable[[int, int], None]:
    """Shows progress in one line of standard error, if that is a terminal."""

    def told(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{what}: {done} of {total}", end=end, file=sys.stderr, flush=True)

    return told


def write_or_print(page: str, result: dict[str, Any], *, as_json: bool) -> None:
    """Prints the result as JSON, or the page for people."""
    print(json.dumps(result, allow_nan=False) if as_json else page)
