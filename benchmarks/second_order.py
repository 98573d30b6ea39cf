"""Compares Adam, our Levenberg-Marquardt and 3DGS-LM in the second part of a fit.

    .venv/bin/python benchmarks/second_order.py --capture fox --downscale 4
    .venv/bin/python benchmarks/second_order.py --demo full --steps 2600 --seeds 3 --json

All methods begin with the same scene: that of a fit by Adam at the end of density control. Adam
then takes the remaining steps, or half of them with a schedule of half the length. "lm" takes its
usual share of them, or half of them. 3DGS-LM takes five iterations. With fewer steps, the learning
rate of the centres is that of a plan with fewer steps. Seconds are those of the training alone. The
loss is that of Adam, as a mean over all training photos. The methods take turns with each seed.
"""

import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from curves import draw_curves, middle
from measuring import markdown, number, telling

from lumigraph.app.run.evaluation import look
from lumigraph.app.run.frames import moved_frames
from lumigraph.app.training.inputs import Selection, open_capture
from lumigraph.datasets import Capture, Frame
from lumigraph.datasets.demo import demo_folder
from lumigraph.recon import SplatFit, fit_splats, plan_from, start_fit
from lumigraph.recon.optimizers.residuals import photo_loss
from lumigraph.recon.splats.plan import LM_ITERATIONS, LM_PART
from lumigraph.render import psnr

POINTS = 20
"""Number of points of a curve, about; 3DGS-LM has one for each iteration."""


