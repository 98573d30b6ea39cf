"""Measures rendering and training of splats, beside the machine's limits and other programs.

    .venv/bin/python benchmarks/splats.py
    .venv/bin/python benchmarks/splats.py --scene garden_100k.ply --cameras garden_cameras.json
    .venv/bin/python benchmarks/splats.py --trained runs/demo --capture fox --downscale 4
    .venv/bin/python benchmarks/splats.py --calibrate PROGRAM

All subjects take turns in every round, so that other load on the machine affects all of them alike.
Figures are medians over all rounds, with least and most. docs/performance.md explains them.
"""

import argparse
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring
import peers
import torch
from measuring import View, number
from stages import Stage, blends, same_level, stages

from lumigraph.app.commands.bench import (
    SIZES,
    Size,
    Subject,
    copied,
    interleaved,
    load_of,
    machine,
    rendering,
    resampled,
    training,
    training_steps,
)
from lumigraph.datasets import load_capture
from lumigraph.recon import Plan, fit_splats, start_fit

FEWEST_ROUNDS = 5
"""Fewest rounds of which a median is reported without a remark."""


@dataclass(frozen=True)
class Figure:
    """A row of the table of times.

    Attributes:
        subject: The work to time.
        size: The picture's size, at which the calibration may have a reference renderer.
    """

    subject: Subject
    size: Size | None = None


