"""Measures whether low confidence finds splats that float in free space.

    .venv/bin/python benchmarks/floaters.py runs/mine --rate 0.2 --seeds 5

Fifty splats (floaters) are put into the free space before the surfaces: at 30 to 70 % of the depth
of a random pixel of a random camera. They have twice the median size of the scene's splats, an
opacity of about 0.6, and colours of other splats. The scene is not trained after that. The
benchmark prints the number of floaters among the 5 % of splats with the lowest confidence.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from measuring import markdown
from torch import Tensor

from lumigraph.app.run.estimate import stored_rate
from lumigraph.app.run.folder import open_run
from lumigraph.render import Camera, Splats, render
from lumigraph.uncertainty import confidence

FLOATERS = 50
LARGER = 2.0
"""Size of a floater, in median sizes of the scene's splats."""
OPACITY_LOGIT = 0.5
LEAST = 0.05
"""Share of the scene's splats, those with the lowest confidence, among which floaters count."""


def main() -> None:
    """Adds floaters to the scene of a run, and prints the ranks of their confidence."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--rate", type=float, help="drop rate [the one of `lumigraph uncertainty`]")
    parser.add_argument(
        "--seeds", type=int, default=5, help="number of random sets of floaters [5]"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    run = open_run(asked.run)
    scene, views, rate = run.scene(), run.views(), asked.rate
    if rate is None:
        known = stored_rate(run, scene)
        if known is None:
            sys.exit(
                f"{asked.run} has no drop rate: give --rate, or run `lumigraph uncertainty` first"
            )
        rate = known.value
    cameras = [frame.camera for frame in views.train]
    rows = []
    for seed in range(asked.seeds):
        planted = with_floaters(scene, cameras, seed)
        trusted = confidence(planted, cameras, rate, background=views.background)
        place = trusted.argsort().argsort()[-FLOATERS:] / len(planted)
        found = int((place < LEAST).sum())
        rows.append({"seed": seed, "found": found, "highest": float(place.max())})
    if asked.json:
        print(json.dumps({"splats": len(scene), "rate": rate, "runs": rows}))
        return
    table = [[str(r["seed"]), f"{r['found']} of {FLOATERS}", f"{r['highest']:.4f}"] for r in rows]
    print(f"{asked.run.name}, {len(scene):,} splats, drop rate {rate:.3f}\n")
    print(markdown(["seed", "in the lowest 5 %", "highest rank of a floater"], table))


def with_floaters(scene: Splats, cameras: list[Camera], seed: int) -> Splats:
    """The scene with floaters added after its own splats."""
    generator = torch.Generator().manual_seed(seed)

    def chosen(count: int) -> Tensor:
        return torch.randint(count, (FLOATERS,), generator=generator)

    means = [_before(scene, cameras[index], generator) for index in chosen(len(cameras)).tolist()]
    like, colors = chosen(len(scene)), chosen(len(scene))
    usual = scene.log_scales.median(0).values + torch.tensor(LARGER).log()
    new = {
        "means": torch.stack(means).to(scene.means),
        "quaternions": scene.quaternions[like],
        "log_scales": usual.expand(FLOATERS, 3),
        "opacity_logits": torch.full((FLOATERS,), OPACITY_LOGIT),
        "base": scene.base[colors],
        "rest": torch.zeros_like(scene.rest[like]),
    }
    return replace(scene, **{k: torch.cat([v, new[k]]) for k, v in scene.tensors.items()})


def _before(scene: Splats, camera: Camera, generator: torch.Generator) -> Tensor:
    """A point before the surface at a random pixel in the middle of the picture. [3]"""
    with torch.no_grad():
        depth = render(scene, camera).median_depth
    height, width = depth.shape
    share = torch.rand(3, generator=generator)
    row, column = int(height * (0.25 + share[0] / 2)), int(width * (0.25 + share[1] / 2))
    away = depth[row, column].double() * (0.3 + 0.4 * share[2])
    pixel = torch.tensor([[column + 0.5, row + 0.5]], dtype=torch.float64)
    return camera.unproject(pixel, away.cpu()[None])[0]


if __name__ == "__main__":
    main()
