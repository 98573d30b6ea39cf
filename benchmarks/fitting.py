"""Makes one fit, and writes its PSNR over the seconds of training to a JSON file that grows.

    .venv/bin/python benchmarks/fitting.py --capture fox --downscale 4 --plan plan.json -o fit.json

`ablation.py` and `schedule.py` start this program, one process for each fit. A second start with
the same arguments resumes from the last checkpoint, or does nothing if the fit is finished. Seconds
are those of the training alone, from the first splats on, without reading photos and without
evaluation. With one thread they are CPU seconds, which other programs disturb less than wall-clock
seconds.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lumigraph.app.run.evaluation import probe
from lumigraph.app.run.frames import moved_frames
from lumigraph.datasets import Capture, load_capture
from lumigraph.datasets.demo import load_demo
from lumigraph.datasets.files import atomic
from lumigraph.kernels import _native
from lumigraph.recon import (
    SplatFit,
    Step,
    fit_splats,
    load_checkpoint,
    plan_from_json,
    plan_to_json,
    save_checkpoint,
    start_fit,
)

RATIO = 1.08
"""Ratio of the seconds of two evaluations in a row: thirty evaluations in each tenfold time."""

UNFINISHED = 3
"""Exit code of a fit that was stopped by --limit."""


def main() -> int:
    """Makes the fit that the command line names; returns 0 if it is finished, else `UNFINISHED`."""
    asked = _arguments()
    if asked.core is not None:
        os.sched_setaffinity(0, {asked.core})
    torch.set_num_threads(asked.threads)
    plan = json.loads(asked.plan.read_text(encoding="utf-8"))
    what = {
        "capture": f"demo {asked.demo}" if asked.demo else asked.capture.resolve().name,
        "downscale": asked.downscale,
        "seed": asked.seed,
        "threads": asked.threads,
        "views": asked.views,
        "plan": plan_to_json(plan_from_json(plan)),
    }
    record = _record(asked.output, what)
    if not record["finished"]:
        _fit(_capture(asked), record, asked)
    return 0 if record["finished"] else UNFINISHED


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--capture", type=Path, help="folder of a capture")
    subject.add_argument("--demo", metavar="SIZE", help="the built-in scene: tiny, small or full")
    parser.add_argument(
        "--downscale", type=int, default=1, help="divide the photos' sides by this [1]"
    )
    parser.add_argument("--plan", type=Path, required=True, help="JSON file of a plan")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices [0]")
    parser.add_argument("--threads", type=int, default=1, help="threads of the fit [1]")
    parser.add_argument("--core", type=int, help="the core to run on")
    parser.add_argument("--views", type=int, default=40, help="most held-out views to score [40]")
    parser.add_argument(
        "--first", type=float, default=0.5, help="seconds until the first evaluation"
    )
    parser.add_argument(
        "--checkpoint", type=float, default=60.0, help="seconds between checkpoints"
    )
    parser.add_argument("--limit", type=float, help="stop after these wall-clock seconds")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    return parser.parse_args()


def _capture(asked: argparse.Namespace) -> Capture:
    """The capture with its photos in memory."""
    if asked.demo:
        capture = load_demo(asked.demo)
    else:
        capture = load_capture(asked.capture, downscale=asked.downscale)
    if not capture.test:
        sys.exit(f"{capture.name} has no held-out photos to score: add some to its test list")
    for frame in (*capture.train, *capture.test):
        frame.image()
    return capture


def _record(path: Path, what: dict[str, Any]) -> dict[str, Any]:
    """The record of this fit from the file, or an empty record if the file has another fit."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["what"] == what:
            return record
    except (FileNotFoundError, ValueError, KeyError):
        pass
    return {"what": what, "finished": False, "programs": [], "points": [], "checkpoint": None}


def _fit(capture: Capture, record: dict[str, Any], asked: argparse.Namespace) -> None:
    """Trains to the end or the limit, and writes the record at each evaluation."""
    clock = time.process_time if asked.threads == 1 else time.perf_counter
    began = clock()
    fit, seconds = _begun(capture, record, asked)
    seconds = clock() - began if seconds is None else seconds
    if (program := _program()) not in record["programs"]:
        record["programs"].append(program)
    frames = moved_frames(capture.test, fit.similarity)
    started = saved = time.monotonic()
    due = _next_mark(asked.first, seconds)
    for step, spent in _timed(fit_splats(capture, fit), clock):
        seconds += spent
        if seconds >= due or step.step == step.steps:
            psnr = probe(fit.splats, frames, min(asked.views, len(frames)), capture.background)
            point = {"step": step.step, "seconds": seconds, "splats": step.splats, "psnr": psnr}
            record["points"].append(point)
            _write(asked.output, record)
            due = _next_mark(due, seconds)
        now = time.monotonic()
        stopping = asked.limit is not None and now - started > asked.limit
        if (stopping or now - saved > asked.checkpoint) and step.step < step.steps:
            _save(asked.output, record, fit, seconds)
            saved = now
            if stopping:
                return
    old = record["checkpoint"]
    record |= {"finished": True, "checkpoint": None}
    _write(asked.output, record)
    if old is not None:
        asked.output.with_name(old["file"]).unlink(missing_ok=True)


def _timed(steps: Iterator[Step], clock: Callable[[], float]) -> Iterator[tuple[Step, float]]:
    """The steps, each with its seconds."""
    began = clock()
    for step in steps:
        yield step, clock() - began
        began = clock()


def _next_mark(mark: float, seconds: float) -> float:
    """The seconds of the next evaluation."""
    while mark <= seconds:
        mark *= RATIO
    return mark


def _begun(
    capture: Capture, record: dict[str, Any], asked: argparse.Namespace
) -> tuple[SplatFit, float | None]:
    """The fit of the last checkpoint and its seconds, or a new fit and None."""
    old = record["checkpoint"]
    if old is None:
        record["points"].clear()
        plan = plan_from_json(record["what"]["plan"])
        return start_fit(capture, plan, seed=asked.seed), None
    # Points after the checkpoint are measured again.
    record["points"] = [point for point in record["points"] if point["step"] <= old["step"]]
    return load_checkpoint(asked.output.with_name(old["file"])), old["seconds"]


def _save(path: Path, record: dict[str, Any], fit: SplatFit, seconds: float) -> None:
    """Writes a checkpoint, names it in the record, then deletes the checkpoint before."""
    old = record["checkpoint"]
    file = path.with_name(f"{path.stem}-{fit.step:06d}.safetensors")
    save_checkpoint(fit, file)
    record["checkpoint"] = {"file": file.name, "step": fit.step, "seconds": seconds}
    _write(path, record)
    if old is not None and old["file"] != file.name:
        path.with_name(old["file"]).unlink(missing_ok=True)


def _write(path: Path, record: dict[str, Any]) -> None:
    with atomic(path) as partial:
        partial.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _program() -> str:
    """A short hash of the native kernels: seconds of different builds must not be compared."""
    return hashlib.sha256(Path(str(_native.__file__)).read_bytes()).hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())