def main() -> None:
    """Measures, and prints the results."""
    asked = _arguments()
    try:
        views = measuring.views(asked)
        with tempfile.TemporaryDirectory(prefix="lumigraph-bench-") as folder:
            result = _measured(asked, views, Path(folder))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
    measuring.write_or_print(_page(result), result, as_json=asked.json)


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    measuring.scene_options(parser)
    parser.add_argument("--capture", type=Path, help="capture on which to time a training step")
    parser.add_argument("--downscale", type=int, default=1, help="divide the photos' sides [1]")
    sizes = "sizes of pictures [1280x720,640x360]"
    parser.add_argument("--sizes", type=measuring.sizes, default=SIZES, help=sizes)
    larger = "render this multiple of the splats, too [10]"
    parser.add_argument("--larger", type=int, default=10, help=larger)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; a median needs 5 [5]")
    parser.add_argument("--calibrate", metavar="COMMAND", help="program to run before and after")
    parser.add_argument("--no-peers", action="store_true", help="do not measure other programs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    if asked.rounds < 1 or asked.splats < 1 or asked.larger < 1:
        parser.error("--rounds, --splats and --larger should be at least 1")
    return asked


def _measured(asked: argparse.Namespace, views: list[View], folder: Path) -> dict[str, Any]:
    """All results, as plain data."""
    before = _calibrated(asked)
    first = views[0]
    camera = measuring.at_size(first.camera, asked.sizes[0])
    figures = [figure for view in views for figure in _figures(view, asked.sizes, asked.larger)]
    figures += _capture_figures(asked)
    parts = stages(first.scene, camera)
    by_level = blends(first.scene, camera, sorted({1, torch.get_num_threads()}))
    others = [] if asked.no_peers else _peers(asked, first, folder)

    told = measuring.telling
    subjects = [figure.subject for figure in figures]
    subjects += [peer.subject for peer in others if peer.subject is not None]
    times = interleaved(subjects, rounds=asked.rounds, progress=told("figures"))
    timed = [Subject(part.name, part.run) for part in parts]
    part_times = interleaved(timed, rounds=asked.rounds, progress=told("stages"))
    with same_level():
        level_times = interleaved(by_level, rounds=asked.rounds, progress=told("blend"))
    after = _calibrated(asked)

    calibration = [measuring.parse_calibration(text) for text in (before, after)]
    limits = measuring.together(*calibration)
    return {
        "machine": {**machine(), "memory_bytes_per_second": measuring.memory_rate()},
        "scenes": {view.name: _facts(view, asked.sizes) for view in views},
        "calibration": {
            "before": before,
            "after": after,
            "figures": limits,
            "drift": measuring.drift(*calibration),
        },
        "rounds": asked.rounds,
        "figures": {f.subject.name: _with_ratio(f, times, limits) for f in figures},
        "stages": {part.name: _stage_facts(part, part_times) for part in parts},
        "blend": {name: measuring.summary(t) for name, t in level_times.items()},
        "peers": {peer.name: _peer_facts(peer, times) for peer in others},
    }


def _calibrated(asked: argparse.Namespace) -> str:
    """The output of the calibration program; empty without --calibrate."""
    return "" if asked.calibrate is None else measuring.output_of(shlex.split(asked.calibrate))


def _figures(view: View, sizes: tuple[Size, ...], larger: int) -> list[Figure]:
    """Rendering at every size; at the first size also of more splats, and a training step."""
    figures = []
    for size in sizes:
        name = f"{view.name}, forward {size[0]}x{size[1]}"
        camera = measuring.at_size(view.camera, size)
        figures.append(Figure(rendering(name, view.scene, camera), size))
    first = sizes[0]
    shape = f"{first[0]}x{first[1]}"
    camera = measuring.at_size(view.camera, first)
    if larger > 1:
        name = f"{view.name} x {larger}, forward {shape}"
        many = resampled(view.scene, larger * len(view.scene))
        figures.append(Figure(rendering(name, many, camera), first))
    name = f"{view.name}, training step without loss {shape}"
    figures.append(Figure(measuring.without_loss(name, view.scene, camera), first))
    steps = training_steps(copied(view.scene), camera)
    figures.append(Figure(training(f"{view.name}, training step {shape}", steps), first))
    return figures


def _capture_figures(asked: argparse.Namespace) -> list[Figure]:
    """A step of the classic fit of the capture from its start; photos are decoded before."""
    if asked.capture is None:
        return []
    capture = load_capture(asked.capture, downscale=asked.downscale)
    for frame in capture.train:
        frame.image()
    fit = start_fit(capture, Plan(steps=30_000))
    camera = capture.train[0].camera
    name = f"{capture.name}, training step {camera.width}x{camera.height}"
    name += f" with {len(fit.splats):,} start splats"
    return [Figure(training(name, fit_splats(capture, fit)))]


def _peers(asked: argparse.Namespace, view: View, folder: Path) -> list[peers.Peer]:
    """All peers with the first scene; a peer that cannot run has a note."""
    cameras = [measuring.at_size(view.camera, size) for size in asked.sizes]
    found = [peers.open3d(view.scene, camera, folder) for camera in cameras]
    found += [peers.gsplat(view.scene, camera) for camera in cameras]
    return peers.tried([*found, peers.opensplat(asked.capture, asked.downscale)])


def _facts(view: View, sizes: tuple[Size, ...]) -> dict[str, Any]:
    load = {}
    for size in sizes:
        camera = measuring.at_size(view.camera, size)
        load[f"{size[0]}x{size[1]}"] = load_of(view.scene, camera)
    return {"splats": len(view.scene), "degree": view.scene.degree, "load": load}


def _with_ratio(
    figure: Figure, times: dict[str, list[float]], limits: dict[str, float]
) -> dict[str, Any]:
    """A summary, with the ratio to the reference renderer at the same size."""
    found = measuring.summary(times[figure.subject.name])
    name = f"refrender {figure.size[0]}x{figure.size[1]}" if figure.size else ""
    ratio = found["median"] / limits[name] if name in limits else None
    return {**found, "of_refrender": ratio}


def _stage_facts(part: Stage, times: dict[str, list[float]]) -> dict[str, Any]:
    found = measuring.summary(times[part.name])
    return {**found, "amount": part.amount, "unit": part.unit, "limit": part.limit}


def _peer_facts(peer: peers.Peer, times: dict[str, list[float]]) -> dict[str, Any]:
    timed = {} if peer.subject is None else measuring.summary(times[peer.subject.name])
    return {**timed, "note": peer.note}


def _page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    parts = [_figures_table(result), _stages_table(result), _blend_table(result)]
    if result["peers"]:
        parts.append(_peers_table(result))
    scenes = (
        f"{name}: {facts['splats']:,} splats of degree {facts['degree']}; "
        + "; ".join(
            f"at {size} {load['visible']:,} in view, {load['blended_per_pixel']} in a pixel"
            for size, load in facts["load"].items()
        )
        for name, facts in result["scenes"].items()
    )
    parts.append("\n".join(scenes))
    here = result["machine"]
    shown = (f"{key.replace('_', ' ')} {here[key]}" for key in ("processor", "cores", "threads"))
    parts.append(
        f"Machine: {', '.join(shown)}, {here['instruction_set']} kernels, torch {here['torch']}; "
        f"memory {here['memory_bytes_per_second'] / 1e9:.1f} GB/s."
    )
    if result["rounds"] < FEWEST_ROUNDS:
        rounds = f"{result['rounds']} of the {FEWEST_ROUNDS} rounds"
        parts.append(f"This is a trial: it has {rounds} that a measurement needs.")
    calibration = result["calibration"]
    if calibration["before"]:
        parts.append(
            f"Calibration before and after; the figures differ by up to {calibration['drift']:.0%}:"
        )
        parts += [f"```\n{calibration[when].rstrip()}\n```" for when in ("before", "after")]
    return "\n\n".join(parts)


def _figures_table(result: dict[str, Any]) -> str:
    rows = []
    for name, found in result["figures"].items():
        ratio = found["of_refrender"]
        shown = "-" if ratio is None else f"{ratio:.2f}"
        rows.append((name, number(found["median"]), measuring.spread(found), shown))
    return measuring.markdown(("", "ms, median", "least to most", "of refrender"), rows)


def _stages_table(result: dict[str, Any]) -> str:
    """The stages: a rate is an amount over a time, a share is a rate over the machine's limit."""
    limits = {
        **result["calibration"]["figures"],
        "memory": result["machine"]["memory_bytes_per_second"],
    }
    rows = []
    for name, found in result["stages"].items():
        rate = found["amount"] / (found["median"] / 1e3)
        share = f"{rate / limits[found['limit']]:.0%}" if found["limit"] in limits else "-"
        amount = f"{number(found['amount'] / 1e6)} M {found['unit']}"
        times = (number(found["median"]), measuring.spread(found))
        rows.append((name, *times, amount, f"{number(rate / 1e9)} G/s", share))
    total = sum(found["median"] for found in result["stages"].values())
    rows.append(("sum", number(total), "", "", "", ""))
    head = ("stage", "ms, median", "least to most", "amount", "rate", "share of the limit")
    return measuring.markdown(head, rows)


def _blend_table(result: dict[str, Any]) -> str:
    """The blend stage by instruction set and threads, with the speed-up over the slowest."""
    slowest = max(found["median"] for found in result["blend"].values())
    rows = [
        (
            name,
            number(found["median"]),
            measuring.spread(found),
            f"{slowest / found['median']:.2f}",
        )
        for name, found in result["blend"].items()
    ]
    return measuring.markdown(("blend stage", "ms, median", "least to most", "speed-up"), rows)


def _peers_table(result: dict[str, Any]) -> str:
    rows = []
    for name, found in result["peers"].items():
        times = ("-", "-")
        if "median" in found:
            times = (number(found["median"]), measuring.spread(found))
        rows.append((name, *times, found["note"]))
    return measuring.markdown(("peer", "ms, median", "least to most", "note"), rows)


if __name__ == "__main__":
    main()
