"""The command `bench`: how fast this machine is, on a generated scene."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lumigraph.app.machine import cores, versions
from lumigraph.datasets import Capture, Frame
from lumigraph.kernels import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN, _native
from lumigraph.kernels.splats.reference import rotation_matrices
from lumigraph.recon import Plan, Step, fit_splats, start_fit
from lumigraph.recon.splats.morton import morton_order
from lumigraph.recon.splats.state import no_pull
from lumigraph.render import Camera, Similarity, Splats, render_color, to_bytes
from lumigraph.render.render import project_splats

Size = tuple[int, int]
"""Width and height of an image in pixels."""

Progressed = Callable[[int, int], None]
"""Called with the number of visits that are done, and of all visits."""

SPLATS = 100_000
SIZES: tuple[Size, ...] = ((1280, 720), (640, 360))
"""The sizes of the renderings of `lumigraph bench`; it trains at the first of them."""

SCENE_VERSION = 1
"""The version of the generated scene: raise it with every change of the scene, because figures of
two scenes do not compare."""

SCALE = 0.0055
"""Median size of a splat in a generated scene of 100,000, in units of the scene.

With this size, 26 splats are blended in a pixel of 1280x720 and 53,000 are in view, as in a scene
made from the points of a photographed garden.
"""

VISIT_SECONDS = 1.0
"""A subject that takes longer is timed once in each round; others several times."""


@dataclass(frozen=True)
class Subject:
    """A piece of work to be timed.

    Attributes:
        name: The name for the reader.
        run: Does the work once. Returns None, or the milliseconds if it measures itself.
        prepare: Called before the work of each round, outside the measured time.
    """

    name: str
    run: Callable[[], float | None]
    prepare: Callable[[], object] | None = None


@dataclass(frozen=True)
class Measured:
    """The result of `measured`.

    Attributes:
        times: Milliseconds of every run, by the name of the subject: "WxH" of a rendering, or
            "train".
        scene: How the scene was made, and its load.
        splats: The number of splats in the scene.
    """

    times: dict[str, list[float]]
    scene: dict[str, Any]
    splats: int


def measured(
    *,
    splats: int = SPLATS,
    sizes: Sequence[Size] = SIZES,
    rounds: int = 5,
    progress: Progressed | None = None,
) -> Measured:
    """Times rendering and training on a generated scene.

    Args:
        splats: The number of splats of the scene.
        sizes: The sizes of the renderings; it trains at the first of them.
        rounds: The number of rounds. Each visits every subject, so that other programs on the
            machine disturb all subjects alike.
        progress: Called after every visit.
    """
    scene = generated_scene(splats)
    cameras = {f"{width}x{height}": generated_camera(width, height) for width, height in sizes}
    first = next(iter(cameras.values()))
    subjects = [rendering(name, scene, camera) for name, camera in cameras.items()]
    subjects.append(training("train", training_steps(copied(scene), first)))
    times = interleaved(subjects, rounds=rounds, progress=progress)
    facts = {
        "made_by": f"lumigraph bench, version {SCENE_VERSION} of the scene",
        "seed": 0,
        "splats": splats,
        "degree": scene.degree,
        "train_size": next(iter(cameras)),
        "load": {name: load_of(scene, camera) for name, camera in cameras.items()},
    }
    return Measured(times, facts, splats)


def bench_json(found: Measured) -> dict[str, Any]:
    """The medians under their names, the machine, and the scene."""
    figures = {
        f"render.fps_{name}_{found.splats // 1000}k": round(1000 / median(times), 2)
        for name, times in found.times.items()
        if name != "train"
    }
    step = round(median(found.times["train"]), 2)
    return {**figures, "train.step_ms": step, "machine": machine(), "scene": found.scene}


def bench_rows(found: Measured) -> list[tuple[str, str]]:
    """The result as a person reads it: a figure, then a line that explains it."""
    rows = []
    for name, times in found.times.items():
        rate, middle = 1000 / median(times), median(times)
        spread = f"({middle:.1f} ms, {min(times):.1f} to {max(times):.1f})"
        if name == "train":
            rows.append(("training", f"{rate:.1f} steps/s {spread}"))
            rows.append(("", f"the whole step, on a picture of {found.scene['train_size']}"))
        else:
            load = found.scene["load"][name]
            rows.append((f"rendering {name}", f"{rate:.1f} pictures/s {spread}"))
            meaning = f"{found.splats:,} splats of degree {found.scene['degree']}: "
            meaning += f"{load['visible']:,} in view, {load['blended_per_pixel']:.0f} in a pixel"
            rows.append(("", meaning))
    here = machine()
    facts = (here["processor"], f"{here['instruction_set']} kernels", f"{here['threads']} threads")
    rows.append(("machine", ", ".join(facts)))
    rows.append(("", "other programs share the machine: close them for the best figures"))
    return rows


def machine() -> dict[str, Any]:
    """The facts of this machine and process that affect the speed."""
    return {
        **versions(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "instruction_sets": _native.available_levels(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }


def interleaved(
    subjects: Sequence[Subject],
    *,
    rounds: int = 5,
    runs: int = 3,
    progress: Progressed | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of every run, by the subjects' names.

    All subjects take their turn in every round: first once to warm up, then up to `runs` times.
    """
    times: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for turn in range(rounds):
        for number, subject in enumerate(subjects, start=1):
            if subject.prepare is not None:
                subject.prepare()
            subject.run()
            begun = time.perf_counter()
            for _ in range(runs):
                times[subject.name].append(_milliseconds(subject))
                if time.perf_counter() - begun > VISIT_SECONDS:
                    break
            if progress is not None:
                progress(turn * len(subjects) + number, rounds * len(subjects))
    return times


