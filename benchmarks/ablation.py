"""Compares variants of a preset by their PSNR over seconds of training.

    .venv/bin/python benchmarks/ablation.py --capture fox --downscale 4 --demo small -o ablation
    .venv/bin/python benchmarks/ablation.py ... --variants no-coarse means-2x --seeds 1

Each variant is fitted to each subject with each seed. Each fit is a process of one thread, timed in
CPU seconds, and there is one process for each core. Every fit leaves a JSON file: a second start
makes only the fits that are missing and those with a changed plan. `--report` makes no fits.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any

from curves import (
    Point,
    Subject,
    draw_curves,
    middle,
    psnr_at,
    run_fit,
    seconds_to,
    subjects_of,
)

from lumigraph.recon import PRESETS, Plan
from lumigraph.recon.splats.plan import stretched

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    # Other numbers of steps: a method must save more time, or gain more quality, than these do.
    "steps-70": {"steps": 0.7},
    "steps-140": {"steps": 1.4},
    # Small photos first (DashGaussian).
    "no-coarse": {"coarse_steps": 0},
    "coarse-30": {"coarse_steps": 0.3},
    "coarse-80": {"coarse_steps": 0.8},
    "coarse-to-4": {"coarse_downscale": 4.0},
    "coarse-share-40": {"coarse_share": 0.4},
    # The opacity at the start, opacity resets, growth by density control, the degree over time.
    "start-opacity-10": {"start_opacity": 0.1},
    "no-reset": {"opacity_reset_interval": 1.0},
    "grow-more": {"grow_gradient": 8e-4},
    "grow-less": {"grow_gradient": 1.8e-3},
    "degree-slow": {"degree_interval": 0.15},
    # Learning rates, the loss, and the filter of splats smaller than a pixel (Mip-Splatting).
    "means-2x": {"means_rate": 3.2e-4},
    "means-half": {"means_rate": 8e-5},
    "no-cooldown": {"cooldown_steps": 0},
    "ssim-10": {"ssim_weight": 0.1},
    "antialiased": {"filter": "antialiased"},
}
"""Changes to the plan. Where a field of the plan is a whole number, a decimal is a share of the
preset's steps. A change of `steps` stretches the schedule."""

BOLD = 5
"""Number of variants that a plot names beside the base: those with the best PSNR at the middle
mark."""


def main() -> None:
    """Makes the missing fits, and prints and draws the results."""
    asked = _arguments()
    try:
        subjects = subjects_of(asked.capture, asked.downscale, asked.demo)
        if not asked.report:
            _run(asked, subjects)
    except (ValueError, RuntimeError) as error:
        sys.exit(str(error))
    for subject in subjects:
        runs = _read(asked, subject)
        page = _page(asked, subject, runs)
        (asked.output / f"{_title(asked, subject)}.md").write_text(page, encoding="utf-8")
        print(page)
        _draw(asked, subject, runs)


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    many = {"action": "append", "default": []}
    parser.add_argument("--capture", type=Path, help="folder of a capture", **many)
    parser.add_argument(
        "--downscale", type=int, help="divide the photos' sides, one for each --capture", **many
    )
    parser.add_argument(
        "--demo", metavar="SIZE", help="the built-in scene: tiny, small or full", **many
    )
    parser.add_argument("--preset", choices=PRESETS, default="standard", help="base [standard]")
    parser.add_argument("--steps", type=int, help="training steps [those of the preset]")
    variants = f"variants to compare [all]: {', '.join(VARIANTS)}"
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, metavar="NAME", help=variants)
    parser.add_argument("--seeds", type=int, default=3, help="fits of each variant [3]")
    jobs = os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=jobs, help="fits at a time [one for each core]")
    parser.add_argument("--threads", type=int, default=1, help="threads of each fit [1]")
    parser.add_argument("--views", type=int, default=40, help="most held-out views to score [40]")
    marks = "report the PSNR after these seconds [10 20 40]"
    parser.add_argument("--marks", type=float, nargs="+", default=[10, 20, 40], help=marks)
    levels = "report the seconds to these PSNR [the last PSNR of the base, less 1, 0.5 and 0]"
    parser.add_argument("--levels", type=float, nargs="+", help=levels)
    parser.add_argument("--report", action="store_true", help="report the fits made before")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    asked = parser.parse_args()
    names = asked.variants or list(VARIANTS)
    asked.variants = list(dict.fromkeys(["base", *names]))
    return asked


def variant_plan(name: str, asked: argparse.Namespace) -> Plan:
    """The plan of a variant."""
    preset = PRESETS[asked.preset]
    whole = {field.name for field in fields(Plan) if isinstance(getattr(preset, field.name), int)}
    changes = {
        key: round(value * preset.steps) if key in whole and isinstance(value, float) else value
        for key, value in VARIANTS[name].items()
    }
    steps = changes.pop("steps", preset.steps) * (asked.steps or preset.steps) // preset.steps
    return stretched(replace(preset, **changes), steps)


def _jobs(
    asked: argparse.Namespace, subjects: Sequence[Subject]
) -> Iterator[tuple[Subject, str, int]]:
    """Every fit. Seeds change last, so that an interrupted run has a fit of each variant."""
    for seed in range(asked.seeds):
        for subject in subjects:
            for name in asked.variants:
                yield subject, name, seed


def _path(asked: argparse.Namespace, subject: Subject, name: str, seed: int) -> Path:
    return asked.output / _title(asked, subject) / f"{name}-{seed}.json"


