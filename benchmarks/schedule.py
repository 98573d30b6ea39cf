"""Measures the time in which a preset reaches the best PSNR of the classic 30,000 steps.

    .venv/bin/python benchmarks/schedule.py --capture fox --downscale 4 -o build/schedule
    .venv/bin/python benchmarks/schedule.py --demo full --preset standard -o build/schedule

Two fits begin with the same splats: the preset's and the classic schedule's. Both are scored on
held-out views at many times. The benchmark reports the time at which the classic schedule reaches
its best PSNR, and the time at which the preset reaches the same. After an interruption or --limit,
a second start resumes the fits.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from curves import Point, Subject, draw_curves, run_fit, seconds_to, subjects_of

from lumigraph.recon import PRESETS, Plan, plan_to_json
from lumigraph.recon.splats.plan import stretched

CLASSIC = Plan(
    steps=30_000,
    degree_interval=1000,
    start_opacity=0.1,
    ssim_weight=0.2,
    coarse_steps=0,
    means_rate=1.6e-4,
    means_rate_final=1.6e-6,
    base_rate=2.5e-3,
    rest_rate=1.25e-4,
    opacity_rate=5e-2,
    scale_rate=5e-3,
    rotation_rate=1e-3,
    refine_start=500,
    refine_stop=15_000,
    refine_interval=100,
    grow_gradient=8e-4,
    grow_scale=0.01,
    prune_opacity=0.005,
    prune_scale=0.1,
    opacity_reset_interval=3000,
)
"""The schedule of 3DGS (arXiv 2308.04079) with its authors' numbers, independent of our presets. It
has the absolute gradients of AbsGS (arXiv 2404.10484) and their threshold. Unlike the authors'
program after the first opacity reset, it does not remove splats for their size on the image."""

SLACK = 0.05
"""Decibels. The time to the best PSNR less this is reported too, because the best of many
evaluations depends on chance."""


def main() -> None:
    """Makes or resumes the two fits, and prints and draws the results."""
    asked = _arguments()
    demos = [asked.demo] if asked.demo else []
    captures = [asked.capture] if asked.capture else []
    try:
        (subject,) = subjects_of(captures, [asked.downscale] if captures else [], demos)
        records = {name: _fitted(asked, subject, name) for name in ("classic", asked.preset)}
    except (ValueError, RuntimeError) as error:
        sys.exit(str(error))
    if not all(record["finished"] for record in records.values()):
        print(
            "The fits are not finished: start the benchmark again to resume them.", file=sys.stderr
        )
    curves = {name: [record["points"]] for name, record in records.items() if record["points"]}
    if len(curves) < 2:
        sys.exit("One of the fits has no evaluation yet: start again with a longer --limit")
    result = _result(asked, subject, records)
    print(json.dumps(result, indent=1) if asked.json else _text(result))
    draw_curves(curves, list(curves), subject.name, asked.output / f"{subject.name}.svg")


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--capture", type=Path, help="folder of a capture")
    what.add_argument("--demo", metavar="SIZE", help="the built-in scene: tiny, small or full")
    parser.add_argument("--downscale", type=int, default=1, help="divide the photos' sides [1]")
    parser.add_argument("--preset", choices=PRESETS, default="standard", help="preset [standard]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices [0]")
    parser.add_argument("--threads", type=int, default=1, help="1 is timed in CPU seconds [1]")
    parser.add_argument("--views", type=int, default=40, help="most held-out views to score [40]")
    parser.add_argument("--shorten", type=float, default=1, help="divide the steps by this [1]")
    parser.add_argument("--limit", type=float, help="stop each fit after these seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    return parser.parse_args()


def _plan(asked: argparse.Namespace, name: str) -> Plan:
    plan = CLASSIC if name == "classic" else PRESETS[asked.preset]
    return stretched(plan, max(1, round(plan.steps / asked.shorten)))


def _fitted(asked: argparse.Namespace, subject: Subject, name: str) -> dict[str, Any]:
    """The record of one of the fits, finished or not."""
    path = asked.output / f"{subject.name}-{name}-{asked.seed}.json"
    return run_fit(
        subject,
        _plan(asked, name),
        path,
        seed=asked.seed,
        threads=asked.threads,
        views=asked.views,
        limit=asked.limit,
    )


def _result(
    asked: argparse.Namespace, subject: Subject, records: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The times at which the two curves reach the best PSNR, and their ratios."""
    best = max(point["psnr"] for point in records["classic"]["points"])
    rows = {}
    for name, record in records.items():
        points: list[Point] = record["points"]
        rows[name] = {
            "plan": plan_to_json(_plan(asked, name)),
            "finished": record["finished"],
            "programs": record["programs"],
            "best_psnr": max(point["psnr"] for point in points),
            "last": points[-1],
            "seconds_to_best": seconds_to(points, best),
            "seconds_to_near": seconds_to(points, best - SLACK),
        }
    result = {"subject": subject.name, "preset": asked.preset, "best_psnr": best, "fits": rows}
    for key in ("best", "near"):
        ours, theirs = (rows[name][f"seconds_to_{key}"] for name in (asked.preset, "classic"))
        result[f"ratio_{key}"] = ours / theirs if ours and theirs else None
    return result


def _text(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    best = result["best_psnr"]
    head = ("", "at the end, dB", f"s to {best:.2f} dB", f"s to {best - SLACK:.2f} dB")
    lines = [f"## {result['subject']}", "", f"| {' | '.join((*head, 's in total', 'splats'))} |"]
    lines.append("|---" * (len(head) + 2) + "|")
    for name, row in result["fits"].items():
        last = row["last"]
        times = (_seconds(row["seconds_to_best"]), _seconds(row["seconds_to_near"]))
        cells = (f"{last['psnr']:.2f}", *times, f"{last['seconds']:.1f}", f"{last['splats']:,}")
        name += "" if row["finished"] else " (not finished)"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    ratios = (_ratio(result["ratio_best"]), _ratio(result["ratio_near"]))
    lines += ["", f"Time of {result['preset']} over that of classic: {ratios[0]}; {ratios[1]}."]
    programs = {program for row in result["fits"].values() for program in row["programs"]}
    if len(programs) > 1:
        lines.append(f"By {len(programs)} builds of the kernels: do not compare the seconds.")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return "never" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