def _milliseconds(subject: Subject) -> float:
    """The milliseconds of one run, measured by the subject itself or else here."""
    started = time.perf_counter()
    own = subject.run()
    return (time.perf_counter() - started) * 1e3 if own is None else own


def rendering(name: str, scene: Splats, camera: Camera) -> Subject:
    """The work of rendering the scene for the screen, without gradients."""

    def run() -> None:
        render_color(scene, camera)

    return Subject(name, run)


def training(name: str, steps: Iterator[Step]) -> Subject:
    """The work of the next step of a fit."""

    def run() -> None:
        next(steps)

    return Subject(name, run)


def training_steps(scene: Splats, camera: Camera) -> Iterator[Step]:
    """A fit of the scene to a picture of it with exchanged colours; it changes the scene.

    The fit is in the middle of the classic plan of 30,000 steps: it has all spherical harmonics,
    and density control gathers gradients, but does not act for about 90 steps.
    """
    picture = to_bytes(render_color(replace(scene, base=scene.base.roll(1, 1)), camera))
    points = scene.means[:1000].double()
    capture = Capture(
        name="a generated picture",
        train=(Frame("picture", camera, lambda: picture),),
        test=(),
        points=points,
        colors=torch.zeros(points.shape, dtype=torch.uint8),
        similarity=Similarity.identity(),
    )
    plan = Plan(steps=30_000)
    tensors = scene.tensors
    fit = replace(
        start_fit(capture, plan),
        step=plan.refine_stop - plan.refine_interval + 1,
        splats=scene,
        first={name: torch.zeros_like(value) for name, value in tensors.items()},
        second={name: torch.zeros_like(value) for name, value in tensors.items()},
        last=torch.zeros(len(scene), dtype=torch.int32),
        pull=no_pull(len(scene), scene.means.device),
    )
    return fit_splats(capture, fit)


def copied(scene: Splats) -> Splats:
    """The same splats in memory of their own."""
    return scene[torch.arange(len(scene))]


