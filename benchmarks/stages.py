"""The stages of rendering and training, each by itself, beside what the machine could do.

To add a stage, or to follow one that moved into another, change the list in `stages`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lumigraph.app.bench import Subject, load_of
from lumigraph.kernels import Footprints, _native, cpu
from lumigraph.render import Camera, Splats
from lumigraph.render.render import project_splats


class Stage(NamedTuple):
    """One stage, and how much it has to do.

    Attributes:
        name: Of the stage.
        run: Does it once.
        amount: How many of `unit` it takes.
        unit: Bytes that must be read and written at least; pairs of a pixel and a splat that is
            blended in it; pairs of a tile and a splat that touches it.
        limit: The machine's figure that bounds it, by name, or None if none is measured.
    """

    name: str
    run: Callable[[], object]
    amount: float
    unit: Literal["bytes", "blended pairs", "tile pairs"]
    limit: str | None


def stages(scene: Splats, camera: Camera) -> list[Stage]:
    """What happens in a training step of the scene in one view, in order."""
    view, size = camera.view, (camera.width, camera.height)
    with torch.no_grad():
        seen, shown = project_splats(scene, camera)
    visible = seen.extents[:, 0] > 0
    geometry = (scene.means, scene.quaternions, scene.log_scales, scene.opacity_logits)
    colors = (scene.means, scene.base, scene.rest)
    lists = _native.tile_lists(*seen, size, torch.get_num_threads())

    splats, in_view, pixels = len(scene), int(visible.sum()), size[0] * size[1]
    blended = load_of(scene, camera)["blended_per_pixel"] * pixels
    footprint, parameters = _row(*seen), _row(*scene.tensors.values())
    # Parameters and gradients of what is in view come in, gradients of all splats go out.
    unprojected = in_view * (parameters + footprint + _row(shown)) + splats * parameters
    return [
        Stage(
            "project",
            lambda: cpu.project(*geometry, view=view, filter=scene.filter),
            splats * (_row(*geometry) + footprint),
            "bytes",
            "memory",
        ),
        Stage(
            "harmonics",
            lambda: cpu.harmonics(*colors, view=view, degree=scene.degree, visible=visible),
            in_view * _row(*colors, shown),
            "bytes",
            "memory",
        ),
        Stage(
            "tile lists",
            lambda: _native.tile_lists(*seen, size, torch.get_num_threads()),
            lists.entries,
            "tile pairs",
            None,
        ),
        Stage("blend", _blending(lists, shown, size), blended, "blended pairs", "blend"),
        # Picture and 8-bit photo come in, the gradient of the picture goes out.
        Stage("loss and its gradient", _loss(size), pixels * (12 + 3 + 12), "bytes", "memory"),
        Stage(
            "blend backward and gather",
            _unblending(seen, shown, size),
            blended,
            "blended pairs",
            "blend backward",
        ),
        Stage(
            "projection and harmonics backward",
            _unprojecting(scene, camera),
            unprojected,
            "bytes",
            "memory",
        ),
        # Parameters and both moments come in and go out, gradients come in.
        Stage("Adam", _adam(scene), splats * parameters * 7, "bytes", "memory"),
    ]


def _row(*tensors: Tensor) -> int:
    """Bytes that one splat takes in all of these."""
    return sum(tensor[:1].numel() * tensor.element_size() for tensor in tensors)


def _blending(lists: _native.TileLists, shown: Tensor, size: tuple[int, int]) -> Callable[[], None]:
    image, transmittance = torch.empty(size[1], size[0], 3), torch.empty(size[1], size[0])
    return lambda: _native.blend(lists, shown, (), image, transmittance, None)


def _unblending(
    seen: Footprints, shown: Tensor, size: tuple[int, int]
) -> Callable[[], tuple[Tensor, ...]]:
    """Backward through the lists and what the forward pass left, again and again."""
    leaves = [value.clone().requires_grad_() for value in (*seen[:3], shown)]
    footprints = Footprints(leaves[0], leaves[1], leaves[2], seen.depths, seen.extents)
    raster = cpu.rasterize(footprints, leaves[3], width=size[0], height=size[1], median=False)
    gradient = _noise(*raster.features.shape)
    return lambda: torch.autograd.grad(raster.features, leaves, gradient, retain_graph=True)


def _unprojecting(scene: Splats, camera: Camera) -> Callable[[], tuple[Tensor, ...]]:
    leaves = {key: value.clone().requires_grad_() for key, value in scene.tensors.items()}
    footprints, colors = project_splats(Splats(**leaves, filter=scene.filter), camera)
    outputs = [*footprints[:3], colors]
    gradients = [_noise(*output.shape) for output in outputs]
    inputs = list(leaves.values())
    return lambda: torch.autograd.grad(outputs, inputs, gradients, retain_graph=True)


def _loss(size: tuple[int, int]) -> Callable[[], object]:
    """As a fit computes it, with the gradient that it hands back."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(size[1], size[0], 3, generator=generator)
    photo = torch.randint(256, image.shape, dtype=torch.uint8, generator=generator)
    gradient, threads = torch.empty_like(image), torch.get_num_threads()
    return lambda: _native.loss(image, None, photo, 0.2, 1.0, gradient, threads)


def _adam(scene: Splats) -> Callable[[], None]:
    """One step of copies of all parameters, at a rate that leaves them where they are."""
    state = [
        (value.clone(), _noise(*value.shape), torch.zeros_like(value), torch.zeros_like(value))
        for value in scene.tensors.values()
    ]

    def run() -> None:
        for tensors in state:
            cpu.adam(*tensors, step=1, learning_rate=1e-12)

    return run


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-6


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
