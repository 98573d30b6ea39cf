"""Who finishes a fit sooner: Adam, Levenberg-Marquardt of our own, or as published (3DGS-LM).

    .venv/bin/python benchmarks/second_order.py --capture fox --downscale 4
    .venv/bin/python benchmarks/second_order.py --demo full --steps 2600 --seeds 3 --json

All begin at the same scene: that of a fit by Adam at the step at which density control ends. From
there Adam takes the steps that are left, or half of them with its schedule in half the time; "lm"
the part of them that it takes in a plan, or half; and 3DGS-LM its five iterations. With fewer steps
the rate of the centres is what a plan of so many steps has there. Seconds are those of the training
alone; the loss is that of Adam, over all training photos. The methods take turns with each seed.
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
"""Of a curve, about, if it is not one of few iterations."""


def main() -> None:
    """Measures, and prints what came of it."""
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
    what.add_argument("--demo", nargs="?", const="full", metavar="SIZE", help="[full]")
    parser.add_argument("--downscale", type=int, default=1, help="of the photos of --capture")
    parser.add_argument("--preset", default="quick", help="[quick]")
    parser.add_argument("--steps", type=int, help="[as the preset has it]")
    parser.add_argument("--seeds", type=int, default=1, help="so many starts [1]")
    parser.add_argument("--most", type=int, default=40, help="held-out views to score [40]")
    parser.add_argument("--without", nargs="*", default=[], choices=METHODS, help="leave these out")
    parser.add_argument("--plot", type=Path, help="draw PSNR over seconds there, as SVG")
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
    """A fit at the step at which density control has ended, and the seconds that took."""
    plan = plan_from(asked.preset, steps=asked.steps)
    fit = start_fit(capture, plan, seed=seed)
    began = time.perf_counter()
    for step in fit_splats(capture, fit):
        if step.step == plan.refine_stop:
            break
    return fit, time.perf_counter() - began


def _finished(capture: Capture, fit: SplatFit, most: int) -> Iterator[dict[str, Any]]:
    """Seconds, loss and PSNR now and then, until the fit is at its end."""
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
    """A table for people: medians over the seeds."""
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
    head = ["from the end of density control on", "s", "loss at first", "at the end"]
    head += ["PSNR at first", "at the end", "s to Adam's last loss", "s to its last PSNR"]
    first = [run for run in runs if run["method"] == runs[0]["method"]]
    splats = ", ".join(f"{run['splats']:,}" for run in first)
    before = number(median(run["before"] for run in first))
    return f"{name}, {splats} splats, after {before} s\n\n{markdown(head, rows)}"


def _reached(points: list[dict[str, float]], key: str, mark: float) -> float | None:
    """The seconds at which a curve first is where Adam's ends, if it ever is."""
    better = (p["seconds"] for p in points if (p[key] - mark) * (1 if key == "psnr" else -1) >= 0)
    return next(better, None)


if __name__ == "__main__":
    main()