def main() -> None:
    """Measures, and prints the results."""
    asked = _arguments()
    place = demo_folder(asked.demo) if asked.demo else asked.capture
    capture, _ = open_capture(place, Selection(asked.downscale, None, 8, 0))
    runs: list[dict[str, Any]] = []
    told = telling("fits")
    for seed in range(asked.seeds):
        start, seconds = _densified(capture, asked, seed)
        for name, change in METHODS.items():
            if name in asked.without:
                continue
            fit = copy.deepcopy(start)
            fit.plan = change(fit)
            run = {"method": name, "seed": seed, "splats": len(fit.splats), "before": seconds}
            runs.append(run | {"points": list(_finished(capture, fit, asked.most))})
            told(len(runs), asked.seeds * (len(METHODS) - len(asked.without)))
    if asked.plot:
        curves: dict[str, list[Any]] = {}
        for run in runs:
            curves.setdefault(run["method"], []).append(run["points"][1:])
        title = f"{capture.name}, from the end of density control"
        draw_curves(curves, list(curves), title, asked.plot)
    print(json.dumps(runs) if asked.json else _page(capture.name, runs))


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--capture", help="folder of a capture")
    what.add_argument(
        "--demo", nargs="?", const="full", metavar="SIZE", help="the built-in scene [full]"
    )
    parser.add_argument(
        "--downscale", type=int, default=1, help="divide the photos' sides by this [1]"
    )
    parser.add_argument("--preset", default="quick", help="preset of the fit [quick]")
    parser.add_argument("--steps", type=int, help="training steps [those of the preset]")
    parser.add_argument("--seeds", type=int, default=1, help="number of fits to begin with [1]")
    parser.add_argument("--most", type=int, default=40, help="most held-out views to score [40]")
    parser.add_argument(
        "--without", nargs="*", default=[], choices=METHODS, help="methods to leave out"
    )
    parser.add_argument("--plot", type=Path, help="SVG file for curves of PSNR over seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _shorter(fit: SplatFit) -> Any:
    left = (fit.plan.steps - fit.step) // 2
    cooldown = min(left, fit.plan.cooldown_steps // 2)
    return replace(fit.plan, steps=fit.step + left, cooldown_steps=cooldown)


def _by_lm(part: float) -> Callable[[SplatFit], Any]:
    def change(fit: SplatFit) -> Any:
        left = round(part * (fit.plan.steps - fit.step))
        steps = {"switch": fit.step, "steps": fit.step + left, "cooldown_steps": left // 2}
        return replace(fit.plan, optimizer="lm", **steps)

    return change


def _by_published_lm(fit: SplatFit) -> Any:
    steps = fit.step + LM_ITERATIONS
    return replace(fit.plan, optimizer="lm-published", switch=fit.step, steps=steps)


METHODS: dict[str, Callable[[SplatFit], Any]] = {
    "Adam": lambda fit: fit.plan,
    "Adam, half the steps": _shorter,
    "lm": _by_lm(LM_PART),
    "lm, half the steps": _by_lm(0.5),
    "3DGS-LM, 5 iterations": _by_published_lm,
}


def _densified(capture: Capture, asked: argparse.Namespace, seed: int) -> tuple[SplatFit, float]:
    """A fit at the end of density control, and its seconds of training."""
    plan = plan_from(asked.preset, steps=asked.steps)
    fit = start_fit(capture, plan, seed=seed)
    began = time.perf_counter()
    for step in fit_splats(capture, fit):
        if step.step == plan.refine_stop:
            break
    return fit, time.perf_counter() - began


def _finished(capture: Capture, fit: SplatFit, most: int) -> Iterator[dict[str, Any]]:
    """Trains to the end, and yields seconds, loss and PSNR at about `POINTS` steps."""
    train = moved_frames(capture.train, fit.similarity)
    spread = max(1, len(capture.test) // most)
    test = moved_frames(capture.test[::spread], fit.similarity)
    steps = fit.plan.steps - fit.step
    spacing = 1 if fit.plan.optimizer == "lm-published" else max(1, steps // POINTS)
    yield {"seconds": 0.0, **_scores(fit, train, test, capture)}
    seconds, began = 0.0, time.perf_counter()
    for step in fit_splats(capture, fit):
        seconds += time.perf_counter() - began
        if (fit.plan.steps - step.step) % spacing == 0:
            yield {"seconds": seconds, **_scores(fit, train, test, capture)}
        began = time.perf_counter()


@torch.no_grad()
def _scores(
    fit: SplatFit, train: tuple[Frame, ...], test: tuple[Frame, ...], capture: Capture
) -> dict[str, float]:
    weight, losses = fit.plan.ssim_weight, []
    for frame in train:
        image = look(fit.splats, frame.camera, capture.background)
        losses.append(photo_loss(image, frame.image(), weight))
    scores = [
        psnr(look(fit.splats, frame.camera, capture.background), frame.image().float() / 255)
        for frame in test
    ]
    return {"loss": sum(losses) / len(losses), "psnr": sum(scores) / len(scores)}


def _page(name: str, runs: list[dict[str, Any]]) -> str:
    """The results as a table in Markdown: medians over the seeds."""
    adam = {run["seed"]: run["points"][-1] for run in runs if run["method"] == "Adam"}
    rows = []
    for method in METHODS:
        own = [run for run in runs if run["method"] == method]
        if not own:
            continue
        ends = {
            (end, key): median(run["points"][end][key] for run in own)
            for end in (0, -1)
            for key in ("loss", "psnr", "seconds")
        }
        reached = [
            [_reached(run["points"], key, adam[run["seed"]][key]) for run in own if adam]
            for key in ("loss", "psnr")
        ]
        rows.append(
            [
                method,
                number(ends[-1, "seconds"]),
                f"{ends[0, 'loss']:.5f}",
                f"{ends[-1, 'loss']:.5f}",
                f"{ends[0, 'psnr']:.2f}",
                f"{ends[-1, 'psnr']:.2f}",
                *("-" if (s := middle(each)) is None else number(s) for each in reached),
            ]
        )
    head = ["method", "s", "loss at the start", "loss at the end", "PSNR at the start"]
    head += ["PSNR at the end", "s to Adam's last loss", "s to Adam's last PSNR"]
    first = [run for run in runs if run["method"] == runs[0]["method"]]
    splats = ", ".join(f"{run['splats']:,}" for run in first)
    before = number(median(run["before"] for run in first))
    return f"{name}, {splats} splats, after {before} s of Adam\n\n{markdown(head, rows)}"


def _reached(points: list[dict[str, float]], key: str, mark: float) -> float | None:
    """The seconds at which a curve first reaches Adam's last value; None if it never does."""
    better = (p["seconds"] for p in points if (p[key] - mark) * (1 if key == "psnr" else -1) >= 0)
    return next(better, None)


if __name__ == "__main__":
    main()
