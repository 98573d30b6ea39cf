"""Compares uncertainty with the errors of a scene, for few and for many training views.

    .venv/bin/python benchmarks/uncertainty.py --capture fox --downscale 4 --views 8 16 0 -o results
    .venv/bin/python benchmarks/uncertainty.py --demo full --views 8 16 0 --seeds 3 -o results

The scene is fitted to some training views, evenly spread (0: to all of them), and the drop rate is
searched for on the same views. On the test views the benchmark compares the standard deviations of
exact PH-Dropout and of sampled masks with two errors: those of the usual picture, and those of the
mean over masks, as published. That mean is darker where many splats are left out. AUSE is also
divided by the AUSE of chance on the same errors. On the built-in scene depth is compared, too.
Last, random halves of all views outside the fit calibrate intervals for the other halves. Each fit
leaves a JSON file; a second start makes only the missing files.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from measuring import markdown, number, telling
from torch import Tensor

from lumigraph.app.run.frames import moved_frames
from lumigraph.datasets import Capture, Frame, load_capture
from lumigraph.datasets.demo import demo_depth, load_demo
from lumigraph.datasets.files import atomic
from lumigraph.recon import fit_splats, plan_from, start_fit
from lumigraph.render import Similarity, Splats, quantize, render, render_color
from lumigraph.uncertainty import (
    RateSearch,
    ause,
    ause_ratio,
    exact,
    exact_color,
    find_rate,
    mean_of,
    published_rate,
    sampled,
    spearman,
    split_coverage,
    view_metrics,
    view_score,
    views_needed,
)

PUBLISHED_VIEWS = {
    8: (2, 16, 26, 55, 73, 75, 86, 93),
    16: (2, 7, 13, 16, 26, 30, 53, 54, 55, 73, 75, 78, 86, 92, 93, 95),
}
"""Indices of the training views that PH-Dropout (arXiv 2410.05468) uses of the 100 of the synthetic
Blender scenes, by their number."""

TRIALS = (10, 100)
"""Numbers of sampled masks."""

SPLITS = 20
"""Number of times that the views outside the fit are split in random halves."""

LEVEL = 0.9
"""The share of the views that intervals must cover, and of the values in each view."""

COVERED = 0.5
"""Depth is compared where a pixel has at least this opacity and the true scene has a surface."""

NUMBERS = {
    "ause_mae_ratio": "AUSE (MAE) / chance",
    "ause_mae": "AUSE (MAE)",
    "ause_rmse_ratio": "AUSE (RMSE) / chance",
    "ause_rmse": "AUSE (RMSE)",
    "spearman": "Spearman",
    "nll": "NLL",
    "ece": "ECE",
    "mae": "error",
    "mean_ause_mae_ratio": "AUSE / chance, of the mean",
    "mean_ause_mae": "AUSE of the mean",
    "mean_spearman": "Spearman of the mean",
    "mean_nll": "NLL of the mean",
    "mean_mae": "error of the mean",
}

DEPTH_NUMBERS = {
    "ause_mae_ratio": "depth: AUSE (MAE) / chance",
    "ause_rmse_ratio": "AUSE (RMSE) / chance",
    "ause_mae": "AUSE (MAE)",
    "ause_rmse": "AUSE (RMSE)",
    "spearman": "Spearman",
    "median_relative_error": "relative error, median",
}


def main() -> None:
    """Makes the missing fits, and prints the tables."""
    asked = _arguments()
    asked.output.mkdir(parents=True, exist_ok=True)
    capture = None
    records: dict[int, list[dict[str, Any]]] = {}
    for count in asked.views:
        for seed in range(asked.seeds):
            path = asked.output / f"{_name(asked)}-{count or 'all'}-{seed}.json"
            if not path.is_file():
                capture = capture or _capture(asked)
                print(f"{path.stem} ...", file=sys.stderr)
                record = _assessed(capture, count, seed, asked)
                with atomic(path) as partial:
                    partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
            records.setdefault(count, []).append(json.loads(path.read_text(encoding="utf-8")))
    print(json.dumps(records) if asked.json else _page(_name(asked), records))


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--capture", type=Path, help="folder of a capture")
    what.add_argument(
        "--demo", nargs="?", const="full", metavar="SIZE", help="the built-in scene [full]"
    )
    parser.add_argument(
        "--downscale", type=int, default=1, help="divide the photos' sides by this [1]"
    )
    views = "numbers of training views; 0 stands for all [8 16 0]"
    parser.add_argument("--views", type=int, nargs="+", default=[8, 16, 0], help=views)
    parser.add_argument(
        "--published", action="store_true", help="take the 8 or 16 views of the paper, of 100"
    )
    parser.add_argument("--preset", default="quick", help="preset of the fit [quick]")
    parser.add_argument("--steps", type=int, help="training steps [those of the preset]")
    parser.add_argument("--seeds", type=int, default=1, help="fits for each number of views [1]")
    parser.add_argument("--most", type=int, default=40, help="most test views to compare [40]")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _name(asked: argparse.Namespace) -> str:
    if asked.demo:
        return f"demo-{asked.demo}"
    return f"{asked.capture.resolve().name}-{asked.downscale}"


def _capture(asked: argparse.Namespace) -> Capture:
    if asked.demo:
        return load_demo(asked.demo)
    return load_capture(asked.capture, downscale=asked.downscale)


def _assessed(capture: Capture, count: int, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Fits a scene to `count` views, and compares its uncertainty with its errors."""
    train = _chosen(capture.train, count, published=asked.published)
    changes = {} if asked.steps is None else {"steps": asked.steps}
    fit = start_fit(replace(capture, train=train), plan_from(asked.preset, **changes), seed=seed)
    began = time.perf_counter()
    told = telling("Steps")
    for step in fit_splats(replace(capture, train=train), fit):
        told(step.step, step.steps)
    trained = time.perf_counter() - began
    scene, background = fit.scene(), capture.background
    searches = _searches(scene, moved_frames(train, fit.similarity), seed, background)
    rate = searches["masks"]["rate"]
    names = {frame.name for frame in train}
    held = [frame for frame in (*capture.test, *capture.train) if frame.name not in names]
    tested = _chosen(moved_frames(capture.test, fit.similarity), asked.most)
    kinds = {"exact": 0, **{f"{trials} masks": trials for trials in TRIALS}}
    maps = {k: _scored(scene, tested, rate, t, seed, background) for k, t in kinds.items()}
    for found in searches.values():
        found |= _scored(scene, tested, found["rate"], 0, seed, background)
    record: dict[str, Any] = {"views": len(train), "seed": seed, "splats": len(scene)}
    record |= {"rate": rate, "scored": len(tested), "training_s": trained}
    record |= {"searches": searches, "maps": maps}
    if asked.demo:
        record["depth"] = _depths(capture, fit.similarity, scene, rate, asked.most)
    others = moved_frames(held, fit.similarity)
    record["coverage"] = _coverage(scene, others, rate, seed, background)
    return record


