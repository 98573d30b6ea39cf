"""The stages of rendering and training, each with its amount of work and the limit that bounds it.

To add a stage, or to follow a change of the kernels, change the list in `stages`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from time import perf_counter
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lumigraph.app.commands.bench import Subject, load_of
from lumigraph.kernels import Adam, Moments, Parameters, Pull, Rates, _native
from lumigraph.kernels.images import cpu as images_cpu
from lumigraph.kernels.splats import cpu as splats_cpu
from lumigraph.render import Camera, Splats


class Stage(NamedTuple):
    """One stage of a training step, and its amount of work.

    Attributes:
        name: The name of the stage.
        run: Takes a whole step, and returns the milliseconds of this stage.
        amount: The amount of work, in `unit`.
        unit: The least bytes to read and write; pairs of a pixel and a splat that is blended in it;
            or pairs of a tile and a splat that touches it.
        limit: The name of the machine's figure that bounds the stage, or None if none is measured.
    """

    name: str
    run: Callable[[], float]
    amount: float
    unit: Literal["bytes", "blended pairs", "tile pairs"]
    limit: str | None


RECORD, CELL, SLOT = 64, 8, 48
"""Bytes of a step: for each splat in view a record; for each tile that the splat touches a cell
forward and a slot backward."""

LOSS = 3
"""Index of the loss among the stages of a step."""


def stages(scene: Splats, camera: Camera) -> list[Stage]:
    """The stages of a training step of the scene in one view, in order."""
    lists = splats_cpu.project(_parameters(scene), **_look(scene, camera)).native
    in_view, pixels = lists.rows, camera.width * camera.height
    blended = load_of(scene, camera)["blended_per_pixel"] * pixels
    shape = _row(scene.means, scene.quaternions, scene.log_scales, scene.opacity_logits)
    parameters = _row(*scene.tensors.values())
    prepared = len(scene) * shape + in_view * (parameters - shape + RECORD) + lists.entries * CELL
    # Slots are read; parameters and both moments are read and written.
    moved = lists.entries * SLOT + in_view * 6 * parameters
    step = whole_step(scene, camera)
    amounts: list[
        tuple[str, float, Literal["bytes", "blended pairs", "tile pairs"], str | None]
    ] = [
        ("project, shade, list tiles", prepared, "bytes", "memory"),
        ("sort into tiles", lists.entries, "tile pairs", None),
        ("blend", blended, "blended pairs", "blend"),
        # The picture and the 8-bit photo are read, the gradient by the picture is written.
        ("loss and its gradient", pixels * (12 + 3 + 12), "bytes", "memory"),
        ("blend backward", blended, "blended pairs", "blend backward"),
        ("project backward, Adam", moved, "bytes", "memory"),
    ]
    return [
        Stage(name, _part_of(step, index), amount, unit, limit)
        for index, (name, amount, unit, limit) in enumerate(amounts)
    ]


def _part_of(step: Callable[[], list[float]], index: int) -> Callable[[], float]:
    return lambda: step()[index]


def _row(*tensors: Tensor) -> int:
    """Bytes of one splat in all these tensors."""
    return sum(tensor[:1].numel() * tensor.element_size() for tensor in tensors)


def _parameters(scene: Splats) -> Parameters:
    return Parameters(*scene.tensors.values())


def _look(scene: Splats, camera: Camera) -> dict[str, Any]:
    return {"view": camera.view, "degree": scene.degree, "filter": scene.filter}


def whole_step(scene: Splats, camera: Camera) -> Callable[[], list[float]]:
    """A training step with rates of nearly zero; it returns the milliseconds of its stages.

    It works on a copy of the scene. As in most steps of a fit, it also sums the gradients for
    density control.
    """
    splats = Parameters(*(value.clone() for value in scene.tensors.values()))
    first, second = (Parameters(*map(torch.zeros_like, splats)) for _ in range(2))
    pull = Pull(*(torch.zeros(len(scene)) for _ in range(2)))
    moments = Moments(first, second, torch.zeros(len(scene), dtype=torch.int32))
    generator = torch.Generator().manual_seed(0)
    shape = (camera.height, camera.width, 3)
    photo = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    adam, look = Adam(Rates(*[1e-20] * len(splats)), 1), _look(scene, camera)

    def run() -> list[float]:
        records = splats_cpu.project(splats, **look)
        laps = [perf_counter()]
        picture = splats_cpu.blend(records)
        laps.append(perf_counter())
        _, gradient = images_cpu.loss(picture.features, photo, ssim_weight=0.2)
        laps.append(perf_counter())
        by_records = picture.vjp(gradient, absolute=True)
        laps.append(perf_counter())
        splats_cpu.update(splats, moments, by_records, adam, pull=pull)
        laps.append(perf_counter())
        after = [end - start for start, end in pairwise(laps)]
        return [second * 1e3 for second in (*records.native.seconds, *after)]

    return run


def blends(scene: Splats, camera: Camera, threads: list[int]) -> list[Subject]:
    """Subjects named "avx2, 1 thread": the blend stage by instruction set and threads."""
    image = torch.empty(camera.height, camera.width, 3)
    transmittance = torch.empty(camera.height, camera.width)
    subjects, before = [], torch.get_num_threads()
    with same_level():
        for level in _native.available_levels():
            _native.select_level(level)
            for count in threads:
                torch.set_num_threads(count)
                lists = splats_cpu.project(_parameters(scene), **_look(scene, camera)).native

                def run(lists: _native.Records = lists) -> None:
                    lists.blend(None, (), image, transmittance, None, None)

                name = f"{level}, {count} thread" + "s" * (count > 1)
                subjects.append(Subject(name, run, prepare=_selecting(level)))
    torch.set_num_threads(before)
    return subjects


def _selecting(level: str) -> Callable[[], None]:
    return lambda: _native.select_level(level)


@contextmanager
def same_level() -> Iterator[None]:
    """Restores the selected instruction set at the end of the block."""
    before = _native.active_level()
    try:
        yield
    finally:
        _native.select_level(before)