def _title(asked: argparse.Namespace, subject: Subject) -> str:
    """The title of a comparison: subject, preset, and steps unless they are the preset's."""
    return "-".join([subject.name, asked.preset, *([str(asked.steps)] if asked.steps else [])])


def _run(asked: argparse.Namespace, subjects: Sequence[Subject]) -> None:
    """Makes or completes all fits, `--jobs` at a time, each on a core of its own."""
    cores: SimpleQueue[int | None] = SimpleQueue()
    own = sorted(os.sched_getaffinity(0))
    for place in range(asked.jobs):
        cores.put(own[place % len(own)] if asked.threads == 1 else None)

    def one(job: tuple[Subject, str, int]) -> None:
        subject, name, seed = job
        core = cores.get()
        try:
            record = run_fit(
                subject,
                variant_plan(name, asked),
                _path(asked, *job),
                seed=seed,
                threads=asked.threads,
                views=asked.views,
                core=core,
            )
        finally:
            cores.put(core)
        last = record["points"][-1]
        told = f"{last['psnr']:.2f} dB in {last['seconds']:.1f} s, {last['splats']:,} splats"
        print(f"{subject.name} {name} {seed}: {told}", file=sys.stderr)

    pool = ThreadPoolExecutor(asked.jobs)
    try:
        list(pool.map(one, _jobs(asked, subjects)))
    finally:
        pool.shutdown(cancel_futures=True)


def _read(asked: argparse.Namespace, subject: Subject) -> dict[str, dict[int, dict[str, Any]]]:
    """The finished fits of a subject: variant, then seed."""
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for name in asked.variants:
        paths = {seed: _path(asked, subject, name, seed) for seed in range(asked.seeds)}
        records = {
            seed: json.loads(path.read_text(encoding="utf-8"))
            for seed, path in paths.items()
            if path.is_file()
        }
        if found := {seed: record for seed, record in records.items() if record["finished"]}:
            runs[name] = found
    if "base" not in runs:
        sys.exit(
            f"{asked.output} has no finished fit of the base for {subject.name}: start this "
            "benchmark again without --report"
        )
    return runs


def _page(
    asked: argparse.Namespace, subject: Subject, runs: dict[str, dict[int, dict[str, Any]]]
) -> str:
    """A subject's table in Markdown: medians over the seeds, and differences from the base."""
    end = median(record["points"][-1]["psnr"] for record in runs["base"].values())
    levels = asked.levels or [math.floor((end - below) * 100) / 100 for below in (1, 0.5, 0)]
    head = [*(f"dB at {mark:g} s" for mark in asked.marks)]
    head += [*(f"s to {level:g} dB" for level in levels), "dB at the end", "s in total", "splats"]
    lines = [f"## {_title(asked, subject)}, {len(runs['base'])} seeds", ""]
    lines += [f"| variant | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    base = {seed: _figures(r["points"], asked.marks, levels) for seed, r in runs["base"].items()}
    forms = [*([".2f"] * len(asked.marks)), *([".1f"] * len(levels)), ".2f", ".1f", ",.0f"]
    for name, records in runs.items():
        figures = {s: _figures(r["points"], asked.marks, levels) for s, r in records.items()}
        cells = [
            _cell([row[place] for row in figures.values()], _paired(figures, base, place), form)
            for place, form in enumerate(forms)
        ]
        short = "" if len(records) == len(base) else f" ({len(records)} seeds)"
        lines.append(f"| {name}{short} | {' | '.join(cells)} |")
    programs = {p for records in runs.values() for r in records.values() for p in r["programs"]}
    if len(programs) > 1:
        lines += [
            "",
            f"By {len(programs)} builds of the kernels: do not compare the seconds.",
        ]
    return "\n".join([*lines, ""])


def _figures(
    points: list[Point], marks: Sequence[float], levels: Sequence[float]
) -> list[float | None]:
    """One run's row of the table."""
    last = points[-1]
    return [
        *(psnr_at(points, mark) for mark in marks),
        *(seconds_to(points, level) for level in levels),
        last["psnr"],
        last["seconds"],
        last["splats"],
    ]


def _paired(
    figures: dict[int, list[float | None]], base: dict[int, list[float | None]], place: int
) -> float | None:
    """The median over seeds of a figure's difference from the base's with the same seed."""
    pairs = [(figures[s][place], base[s][place]) for s in figures if s in base]
    return middle([None if a is None or b is None else a - b for a, b in pairs])


def _cell(values: list[float | None], gain: float | None, form: str) -> str:
    value = middle(values)
    if value is None:
        return "-"
    return format(value, form) + ("" if not gain else f" ({gain:+{form}})")


def _draw(
    asked: argparse.Namespace, subject: Subject, runs: dict[str, dict[int, dict[str, Any]]]
) -> None:
    """Draws the curves of a subject into an SVG file beside its table."""
    mark = sorted(asked.marks)[len(asked.marks) // 2]
    curves = {name: [r["points"] for r in records.values()] for name, records in runs.items()}
    reached = {name: middle([psnr_at(c, mark) for c in lines]) for name, lines in curves.items()}
    ranked = sorted(runs, key=lambda name: -(reached[name] or 0))
    bold = ["base", *[name for name in ranked if name != "base"][:BOLD]]
    title = _title(asked, subject)
    draw_curves(curves, bold, title, asked.output / f"{title}.svg")


if __name__ == "__main__":
    main()
