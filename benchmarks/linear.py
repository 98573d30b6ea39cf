"""Measures the time of products with the derivative of a picture, beside a render and a backward.

    .venv/bin/python benchmarks/linear.py --scene garden.ply --cameras cameras.json

G is the derivative of the picture by the parameters. "backward" is that of a training step:
blending backward, projection backward and Adam. All subjects take turns within one run.

3DGS-LM (arXiv 2409.12892, section 3.3) stores G: four half floats and an index for each pair of a
pixel and a splat that is blended in it. The benchmark prints the size of that cache, and the time
to read as many bytes once. Every product with the cache takes at least that time.
"""

import argparse
import json
import os
from collections.abc import Callable
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
from stages import whole_step

from lumigraph.app.commands.bench import Subject, interleaved, load_of, rendering
from lumigraph.kernels import Blocks, Parameters, splats_for
from lumigraph.render import Camera, Splats

CACHED = 12
"""Bytes that 3DGS-LM stores for each pair of a pixel and a splat."""

BARS = {"G v": ("one render", 1.3), "G^T u": ("backward", 1.1), "blocks": ("backward", 1.3)}
"""The most that each product should take, as a multiple of another subject's time."""


def main() -> None:
    """Measures, and prints the results."""
    asked = _arguments()
    view = views(asked)[-1]
    camera = at_size(view.camera, (asked.width, asked.height))
    result: dict[str, Any] = {"scene": view.name, "splats": len(view.scene)}
    result["size"] = f"{asked.width}x{asked.height}"
    with torch.no_grad():
        result |= _measure(view, camera, asked.rounds)
    print(json.dumps(result) if asked.json else _page(result))


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    timing_options(parser)
    return parser.parse_args()


def _measure(view: View, camera: Camera, rounds: int) -> dict[str, Any]:
    scene = view.scene
    splats = Parameters(*scene.tensors.values())

    kernels = splats_for("cpu")

    def draw():
        records = kernels.project(
            splats, view=camera.view, degree=scene.degree, filter=scene.filter
        )
        return kernels.blend(records)

    picture = draw()
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(picture.features.shape, generator=generator)
    direction = Parameters(*(torch.randn(x.shape, generator=generator) for x in splats))
    gradient = Parameters(*(torch.zeros_like(x) for x in splats))
    blocks = Blocks(torch.zeros(len(scene), 66), *map(torch.zeros_like, splats[4:]))
    pairs = load_of(scene, camera)["blended_per_pixel"] * camera.width * camera.height
    cache = torch.zeros(int(pairs * CACHED) // 4)
    subjects = [
        rendering("one render", scene, camera),
        Subject("backward", _backward(scene, camera)),
        subject_of("picture", draw),
        subject_of("G v", lambda: picture.jvp(direction)),
        subject_of("G^T u", lambda: kernels.gradients(splats, picture.vjp(weights), gradient)),
        subject_of("G^T u, of its own", lambda: kernels.gradients(splats, picture.vjp(weights))),
        subject_of("blocks", lambda: picture.blocks(weights, blocks)),
        subject_of("blocks, of their own", lambda: picture.blocks(weights)),
        subject_of("a cache, read once", cache.sum),
    ]
    times = interleaved(subjects, rounds=rounds, progress=telling("Products"))
    speed = {name: dict(summary(values)) for name, values in times.items()}
    return {"speed": speed, "bytes": picture.bytes, "cache": 4 * len(cache)}


def _backward(scene: Splats, camera: Camera) -> Callable[[], float]:
    """A training step with rates of nearly zero; returns the milliseconds of its backward."""
    step = whole_step(scene, camera)

    def run() -> float:
        *_, blend_backward, update = step()
        return blend_backward + update

    return run


def _page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    speed = result["speed"]
    lines = [f"{result['scene']}, {result['splats']:,} splats, {result['size']}, "]
    lines[0] += f"{result['bytes'] / 1e6:.1f} MB stored for a view, "
    lines[0] += f"{result['cache'] / 1e6:.0f} MB if the derivative were stored"
    head = ["", "ms", "range", "to one render", "to backward", "at most"]
    rows = []
    for name, times in speed.items():
        ratios = [times["median"] / speed[x]["median"] for x in ("one render", "backward")]
        beside, bar = BARS.get(name, ("", 0.0))
        most = f"{bar} of {beside}" if bar else ""
        rows.append([name, number(times["median"]), spread(times), *map(number, ratios), most])
    return "\n".join([*lines, "", markdown(head, rows)])


if __name__ == "__main__":
    main()
