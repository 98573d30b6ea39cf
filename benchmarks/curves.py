"""Fits run by `fitting.py`, and their curves of PSNR over seconds: read, compared, drawn."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from plots import save

from lumigraph.app.run.plots import Axis, Line, Plot, sheet
from lumigraph.datasets.files import atomic
from lumigraph.recon import Plan, plan_to_json

Point = dict[str, float]
"""A point of a curve: step, seconds, splats, psnr."""


@dataclass(frozen=True)
class Subject:
    """A capture or built-in scene to fit.

    Attributes:
        name: Its name in files and headings.
        arguments: The options of `fitting.py` that name it.
    """

    name: str
    arguments: tuple[str, ...]


def subjects_of(
    captures: Sequence[Path], downscales: Sequence[int], demos: Sequence[str]
) -> list[Subject]:
    """The captures, each with its downscale, then the sizes of the built-in scene.

    Raises:
        ValueError: There are no subjects, or more downscales than captures.
    """
    if len(downscales) > len(captures) or not (captures or demos):
        raise ValueError(
            f"{len(captures)} captures, {len(downscales)} downscales and {len(demos)} sizes of the "
            "built-in scene: give at least one of --capture and --demo, and a --downscale for each "
            "capture or for none"
        )
    subjects = []
    for place, path in enumerate(captures):
        downscale = downscales[place] if place < len(downscales) else 1
        arguments = ("--capture", str(path), "--downscale", str(downscale))
        subjects.append(Subject(f"{path.resolve().name}-{downscale}", arguments))
    return subjects + [Subject(f"demo-{size}", ("--demo", size)) for size in demos]


def run_fit(
    subject: Subject,
    plan: Plan,
    path: Path,
    *,
    seed: int,
    threads: int,
    views: int,
    core: int | None = None,
    limit: float | None = None,
) -> dict[str, Any]:
    """The record of a fit; makes the fit or resumes it if it is not finished.

    Raises:
        RuntimeError: The process of the fit failed; the message has its last lines.
    """
    what = {"plan": plan_to_json(plan), "seed": seed, "threads": threads, "views": views}
    if path.is_file():  # Saves the seconds that a new process would need to read the same record.
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["finished"] and what.items() <= record["what"].items():
            return record
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = path.with_suffix(".plan.json")
    with atomic(asked) as partial:
        partial.write_text(json.dumps(plan_to_json(plan), indent=1), encoding="utf-8")
    command = [sys.executable, str(Path(__file__).with_name("fitting.py")), *subject.arguments]
    command += ["--plan", str(asked), "-o", str(path), "--seed", str(seed)]
    command += ["--threads", str(threads), "--views", str(views)]
    command += [] if core is None else ["--core", str(core)]
    command += [] if limit is None else ["--limit", str(limit)]
    environment = os.environ | {
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "1000",
        "OMP_NUM_THREADS": str(threads),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        last = "\n".join(done.stderr.splitlines()[-5:])
        raise RuntimeError(f"The fit {path.stem} failed with exit code {done.returncode}:\n{last}")
    asked.unlink(missing_ok=True)
    return json.loads(path.read_text(encoding="utf-8"))


def psnr_at(points: Sequence[Point], seconds: float) -> float | None:
    """PSNR after some seconds, interpolated linearly; None before the first point.

    After the last point it is the last PSNR.
    """
    before = [point for point in points if point["seconds"] <= seconds]
    if not before:
        return None
    left, right = before[-1], points[min(len(before), len(points) - 1)]
    return _between(left, right, "seconds", "psnr", seconds)


def seconds_to(points: Sequence[Point], psnr: float) -> float | None:
    """Seconds until a PSNR is first reached; None if it never is."""
    for place, point in enumerate(points):
        if point["psnr"] >= psnr:
            left = points[max(place - 1, 0)]
            return _between(left, point, "psnr", "seconds", psnr)
    return None


def _between(left: Point, right: Point, given: str, wanted: str, value: float) -> float:
    width = right[given] - left[given]
    part = (value - left[given]) / width if width else 0.0
    return left[wanted] + part * (right[wanted] - left[wanted])


def middle(values: Sequence[float | None]) -> float | None:
    """The median; None if a value is None."""
    known = [value for value in values if value is not None]
    return median(known) if known and len(known) == len(values) else None


def draw_curves(
    curves: dict[str, list[list[Point]]], bold: Sequence[str], title: str, path: Path
) -> None:
    """PSNR over seconds as an SVG: a line for each run, coloured and named for those in `bold`."""
    lines = [
        Line(
            [point["seconds"] for point in points],
            [point["psnr"] for point in points],
            label=name if name in bold else "",
        )
        for name in sorted(curves, key=lambda name: name in bold)
        for points in curves[name]
    ]
    plot = Plot(title, Axis("seconds of training", "log"), Axis("PSNR, dB", "range"))
    save(sheet([(plot, lines)], (720, 400)), path)