def generated_scene(count: int = SPLATS, *, seed: int = 0) -> Splats:
    """Random splats around a camera at zero, the same on every machine.

    The splats form a flat cloud that is densest in front of `generated_camera`, which sees about
    half of them. More splats are smaller ones, so that the load of a pixel stays the same.
    Opacities are uniform from 0.1 to 0.95; rotations and harmonics are random.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    opacities = 0.1 + 0.85 * uniform(count)
    size = math.log(SCALE * (SPLATS / count) ** (1 / 3))
    return Splats(
        means=normal(count, 3) * torch.tensor([1.3, 0.6, 1.1]) + torch.tensor([0.0, 0.1, 2.0]),
        quaternions=normal(count, 4),
        log_scales=size + 0.5 * normal(count, 1) + 0.4 * normal(count, 3),
        opacity_logits=opacities.logit(),
        base=normal(count, 3),
        rest=0.1 * normal(count, 15, 3),
    )


def generated_camera(width: int, height: int) -> Camera:
    """A camera at zero that looks along z, with a horizontal field of view of 68 degrees."""
    focal = 0.74 * width
    center = (width / 2, height / 2)
    return Camera(torch.eye(4, dtype=torch.float64), (focal, focal), center, width, height)


def resampled(scene: Splats, count: int, *, seed: int = 0) -> Splats:
    """The scene with `count` splats: each one split into several, or a random choice of them.

    The parts of a split splat are drawn from its own Gaussian and keep its opacity. The scales
    change by (count / splats)^(-1/3), so that the splats fill the same space. Split splats are
    sorted as a fit sorts its splats, neighbours together.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = -(-count // len(scene))
    # The choice keeps the order of the scene: neighbours in memory stay neighbours.
    chosen = torch.randperm(parts * len(scene), generator=generator)[:count].sort().values
    grown = scene[chosen // parts]
    if parts > 1:
        # In blocks of rows: all rotations at once would take three times the memory.
        spread = torch.randn(count, 3, generator=generator) * grown.log_scales.exp()
        offsets = torch.empty_like(grown.means)
        for start in range(0, count, SPLATS):
            rows = slice(start, start + SPLATS)
            rotations = rotation_matrices(grown.quaternions[rows])
            offsets[rows] = (rotations @ spread[rows, :, None])[..., 0]
        grown = replace(grown, means=grown.means + offsets)
    grown = replace(grown, log_scales=grown.log_scales - math.log(count / len(scene)) / 3)
    return grown[morton_order(grown.means)] if parts > 1 else grown


@torch.no_grad()
def load_of(scene: Splats, camera: Camera, *, tile: int = 16) -> dict[str, Any]:
    """The number of splats that the camera sees, and how many a pixel blends on average.

    The splats of a pixel are counted in one random pixel of every tile, as the rasterizer is
    defined.
    """
    seen = project_splats(scene, camera).tensors()
    order = seen.depths.argsort()
    means, conics, opacities, extents = (
        value[order] for value in (seen.means, seen.conics, seen.opacities, seen.extents)
    )
    generator = torch.Generator().manual_seed(0)
    left = torch.arange(0, camera.width, tile)
    pixels = blended = 0
    for top in range(0, camera.height, tile):
        x = (left + torch.randint(tile, left.shape, generator=generator)).clamp(
            max=camera.width - 1
        )
        y = min(top + int(torch.randint(tile, (), generator=generator)), camera.height - 1)
        near = (means[:, 1] - y - 0.5).abs() <= extents[:, 1]
        dx = x[:, None] + 0.5 - means[near, 0]
        dy = y + 0.5 - means[near, 1]
        xx, xy, yy = conics[near].unbind(1)
        alpha = opacities[near] * (-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy).exp()
        alpha = torch.where(alpha >= ALPHA_MIN, alpha.clamp(max=ALPHA_MAX), 0)
        through = (1 - alpha).cumprod(1) / (1 - alpha)
        blended += int(((alpha > 0) & (through > TRANSMITTANCE_MIN)).sum())
        pixels += len(x)
    return {"visible": len(order), "blended_per_pixel": round(blended / pixels, 1)}
