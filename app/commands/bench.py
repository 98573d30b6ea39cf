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

Told = Callable[[int, int], None]
"""Called with the number of visits that are done, and of all visits."""

SPLATS = 100_000
SIZES: tuple[Size, ...] = ((1280, 720), (640, 360))
"""What `lumigraph bench` renders; it trains at the first of the sizes."""

SCENE_VERSION = 1
"""Of the generated scene: raise it whenever the scene changes, for then figures do not compare."""

SCALE = 0.0055
"""Median size of a splat of the generated scene if there are 100,000, in units of the scene.

With it 26 splats are blended in a pixel of 1280x720 and 53,000 are in view, as in a scene made
from the points of a photographed garden.
"""

VISIT_SECONDS = 1.0
"""A subject that takes longer is timed once in a round, not several times."""


@dataclass(frozen=True)
class Subject:
    """Something whose time is measured.

    Attributes:
        name: What a reader calls it.
        run: Does it once. Returns None, or the milliseconds if it measures itself.
        prepare: What to do before it is its turn, unmeasured.
    """

    name: str
    run: Callable[[], float | None]
    prepare: Callable[[], object] | None = None


@dataclass(frozen=True)
class Measured:
    """What `measured` found.

    Attributes:
        times: Milliseconds of every run, by the name of the subject: "WxH" of a rendering, or
            "train".
        scene: How the scene was made, and what load it is.
        splats: In the scene.
    """

    times: dict[str, list[float]]
    scene: dict[str, Any]
    splats: int


def measured(
    *,
    splats: int = SPLATS,
    sizes: Sequence[Size] = SIZES,
    rounds: int = 5,
    progress: Told | None = None,
) -> Measured:
    """Renders and trains on a generated scene, and takes the times.

    Args:
        splats: Of the scene.
        sizes: Of the renderings; training is at the first.
        rounds: Each visits every subject, so that whatever else the machine does hits all alike.
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
    """The same as a person reads it: a figure, and a line that explains it."""
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
    rows.append(("", "what else runs here shares it: close other programs for the best figures"))
    return rows


def machine() -> dict[str, Any]:
    """What bears on speed here."""
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
    progress: Told | None = None,
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
    """The time of one run, as it says itself or from the outside."""
    started = time.perf_counter()
    own = subject.run()
    return (time.perf_counter() - started) * 1e3 if own is None else own


def rendering(name: str, scene: Splats, camera: Camera) -> Subject:
    """Rendering the scene as for the screen, without gradients."""

    def run() -> None:
        render_color(scene, camera)

    return Subject(name, run)


def training(name: str, steps: Iterator[Step]) -> Subject:
    """The next step of a fit."""

    def run() -> None:
        next(steps)

    return Subject(name, run)


def training_steps(scene: Splats, camera: Camera) -> Iterator[Step]:
    """A fit of the scene, which it changes, to a picture of it with its colours exchanged.

    It stands in the middle of the classic long fit, with all harmonics, where density control still
    watches the splats; for about 90 steps it does not act.
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
    """Random splats around and before a camera at zero, the same on every machine.

    They lie in a flat cloud that is densest before `generated_camera`, which sees about half of
    them. Their size falls with their number, so that the load of a pixel does not depend on it.
    Opacities are uniform in 0.1 to 0.95, rotations and harmonics are random.
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
    """The scene with `count` splats: each split into several, or a random choice of them.

    Parts of a split splat lie where its own Gaussian drew them and keep its opacity. The scales
    change by (count / splats)^(-1/3), so that the splats fill the same space. What was split is put
    into the order in which a fit leaves its splats, neighbours together.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = -(-count // len(scene))
    # A choice in the order of the scene: neighbours in memory stay neighbours.
    chosen = torch.randperm(parts * len(scene), generator=generator)[:count].sort().values
    grown = scene[chosen // parts]
    if parts > 1:
        # Row by row: a third of the memory that all rotations at once would take.
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
    """How many splats the camera sees, and how many are blended in a pixel on average.

    The latter is counted in one random pixel of every tile, by the definition of the rasterizer.
    """
    footprints, _ = project_splats(scene, camera)
    seen = footprints.extents[:, 0] > 0
    order = footprints.depths[seen].argsort()
    means, conics, opacities, extents = (
        value[seen][order]
        for value in (footprints.means, footprints.conics, footprints.opacities, footprints.extents)
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
    return {"visible": int(seen.sum()), "blended_per_pixel": round(blended / pixels, 1)}