def _searches(
    scene: Splats, frames: Sequence[Frame], seed: int, background: tuple[float, float, float]
) -> dict[str, dict[str, float]]:
    """The drop rates of our searches and of the published one, with their seconds."""
    generator = torch.Generator().manual_seed(seed)
    ways: dict[str, Callable[[], RateSearch]] = {
        "masks": lambda: find_rate(scene, frames, background=background, seed=seed),
        "mean": lambda: find_rate(scene, frames, background=background, criterion="mean"),
        "published": lambda: published_rate(
            scene, frames, background=background, generator=generator
        ),
    }
    found = {}
    for name, way in ways.items():
        began = time.perf_counter()
        search = way()
        found[name] = {"rate": search.rate, "passes": 1 + len(search.trail)}
        found[name]["search_s"] = time.perf_counter() - began
    return found


def _chosen(frames: Sequence[Frame], count: int, *, published: bool = False) -> tuple[Frame, ...]:
    """`count` frames, evenly spread; all frames if it is 0 or not below their number."""
    if published and count in PUBLISHED_VIEWS:
        return tuple(frames[index] for index in PUBLISHED_VIEWS[count])
    if not 0 < count < len(frames):
        return tuple(frames)
    return tuple(frames[(2 * i + 1) * len(frames) // (2 * count)] for i in range(count))


def _photo(frame: Frame) -> Tensor:
    return frame.image().float() / 255


def _scored(
    scene: Splats,
    frames: Sequence[Frame],
    rate: float,
    trials: int,
    seed: int,
    background: tuple[float, float, float],
) -> dict[str, float]:
    """Means over the views, and the seconds of a map; with 0 trials the map is exact."""
    generator = torch.Generator().manual_seed(seed)
    pictures, means, seconds = [], [], []
    for frame in frames:
        began = time.perf_counter()
        if trials:
            spread = sampled(
                scene,
                frame.camera,
                rate,
                trials=trials,
                generator=generator,
                background=background,
            )
            mean, std = spread.mean, spread.std
        else:
            mean, std = exact_color(scene, frame.camera, rate, background=background)
        seconds.append(time.perf_counter() - began)
        picture, photo = render_color(scene, frame.camera, background=background), _photo(frame)
        pictures.append(view_metrics(quantize(picture), std, photo))
        means.append(view_metrics(quantize(mean), std, photo))
    of_means = {f"mean_{name}": value for name, value in asdict(mean_of(means)).items()}
    return {**asdict(mean_of(pictures)), **of_means, "seconds": median(seconds)}


def _depths(
    capture: Capture, similarity: Similarity, scene: Splats, rate: float, most: int
) -> dict[str, float]:
    """Compares the standard deviation of depth with its error against the true depth."""
    rows = []
    for frame in _chosen(capture.test, most):
        truth = demo_depth(frame.camera) * similarity.scale
        camera = similarity.camera(frame.camera)
        seen, spread = render(scene, camera), exact(scene, camera, rate)
        there = (truth > 0) & (seen.opacity >= COVERED)
        error, std = (seen.depth - truth).abs()[there], spread.depth_std[there]
        scores = [
            score(error, std, measure=measure)
            for score in (ause_ratio, ause)
            for measure in ("mae", "rmse")
        ]
        relative = float((error / truth[there]).median())
        rows.append([*scores, spearman(error, std), relative])
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return dict(zip(DEPTH_NUMBERS, means, strict=True))


def _coverage(
    scene: Splats,
    frames: Sequence[Frame],
    rate: float,
    seed: int,
    background: tuple[float, float, float],
) -> dict[str, Any] | None:
    """The share of covered views over random halves; None if there are too few views."""
    if len(frames) // 2 < views_needed(1 - LEVEL):
        return None
    scores = []
    for frame in frames:
        _, std = exact_color(scene, frame.camera, rate, background=background)
        picture = render_color(scene, frame.camera, background=background)
        scores.append(view_score(picture, std, _photo(frame), beta=1 - LEVEL))
    generator = torch.Generator().manual_seed(seed)
    found = split_coverage(scores, alpha=1 - LEVEL, generator=generator, splits=SPLITS)
    return {
        "views": len(scores),
        "mean": float(found.mean()),
        "least": float(found.min()),
        "most": float(found.max()),
        "score": median(scores),
    }


def _page(name: str, records: dict[int, list[dict[str, Any]]]) -> str:
    """The result as Markdown: medians over the seeds."""
    rows, depth, cover, searches = [], [], [], []
    for runs in records.values():
        about = [str(runs[0]["views"]), f"{median(run['rate'] for run in runs):.3f}"]
        for kind in runs[0]["maps"]:
            values = [median(run["maps"][kind][key] for run in runs) for key in NUMBERS]
            seconds = median(run["maps"][kind]["seconds"] for run in runs)
            cells = [f"{value:.3f}" for value in values]
            rows.append([*about, kind, *cells, f"{1e3 * seconds:,.1f}"])
        if "depth" in runs[0]:
            values = [median(run["depth"][key] for run in runs) for key in DEPTH_NUMBERS]
            depth.append([about[0], *(f"{value:.3f}" for value in values)])
        for way in runs[0]["searches"]:
            keys = ("rate", "passes", "search_s", "ause_mae_ratio", "mean_ause_mae_ratio")
            values = [median(run["searches"][way][key] for run in runs) for key in keys]
            searches.append([about[0], way, *map(number, values)])
        if all(run["coverage"] for run in runs):
            cover.append([about[0], *_coverage_cells([run["coverage"] for run in runs])])
    seeds = len(next(iter(records.values())))
    head = ["training views", "drop rate", "maps", *NUMBERS.values(), "ms a map"]
    lines = [f"{name}, medians of {seeds} seeds", "", markdown(head, rows)]
    if depth:
        lines += ["", markdown(["training views", *DEPTH_NUMBERS.values()], depth)]
    head = ["training views", "search by", "drop rate", "passes", "s"]
    head += ["AUSE / chance", "of the mean"]
    lines += ["", markdown(head, searches)]
    head = ["training views", "other views", "covered, mean", "least", "most"]
    return "\n".join([*lines, "", markdown(head, cover)])


def _coverage_cells(found: Sequence[dict[str, Any]]) -> list[str]:
    """The number of views, and the share of covered views: mean, least and most."""
    shares = [median(each[key] for each in found) for key in ("mean", "least", "most")]
    return [str(found[0]["views"]), *(f"{100 * share:.1f} %" for share in shares)]


if __name__ == "__main__":
    main()
