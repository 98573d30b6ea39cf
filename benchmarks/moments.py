"""Measures the time of exact PH-Dropout, and the error of sampled masks beside it.

    .venv/bin/python benchmarks/moments.py --scene garden.ply --cameras cameras.json
    .venv/bin/python benchmarks/moments.py --only error --trials 10000 --json

Each subject computes the standard deviation of the colours; the subjects take turns within one run.
Two of them save sampled masks some work. "projected once" projects the splats once for all masks.
"sorted once" also sorts them once and blends the same lists again and again, without masks: this is
a lower bound for a sampler that sorts once, which Lumigraph does not have.
"""

import argparse
import json
import math
import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from measuring import (
    View,
    at_size,
    markdown,
    number,
    spread,
    subject_of,
    summary,
    telling,
    timing_options,
    views,
)
from torch import Tensor

from lumigraph.app.commands.bench import interleaved, rendering
from lumigraph.kernels import Seen, splats_for
from lumigraph.render import Camera, Splats, render_color
from lumigraph.render.render import project_splats
from lumigraph.uncertainty import exact_color, pearson, thin

MASKS = 100
"""Number of masks for a picture, as published."""


def main() -> None:
    """Measures, and prints the results."""
    asked = _arguments()
    view = views(asked)[-1]
    camera = at_size(view.camera, (asked.width, asked.height))
    result: dict[str, Any] = {"scene": view.name, "splats": len(view.scene), "rate": asked.rate}
    result["size"] = f"{asked.width}x{asked.height}"
    with torch.no_grad():
        if asked.only in (None, "speed"):
            result["speed"] = _speed(view, camera, asked)
        if asked.only in (None, "error"):
            result["error"] = _error(view.scene, camera, asked)
    print(json.dumps(result) if asked.json else _page(result))


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    timing_options(parser)
    parser.add_argument("--rate", type=float, default=0.05, help="drop rate [0.05]")
    trials = "most masks for the error [10000]"
    parser.add_argument("--trials", type=int, default=10_000, help=trials)
    parser.add_argument("--only", choices=["speed", "error"], help="measure one part [both]")
    return parser.parse_args()


def _speed(view: View, camera: Camera, asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    scene, rate = view.scene, asked.rate
    shares = torch.zeros(len(scene))
    subjects = [
        rendering("one render", scene, camera),
        subject_of("exact", lambda: exact_color(scene, camera, rate)),
        subject_of("exact, with shares", lambda: exact_color(scene, camera, rate, shares=shares)),
        subject_of(f"{MASKS} masks", lambda: _masks(scene, camera, rate)),
        subject_of(f"{MASKS} masks, projected once", lambda: _masks_projected(scene, camera, rate)),
        subject_of(f"{MASKS} blends, sorted once", lambda: _blends(scene, camera)),
    ]
    told = telling("Speed")
    times = interleaved(subjects, rounds=asked.rounds, progress=told)
    return {name: dict(summary(values)) for name, values in times.items()}


class _Running:
    """Running mean and standard deviation of pictures (Welford 1962)."""

    def __init__(self, like: Tensor) -> None:
        self.count = 0
        self.mean, self._squares = torch.zeros_like(like), torch.zeros_like(like)

    def add(self, picture: Tensor) -> None:
        self.count += 1
        step = picture - self.mean
        self.mean.add_(step, alpha=1 / self.count)
        self._squares.addcmul_(step, picture - self.mean)

    def std(self) -> Tensor:
        return (self._squares / (self.count - 1)).sqrt_()


def _nothing(camera: Camera, dtype: torch.dtype = torch.float32) -> _Running:
    return _Running(torch.empty(camera.height, camera.width, 3, dtype=dtype))


def _masks(scene: Splats, camera: Camera, rate: float) -> Tensor:
    """The standard deviation over sampled masks, each rendered from the start."""
    found, generator = _nothing(camera), torch.Generator().manual_seed(0)
    for _ in range(MASKS):
        found.add(render_color(thin(scene, rate, generator), camera))
    return found.std()


def _masks_projected(scene: Splats, camera: Camera, rate: float) -> Tensor:
    """The standard deviation over sampled masks, with one projection for all masks."""
    kernels, records = splats_for(scene.means.device), project_splats(scene, camera)
    seen = records.tensors()
    found, generator = _nothing(camera), torch.Generator().manual_seed(0)
    for _ in range(MASKS):
        kept = torch.rand(len(seen.index), generator=generator) >= rate
        thinned = kernels.records(Seen(seen.index[kept], seen.rows[kept]), records.look)
        found.add(kernels.blend(thinned).features)
    return found.std()


def _blends(scene: Splats, camera: Camera) -> Tensor:
    """Blends the sorted splats once for each mask, without a mask: a lower bound for sampling."""
    kernels, records = splats_for(scene.means.device), project_splats(scene, camera)
    found = _nothing(camera)
    for _ in range(MASKS):
        found.add(kernels.blend(records).features)
    return found.std()


def _error(scene: Splats, camera: Camera, asked: argparse.Namespace) -> list[dict[str, float]]:
    """Errors of the standard deviation over 10, 100, ... masks, against the exact one."""
    _, exact = exact_color(scene, camera, asked.rate)
    # A sum of thousands of pictures needs 64 bits.
    found, generator = _nothing(camera, torch.float64), torch.Generator().manual_seed(0)
    marks = {10**power for power in range(1, 9)} | {asked.trials}
    told, rows = telling("Masks"), []
    for trial in range(1, asked.trials + 1):
        found.add(render_color(thin(scene, asked.rate, generator), camera).double())
        if trial in marks:
            std = found.std()
            error = (std - exact).square().mean().sqrt() / exact.double().square().mean().sqrt()
            row = {"masks": trial, "error": float(error), "pearson": pearson(std, exact.double())}
            # The sample standard deviation of n normal values has a relative error of
            # 1 / sqrt(2 (n - 1)).
            rows.append({**row, "normal": 1 / math.sqrt(2 * (trial - 1))})
        if trial % 10 == 0:
            told(trial, asked.trials)
    return rows


def _page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [f"{result['scene']}, {result['splats']:,} splats, {result['size']}, "]
    lines[0] += f"drop rate {result['rate']}"
    if speed := result.get("speed"):
        one, exact = speed["one render"]["median"], speed["exact"]["median"]
        head = ["", "ms", "range", "to one render", "to exact"]
        rows = []
        for name, times in speed.items():
            middle = times["median"]
            ratios = (number(middle / one), number(middle / exact))
            rows.append([name, number(middle), spread(times), *ratios])
        lines += ["", markdown(head, rows)]
    if error := result.get("error"):
        head = ["masks", "relative error of the std", "expected for normal values", "Pearson"]
        rows = [
            [f"{r['masks']:,}", number(r["error"]), number(r["normal"]), f"{r['pearson']:.5f}"]
            for r in error
        ]
        lines += ["", markdown(head, rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
