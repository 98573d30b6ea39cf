"""The stages of rendering and training, each by itself, beside what the machine could do.

To add a stage, or to follow one that moved into another, change the list in `stages`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lumigraph.app.commands.bench import Subject, load_of
from lumigraph.kernels import _native
from lumigraph.render import Camera, Splats
from lumigraph.render.render import project_splats


class Stage(NamedTuple):
    """One stage, and how much it has to do.

    Attributes:
        name: Of the stage.
        run: Does a whole step, and tells how many milliseconds of it were this stage's.
        amount: How many of `unit` it takes.
        unit: Bytes that must be read and written at least; pairs of a pixel and a splat that is
            blended in it; pairs of a tile and a splat that touches it.
        limit: The machine's figure that bounds it, by name, or None if none is measured.
    """

    name: str
    run: Callable[[], float]
    amount: float
    unit: Literal["bytes", "blended pairs", "tile pairs"]
    limit: str | None


RECORD, CELL, SLOT = 64, 8, 48
"""Bytes that a step keeps of a splat in view, and of a tile it touches on the way out and back."""

LOSS = 3
"""Which of a step's stages is the loss."""


def stages(scene: Splats, camera: Camera) -> list[Stage]:
    """What happens in a training step of the scene in one view, in order, as the step runs it."""
    with torch.no_grad():
        seen, _ = project_splats(scene, camera)
    lists = _native.tile_lists(*seen, (camera.width, camera.height), torch.get_num_threads())
    in_view, pixels = lists.records, camera.width * camera.height
    blended = load_of(scene, camera)["blended_per_pixel"] * pixels
    shape = _row(scene.means, scene.quaternions, scene.log_scales, scene.opacity_logits)
    parameters = _row(*scene.tensors.values())
    prepared = len(scene) * shape + in_view * (parameters - shape + RECORD) + lists.entries * CELL
    # Slots come in; parameters and both moments come in and go out.
    moved = lists.entries * SLOT + in_view * 6 * parameters
    step = whole_step(scene, camera)
    amounts: list[
        tuple[str, float, Literal["bytes", "blended pairs", "tile pairs"], str | None]
    ] = [
        ("project, shade, list tiles", prepared, "bytes", "memory"),
        ("sort into tiles", lists.entries, "tile pairs", None),
        ("blend", blended, "blended pairs", "blend"),
        # Picture and 8-bit photo come in, the gradient of the picture goes out.
        ("loss and its gradient", pixels * (12 + 3 + 12), "bytes", "memory"),
        ("blend backward", blended, "blended pairs", "blend backward"),
        ("gather, project backward, Adam", moved, "bytes", "memory"),
    ]
    return [
        Stage(name, _part_of(step, index), amount, unit, limit)
        for index, (name, amount, unit, limit) in enumerate(amounts)
    ]


def _part_of(step: Callable[[], list[float]], index: int) -> Callable[[], float]:
    return lambda: step()[index]


def _row(*tensors: Tensor) -> int:
    """Bytes that one splat takes in all of these."""
    return sum(tensor[:1].numel() * tensor.element_size() for tensor in tensors)


def whole_step(scene: Splats, camera: Camera) -> Callable[[], list[float]]:
    """A step of a copy of the scene that moves it by nothing, and the milliseconds of its stages.

    What density control wants to know is gathered, as in most steps of a fit.
    """
    splats = tuple(value.clone() for value in scene.tensors.values())
    first, second = (tuple(map(torch.zeros_like, splats)) for _ in range(2))
    pull = tuple(torch.zeros(len(scene)) for _ in range(2))
    last = torch.zeros(len(scene), dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    shape = (camera.height, camera.width, 3)
    photo = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    position, threads = camera.position.tolist(), torch.get_num_threads()
    numbers = (*camera.view.world_to_camera, *camera.view.focal, *camera.view.center)

    def run() -> list[float]:
        _, seconds = _native.descend(
            splats,
            first,
            second,
            (*numbers, camera.view.near),
            (camera.width, camera.height),
            scene.filter == "antialiased",
            position,
            scene.degree,
            (),
            photo,
            None,
            0.2,
            [1e-20] * len(splats),
            (0.9, 0.999, 1e-15),
            1.0,
            1,
            last,
            pull,
            None,
            threads,
        )
        return [second * 1e3 for second in seconds]

    return run


def _blending(lists: _native.TileLists, shown: Tensor, size: tuple[int, int]) -> Callable[[], None]:
    image, transmittance = torch.empty(size[1], size[0], 3), torch.empty(size[1], size[0])
    return lambda: _native.blend(lists, shown, (), image, transmittance, None)


def blends(scene: Splats, camera: Camera, threads: list[int]) -> list[Subject]:
    """The blend stage on every instruction set and number of threads: "avx2, 1 thread"."""
    size = (camera.width, camera.height)
    with torch.no_grad():
        seen, shown = project_splats(scene, camera)
    subjects = []
    with same_level():
        for level in _native.available_levels():
            _native.select_level(level)
            for count in threads:
                lists = _native.tile_lists(*seen, size, count)
                name = f"{level}, {count} thread" + "s" * (count > 1)
                run = _blending(lists, shown, size)
                subjects.append(Subject(name, run, prepare=_selecting(level)))
    return subjects


def _selecting(level: str) -> Callable[[], None]:
    return lambda: _native.select_level(level)


@contextmanager
def same_level() -> Iterator[None]:
    """Whatever instruction set is selected within, the one before is in use again afterwards."""
    before = _native.active_level()
    try:
        yield
    finally:
        _native.select_level(before)
