"""Measures quality, time and memory of the commands `train` and `demo`, as medians of several runs.

    .venv/bin/python benchmarks/training.py --capture fox --downscale 4 --steps 2000
    .venv/bin/python benchmarks/training.py --demo

Each run is a process of its own, with its own seed, its own run folder and an empty cache. So the
time of the command includes making the built-in scene, and the time of training includes
undistorting and shrinking the photos, as for a user's first run.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from measuring import output_of

MEASURES = {
    "psnr": ("PSNR of held-out views, dB", ".2f"),
    "ssim": ("SSIM of held-out views", ".4f"),
    "splats": ("splats", ",.0f"),
    "seconds": ("training, s", ".1f"),
    "steps_per_second": ("steps per second", ".1f"),
    "wall_seconds": ("from the command to its end, s", ".1f"),
    "peak_memory_mb": ("peak memory, MB", ",.0f"),
}
"""The keys of a run that are reported, each with its label and its number format."""

MACHINE = ("processor", "cores", "threads", "instruction_set", "wait_policy", "torch", "lumigraph")
"""The facts of `lumigraph doctor --json` that affect speed."""


def main() -> None:
    """Measures, and prints the results."""
    asked = _arguments()
    command = _command(asked)
    try:
        calibration = None if asked.calibrate is None else output_of(shlex.split(asked.calibrate))
        runs = [_measured(command, seed, kept=asked.keep_cache) for seed in range(asked.runs)]
        facts = json.loads(output_of([_program(), "doctor", "--json"]))
    except RuntimeError as error:
        sys.exit(str(error))
    result = {
        "command": shlex.join(["lumigraph", *command]),
        "machine": {key: facts[key] for key in MACHINE},
        "calibration": calibration,
        "summary": {key: _summary([run[key] for run in runs]) for key in MEASURES},
        "runs": runs,
    }
    print(json.dumps(result) if asked.json else _page(result))


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--capture", type=Path, help="folder of a capture, for `lumigraph train`")
    what.add_argument(
        "--demo", nargs="?", const="full", metavar="SIZE", help="the built-in scene [full]"
    )
    parser.add_argument("--downscale", type=int, help="divide the photos' sides by this")
    parser.add_argument("--preset", help="preset for --capture")
    parser.add_argument("--steps", type=int, help="training steps [those of the command]")
    parser.add_argument(
        "--runs", type=int, default=3, help="number of runs, with seeds 0, 1, ... [3]"
    )
    parser.add_argument(
        "--calibrate", metavar="PROGRAM", help="program to run before; its output is kept"
    )
    parser.add_argument("--keep-cache", action="store_true", help="use the user's cache")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    if asked.demo and (asked.downscale or asked.preset):
        parser.error("--demo has its own photos and preset: leave out --downscale and --preset")
    if asked.runs < 1:
        parser.error(f"--runs is {asked.runs}, but must be at least 1")
    return asked


def _command(asked: argparse.Namespace) -> list[str]:
    """The arguments of `lumigraph`, without the seed and the folder of a run."""
    given = ["demo", "--size", asked.demo] if asked.demo else ["train", str(asked.capture)]
    for name in ("downscale", "preset", "steps"):
        if (value := getattr(asked, name)) is not None:
            given += [f"--{name}", str(value)]
    return given


def _measured(command: list[str], seed: int, *, kept: bool) -> dict[str, Any]:
    """The reported facts of one run, with its seed and the seconds of the whole command."""
    print(f"Run with seed {seed} ...", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="lumigraph-bench-") as folder:
        own = ("--seed", str(seed), "-o", f"{folder}/run", "--json")
        cache = {} if kept else {"LUMIGRAPH_CACHE": f"{folder}/cache"}
        started = time.perf_counter()
        facts = json.loads(output_of([_program(), *command, *own], **cache))
        wall = time.perf_counter() - started
    return {"seed": seed, **{key: facts.get(key) for key in MEASURES}, "wall_seconds": wall}


def _program() -> str:
    """The path of the `lumigraph` command in this environment."""
    return str(Path(sys.executable).with_name("lumigraph"))


def _summary(values: list[float | None]) -> dict[str, float] | None:
    """Median, least and most; None if a run lacks the value."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return {"median": median(known), "least": min(known), "most": max(known)}


def _page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [f"`{result['command']}`, {len(result['runs'])} runs", ""]
    lines += ["| | median | least | most |", "|---|---|---|---|"]
    for key, (name, form) in MEASURES.items():
        summary = result["summary"][key]
        values = ("-",) * 3 if summary is None else [format(v, form) for v in summary.values()]
        lines.append(f"| {' | '.join((name, *values))} |")
    machine = (f"{key.replace('_', ' ')} {value}" for key, value in result["machine"].items())
    lines += ["", f"Machine: {', '.join(machine)}."]
    if result["calibration"]:
        lines += ["", "```", result["calibration"].rstrip(), "```"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
