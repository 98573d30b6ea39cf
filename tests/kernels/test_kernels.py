"""Every backend has the values and the gradients of the reference, on every instruction set.

The reference works in float64 on what the backend gets in float32.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from parts import Parts, plain_view, seen_of
from torch import Tensor

from lumigraph.kernels import (
    ALPHA_MAX,
    Adam,
    Blocks,
    Filter,
    Footprints,
    Look,
    Moments,
    Parameters,
    Pull,
    Rates,
    Seen,
    Target,
    View,
    Window,
)
from lumigraph.kernels._native import active_level, available_levels, select_level
from lumigraph.kernels.images import cpu as images_cpu
from lumigraph.kernels.images import cuda as images_cuda
from lumigraph.kernels.images import reference as images_reference
from lumigraph.kernels.splats import cpu as splats_cpu
from lumigraph.kernels.splats import cuda as splats_cuda
from lumigraph.kernels.splats import reference
from lumigraph.kernels.splats.composed import REFERENCE
from lumigraph.kernels.splats.types import BLOCK_DAMPING, FARTHEST_STEP

cpu = Parts(splats_cpu, images_cpu)
cuda = Parts(splats_cuda.BACKEND, images_cuda)
definition = Parts(REFERENCE, images_reference)


class Machine(NamedTuple):
    """A backend and what is particular to it."""

    kernels: Parts
    device: str
    alpha_max: float
    """gsplat has this constant in its source, and it is not ours."""
    extent_step: float
    """Extents may be larger by this many pixels."""


NEEDS_GSPLAT = [
    pytest.mark.cuda,
    pytest.mark.skipif(splats_cuda.probe() is not None, reason=str(splats_cuda.probe())),
]


@pytest.fixture(
    params=[
        *(f"cpu-{level}" for level in available_levels()),
        pytest.param("cuda", marks=NEEDS_GSPLAT),
    ]
)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if request.param == "cuda":
        yield Machine(cuda, "cuda", 0.999, 1.0)
        return
    before = active_level()
    select_level(request.param.removeprefix("cpu-"))
    yield Machine(cpu, "cpu", ALPHA_MAX, 0.0)
    select_level(before)


# Scenes --------------------------------------------------------------------------------------

NEAR = 0.5
IDENTITY = (1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
TURNED = (0.8, 0, -0.6, 0.1, 0.36, 0.8, 0.48, -0.2, 0.48, -0.6, 0.64, 0.3)


@dataclass(frozen=True)
class Scene:
    """Splats in float32 and a view of them; the filter is the test's choice."""

    means: Tensor
    quaternions: Tensor
    log_scales: Tensor
    logits: Tensor
    base: Tensor
    rest: Tensor
    view: View


def scatter(
    count: int,
    *,
    size: tuple[int, int] = (33, 17),
    scale: float = -2.0,
    spread: float = 1.0,
    pose: tuple[float, ...] = TURNED,
) -> Scene:
    """Splats about 3 units before a camera; `spread` 1 about fills the image."""
    chance = torch.Generator().manual_seed(count)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=chance)

    width, height = size
    focal = 1.1 * max(size)
    span = torch.tensor([width / focal, height / focal, 1.0])
    local = spread * span * normal(count, 3).clamp(-2.5, 2.5) + torch.tensor([0.0, 0, 3])
    matrix = torch.tensor(pose).view(3, 4)
    return Scene(
        means=((local - matrix[:, 3]) @ matrix[:, :3]).contiguous(),
        quaternions=normal(count, 4),
        log_scales=scale + 0.4 * normal(count, 3),
        logits=1.5 * normal(count),
        base=normal(count, 3),
        rest=0.3 * normal(count, 15, 3),
        view=View(pose, (focal, 0.9 * focal), (0.47 * width, 0.55 * height), width, height, NEAR),
    )


def at_depths(depths: Tensor) -> Scene:
    """Splats at given depths before a camera that stands in the origin."""
    scene = scatter(len(depths), pose=IDENTITY)
    means = scene.means.clone()
    means[:, :2] *= (depths / means[:, 2])[:, None]
    means[:, 2] = depths
    return replace(scene, means=means)


def on_the_near_plane() -> Scene:
    """Splats on the near plane, and on the next numbers before and behind it."""
    near = torch.full((15,), NEAR)
    near[5:10] = torch.nextafter(near[5:10], torch.tensor(0.0))
    near[10:] = torch.nextafter(near[10:], torch.tensor(1.0))
    scene = at_depths(near)
    return replace(scene, log_scales=scene.log_scales - 1)


def beside() -> Scene:
    """Large splats far out of the field of view, some of which reach into the image."""
    scene = at_depths(torch.linspace(1, 4, 40))
    far = scene.means * torch.tensor([12.0, 12.0, 1.0])
    return replace(scene, means=far, log_scales=scene.log_scales + 2.5)


def shaped(log_scales: tuple[float, float, float]) -> Scene:
    scene = scatter(40)
    return replace(scene, log_scales=torch.tensor(log_scales).repeat(40, 1))


def with_quaternions_of(length: float) -> Scene:
    scene = scatter(17)
    quaternions = length * torch.nn.functional.normalize(scene.quaternions, dim=1)
    return replace(scene, quaternions=quaternions)


def with_logit(logit: float) -> Scene:
    """Every second splat has this opacity."""
    scene = scatter(60)
    return replace(scene, logits=torch.where(torch.arange(60) % 2 == 0, logit, scene.logits))


SCENES: dict[str, Callable[[], Scene]] = {
    "no splat": lambda: scatter(0, size=(5, 40)),
    "one splat": lambda: scatter(1, spread=0.1),
    "one pixel": lambda: scatter(17, size=(1, 1), scale=0),
    "one tile": lambda: scatter(17, size=(16, 16)),
    "seventeen": lambda: scatter(17),
    "a narrow image": lambda: scatter(60, size=(5, 40), scale=-1.5),
    "a crowd": lambda: scatter(100_003, scale=-3.0, spread=3.0),
    "behind and before": lambda: at_depths(torch.linspace(-4, 4, 80)),
    "on the near plane": on_the_near_plane,
    "beside": beside,
    "huge": lambda: scatter(17, scale=2.0),
    "tiny": lambda: scatter(300, scale=-7.0),
    "needles": lambda: shaped((-0.5, -9.0, -8.0)),
    "sheets": lambda: shaped((-1.0, -1.5, -14.0)),
    "short quaternions": lambda: with_quaternions_of(1e-9),
    "long quaternions": lambda: with_quaternions_of(1e9),
    "opaque": lambda: with_logit(20.0),
    "transparent": lambda: with_logit(-20.0),
    "a wide image": lambda: scatter(60, size=(300, 20), scale=0.0),
    # Depths far enough apart that they have one order in float32 and in float64.
    "several chunks": lambda: at_depths(torch.linspace(1, 4, 1_100).view(4, -1).T.flatten()),
    "one depth": lambda: at_depths(torch.full((60,), 2.0)),
}


@functools.cache
def scene_of(name: str) -> Scene:
    return SCENES[name]()


each_scene = pytest.mark.parametrize("name", SCENES)
each_filter = pytest.mark.parametrize("filter", ["classic", "antialiased"])


# Comparisons ---------------------------------------------------------------------------------


def assert_close_image(actual: Tensor, expected: Tensor) -> None:
    """2e-4 of the range; 1 / 255 of it at up to 0.1 % of the pixels. [height, width, ...]"""
    assert actual.dtype == torch.float32
    assert actual.shape == expected.shape
    span = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    difference = (actual.cpu().double() - expected).abs().flatten(0, 1) / span
    difference = difference.view(len(difference), -1).amax(1)
    assert difference.amax() <= 1 / 255
    assert (difference > 2e-4).sum() <= 0.001 * len(difference)


def assert_close_gradient(actual: Tensor | None, expected: Tensor | None, what: str = "") -> None:
    """1e-3 of the largest entry, and 1e-4 in norm."""
    assert actual is not None, what
    assert expected is not None, what
    assert actual.shape == expected.shape, what
    if not expected.numel():
        return
    difference = actual.cpu().double() - expected.double()
    assert difference.abs().max() <= 1e-3 * expected.abs().max(), what
    assert difference.norm() <= 1e-4 * expected.norm(), what


def noise(*shape: int, seed: int = 0) -> Tensor:
    """What comes down from a loss: random, so that no symmetry hides an error. float64"""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def leaves(tensors: tuple[Tensor, ...], like: Tensor | str = "cpu") -> list[Tensor]:
    """Copies to derive by, on a device or of a type."""
    return [tensor.detach().clone().to(like).requires_grad_() for tensor in tensors]


DOUBLE = torch.zeros(0, dtype=torch.float64)


def gradients(outputs: tuple[Tensor, ...], inputs: list[Tensor], seed: int = 0) -> list[Tensor]:
    """Of the outputs times noise to the inputs."""
    loss = sum((o * noise(*o.shape, seed=seed + i).to(o)).sum() for i, o in enumerate(outputs))
    assert isinstance(loss, Tensor)
    return list(torch.autograd.grad(loss, inputs, retain_graph=True))


# Projection ----------------------------------------------------------------------------------


def parameters(scene: Scene) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return scene.means, scene.quaternions, scene.log_scales, scene.logits


@functools.cache
def true_footprints(name: str, filter: Filter) -> tuple[Footprints, list[Tensor]]:
    """The footprints, with their graph, and the inputs they depend on."""
    scene = scene_of(name)
    inputs = leaves(parameters(scene), DOUBLE)
    return reference.project(*inputs, view=scene.view, filter=filter), inputs


@each_filter
@each_scene
def test_project(machine: Machine, name: str, filter: Filter):
    scene = scene_of(name)
    expected, sources = true_footprints(name, filter)
    inputs = leaves(parameters(scene), machine.device)
    actual = machine.kernels.project(*inputs, view=scene.view, filter=filter)
    assert all(tensor.dtype == torch.float32 for tensor in actual)
    assert not actual.extents.requires_grad
    ours = Footprints(*(tensor.detach().cpu().double() for tensor in actual))
    theirs = Footprints(*(tensor.detach() for tensor in expected))
    seen = (ours.extents > 0).all(1)
    agree = seen == (theirs.extents > 0).all(1)
    assert (~agree).sum() <= 0.001 * len(agree)
    assert all(not tensor[~seen].any() for tensor in ours)
    both = seen & agree
    ours, theirs = (Footprints(*(t[both] for t in footprints)) for footprints in (ours, theirs))
    torch.testing.assert_close(ours.means, theirs.means, rtol=1e-5, atol=2e-4)
    largest = theirs.conics.abs().amax(1, keepdim=True)
    torch.testing.assert_close(ours.conics / largest, theirs.conics / largest, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.opacities, theirs.opacities, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.depths, theirs.depths, rtol=1e-6, atol=1e-6)
    assert (ours.extents >= 0.999 * theirs.extents - 1e-2).all()
    assert (ours.extents <= 1.001 * theirs.extents + 1e-2 + machine.extent_step).all()
    kept = tuple(tensor[both.to(tensor.device)] for tensor in actual[:4])
    truth = tuple(tensor[both] for tensor in expected[:4])
    names = ("means", "quaternions", "log_scales", "logits")
    for one, other, what in zip(
        gradients(kept, inputs),
        torch.autograd.grad(
            sum(((o * noise(*o.shape, seed=i)).sum() for i, o in enumerate(truth)), DOUBLE.sum()),
            sources,
            retain_graph=True,
        ),
        names,
        strict=True,
    ):
        assert_close_gradient(one, other, what)


# Harmonics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("spare", [0, 1])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("name", ["no splat", "one splat", "seventeen", "tiny"])
def test_harmonics(machine: Machine, name: str, degree: int, spare: int, hidden: bool):
    assert_same_harmonics(machine, name, degree, spare, hidden)


def test_harmonics_of_a_crowd(machine: Machine):
    assert_same_harmonics(machine, "a crowd", 3, 0, True)


def assert_same_harmonics(
    machine: Machine, name: str, degree: int, spare: int, hidden: bool
) -> None:
    scene = scene_of(name)
    stored = (min(3, degree + spare) + 1) ** 2 - 1
    tensors = (scene.means, scene.base, scene.rest[:, :stored].contiguous())
    # Those too faint to be seen are hidden.
    faint = noise(len(scene.means), seed=7) > 0 if hidden else torch.zeros(len(scene.means)).bool()
    logits = torch.where(faint, -20.0, 2.0).float()
    means, base, rest = inputs = leaves(tensors, machine.device)
    fixed = (scene.quaternions, scene.log_scales, logits)
    quaternions, log_scales, logits = (tensor.to(machine.device) for tensor in fixed)
    footprints, actual = machine.kernels.look(
        Parameters(means, quaternions, log_scales, logits, base, rest), Look(scene.view, degree)
    )
    visible = (footprints.extents[:, 0] > 0).cpu()
    assert not visible[faint].any()
    sources = leaves(tensors, DOUBLE)
    expected = reference.harmonics(*sources, view=scene.view, degree=degree, visible=visible)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.detach().cpu().double(), expected.detach(), rtol=0, atol=2e-4)
    assert not actual[~visible.to(actual.device)].any()
    # A colour is independent of what is not used: of the means, say, at degree 0.
    weights = noise(*actual.shape, seed=1)
    (expected * weights).sum().backward()
    (actual * weights.to(actual)).sum().backward()
    for one, other, what in zip(inputs, sources, ("means", "base", "rest"), strict=True):
        if other.grad is None:
            assert one.grad is None or not one.grad.any(), what
        else:
            assert_close_gradient(one.grad, other.grad, what)


# Blending ------------------------------------------------------------------------------------


class Blend(NamedTuple):
    """A blended image, and the gradients of its products with noise."""

    features: Tensor
    transmittance: Tensor
    median: Tensor
    gradients: list[Tensor]
    """To means, conics, opacities and features."""
    absolute: Tensor | None
    """For up to four channels, as the interface says."""


def blend_inputs(name: str, channels: int) -> tuple[Footprints, Tensor]:
    """Footprints and features in float32."""
    expected, _ = true_footprints(name, "classic")
    footprints = Footprints(*(tensor.detach().float() for tensor in expected))
    features = noise(len(footprints.means), channels, seed=3).sigmoid().float()
    return footprints, features


def blend(
    rasterize: Callable[..., Any],
    name: str,
    channels: int,
    background: tuple[float, ...] | None,
    like: Tensor | str,
) -> Blend:
    footprints, features = blend_inputs(name, channels)
    inputs = leaves((*footprints[:3], features), like)
    fixed = [tensor.to(like) for tensor in footprints[3:]]
    absolute = torch.zeros_like(inputs[0]) if channels <= 4 else None
    view = scene_of(name).view
    raster = rasterize(
        Footprints(*inputs[:3], *fixed),
        inputs[3],
        width=view.width,
        height=view.height,
        background=background,
        absolute_gradients=absolute,
    )
    derived = gradients(raster[:2], inputs) if len(features) else inputs
    image, transmittance, median = (tensor.detach() for tensor in raster)
    return Blend(image, transmittance, median, derived, absolute)


@functools.cache
def true_blend(
    name: str, channels: int, background: tuple[float, ...] | None, alpha_max: float
) -> Blend:
    rasterize = functools.partial(reference.rasterize, alpha_max=alpha_max)
    return blend(rasterize, name, channels, background, DOUBLE)


def assert_same_blend(
    machine: Machine, name: str, channels: int, background: tuple[float, ...] | None
) -> None:
    expected = true_blend(name, channels, background, machine.alpha_max)
    actual = blend(machine.kernels.rasterize, name, channels, background, machine.device)
    assert_close_image(actual.features, expected.features)
    assert_close_image(actual.transmittance, expected.transmittance)
    assert actual.median.dtype == torch.int32
    # Where half of the light is left after rounding, either neighbour is right.
    wrong = (actual.median.cpu() != expected.median).sum()
    assert wrong <= math.ceil(0.001 * expected.median.numel())
    names = ("means", "conics", "opacities", "features", "absolute")
    ours, theirs = [*actual.gradients, actual.absolute], [*expected.gradients, expected.absolute]
    for one, other, what in zip(ours, theirs, names, strict=True):
        if one is not None or other is not None:
            assert_close_gradient(one, other, what)


@each_scene
def test_rasterize(machine: Machine, name: str):
    assert_same_blend(machine, name, 3, (0.2, 0.9, 0.5))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("over", ["nothing", "background"])
def test_rasterize_any_number_of_channels(machine: Machine, channels: int, over: str):
    background = None if over == "nothing" else tuple(0.1 * i for i in range(channels))
    assert_same_blend(machine, "seventeen", channels, background)


def draw(machine: Machine, scene: Scene, inputs: list[Tensor], filter: Filter, like: Tensor | str):
    """The image of a whole scene, from its six parameters."""
    view = scene.view
    if like is DOUBLE:
        footprints = reference.project(*inputs[:4], view=view, filter=filter)
        visible = footprints.extents[:, 0] > 0
        colors = reference.harmonics(inputs[0], *inputs[4:], view=view, degree=3, visible=visible)
        rasterize: Callable[..., Any] = reference.rasterize
    else:
        footprints, colors = machine.kernels.look(Parameters(*inputs), Look(view, 3, filter))
        rasterize = machine.kernels.rasterize
    features = torch.cat([colors, footprints.depths[:, None]], 1)
    return rasterize(footprints, features, width=view.width, height=view.height)


@each_filter
@pytest.mark.parametrize("name", ["one splat", "seventeen", "a narrow image", "one tile"])
def test_a_whole_image_and_the_gradients_of_all_parameters(
    machine: Machine, name: str, filter: Filter
):
    scene = scene_of(name)
    tensors = (*parameters(scene), scene.base, scene.rest)
    sources, inputs = leaves(tensors, DOUBLE), leaves(tensors, machine.device)
    expected = draw(machine, scene, sources, filter, DOUBLE)
    actual = draw(machine, scene, inputs, filter, machine.device)
    assert_close_image(actual.features.detach(), expected.features.detach())
    assert_close_image(actual.transmittance.detach(), expected.transmittance.detach())
    for one, other in zip(
        gradients(actual[:2], inputs), gradients(expected[:2], sources), strict=True
    ):
        assert_close_gradient(one, other)


@pytest.mark.parametrize("chosen", range(4))
def test_each_gradient_is_the_same_alone(machine: Machine, chosen: int):
    footprints, features = blend_inputs("seventeen", 3)
    tensors = [tensor.to(machine.device).detach() for tensor in (*footprints[:3], features)]
    tensors[chosen].requires_grad_()
    fixed = [tensor.to(machine.device) for tensor in footprints[3:]]
    raster = machine.kernels.rasterize(
        Footprints(*tensors[:3], *fixed), tensors[3], width=33, height=17
    )
    (alone,) = gradients(raster[:2], [tensors[chosen]])
    together = blend(machine.kernels.rasterize, "seventeen", 3, None, machine.device)
    assert_close_gradient(alone, together.gradients[chosen])


@pytest.mark.parametrize("output", [0, 1], ids=["features", "transmittance"])
def test_gradients_of_one_output_alone(machine: Machine, output: int):
    def derived(rasterize: Callable[..., Any], like: Tensor | str) -> list[Tensor]:
        footprints, features = blend_inputs("seventeen", 3)
        inputs = leaves((*footprints[:3], features), like)
        fixed = [tensor.to(like) for tensor in footprints[3:]]
        raster = rasterize(Footprints(*inputs[:3], *fixed), inputs[3], width=33, height=17)
        loss = (raster[output] * noise(*raster[output].shape).to(raster[output])).sum()
        return list(torch.autograd.grad(loss, inputs, materialize_grads=True))

    rasterize = functools.partial(reference.rasterize, alpha_max=machine.alpha_max)
    for one, other in zip(
        derived(machine.kernels.rasterize, machine.device), derived(rasterize, DOUBLE), strict=True
    ):
        assert_close_gradient(one, other)


def test_absolute_gradients_add_up(machine: Machine):
    once = blend(machine.kernels.rasterize, "seventeen", 3, None, machine.device).absolute
    footprints, features = blend_inputs("seventeen", 3)
    inputs = leaves((*footprints[:3], features), machine.device)
    fixed = [tensor.to(machine.device) for tensor in footprints[3:]]
    total = torch.ones_like(inputs[0])
    raster = machine.kernels.rasterize(
        Footprints(*inputs[:3], *fixed), inputs[3], width=33, height=17, absolute_gradients=total
    )
    for _ in range(2):
        gradients((raster.features, raster.transmittance * 1), inputs[:1])
    assert once is not None
    torch.testing.assert_close(total.detach(), 1 + 2 * once, rtol=1e-5, atol=1e-6)


def test_what_needs_no_gradient_has_no_graph(machine: Machine):
    scene = scene_of("seventeen")
    tensors = (*parameters(scene), scene.base, scene.rest)
    inputs = [tensor.to(machine.device).detach() for tensor in tensors]
    raster = draw(machine, scene, inputs, "classic", machine.device)
    assert not any(tensor.requires_grad for tensor in raster)
    inputs[3].requires_grad_()
    raster = draw(machine, scene, inputs, "classic", machine.device)
    assert raster.features.requires_grad
    assert raster.transmittance.requires_grad
    assert not raster.median.requires_grad


def test_gradients_may_come_in_any_layout(machine: Machine):
    footprints, features = blend_inputs("seventeen", 3)
    weights = noise(3, 33, 17).to(torch.float32).to(machine.device)

    def gradient(strided: bool) -> Tensor:
        inputs = leaves((*footprints[:3], features), machine.device)
        fixed = [tensor.to(machine.device) for tensor in footprints[3:]]
        image = machine.kernels.rasterize(
            Footprints(*inputs[:3], *fixed), inputs[3], width=33, height=17
        ).features
        if strided:
            (image.permute(2, 1, 0) * weights).sum().backward()
        else:
            image.backward(weights.permute(2, 1, 0).contiguous())
        assert inputs[0].grad is not None
        return inputs[0].grad

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-5, atol=1e-6)


def test_inputs_may_come_in_any_layout(machine: Machine):
    scene = scene_of("seventeen")
    tensors = (*parameters(scene), scene.base, scene.rest)
    plain = leaves(tensors, machine.device)
    strided = [tensor.detach().mT.contiguous().mT for tensor in plain if tensor.ndim > 1]
    strided.insert(3, torch.stack([plain[3].detach()] * 2, 1)[:, 0])
    assert not any(tensor.is_contiguous() for tensor in strided)
    strided = [tensor.requires_grad_() for tensor in strided]
    one, other = (draw(machine, scene, t, "classic", machine.device) for t in (plain, strided))
    torch.testing.assert_close(one.features, other.features)
    for straight, turned in zip(
        gradients(one[:2], plain), gradients(other[:2], strided), strict=True
    ):
        torch.testing.assert_close(straight, turned, rtol=1e-5, atol=1e-6)


# Whole images and whole steps -----------------------------------------------------------------

RATES = Rates(1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3)
few_scenes = pytest.mark.parametrize(
    "name", ["no splat", "one splat", "seventeen", "one tile", "a wide image", "several chunks"]
)


@dataclass
class Fit:
    """What a step of Adam changes."""

    splats: Parameters
    first: Parameters
    second: Parameters
    last: Tensor
    pull: Pull

    @staticmethod
    def of(scene: Scene, like: Tensor | str, degree: int = 3) -> "Fit":
        """A fit that has not moved yet."""
        rest = scene.rest[:, : (degree + 1) ** 2 - 1]
        splats = Parameters(
            *(t.to(like, copy=True).contiguous() for t in (*parameters(scene), scene.base, rest))
        )
        first, second = (Parameters(*map(torch.zeros_like, splats)) for _ in range(2))
        last = torch.zeros_like(splats.opacity_logits, dtype=torch.int32)
        pull = Pull(*(torch.zeros_like(splats.opacity_logits) for _ in range(2)))
        return Fit(splats, first, second, last, pull)

    def descend(self, kernels: Parts, view: View, photo: Tensor, **options: Any) -> float:
        """One step towards a photo."""
        photo = photo.to(self.splats.means.device)
        target = Target(view, photo, **_taken(options, "background", "ssim_weight"))
        adam = Adam(**{"rates": RATES, **_taken(options, "rates", "step", "betas", "epsilon")})
        moments = Moments(self.first, self.second, options.pop("last", self.last))
        options = {"degree": 3, "pull": self.pull, **options}
        return kernels.descend(self.splats, moments, target, adam, **options)


def _taken(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of the options that are given, which are no longer among them."""
    return {name: options.pop(name) for name in names if name in options}


def photo_of(view: View, seed: int = 5) -> Tensor:
    """Noise. uint8 [height, width, 3]"""
    return (noise(view.height, view.width, 3, seed=seed).sigmoid() * 255).to(torch.uint8)


@each_filter
@few_scenes
@pytest.mark.parametrize("degree", [0, 3])
def test_paint(machine: Machine, name: str, filter: Filter, degree: int):
    scene = scene_of(name)
    options: dict[str, Any] = {
        "view": scene.view,
        "degree": degree,
        "filter": filter,
        "background": (0.1, 0.5, 0.9),
    }
    expected = definition.paint(Fit.of(scene, DOUBLE, degree).splats, **options)
    actual = machine.kernels.paint(Fit.of(scene, machine.device, degree).splats, **options)
    for one, other in zip(actual, expected, strict=True):
        assert_close_image(one, other)


@each_filter
@few_scenes
@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_descend(machine: Machine, name: str, filter: Filter, degree: int, weight: float):
    scene = scene_of(name)
    ours, theirs = Fit.of(scene, machine.device, degree), Fit.of(scene, DOUBLE, degree)
    options: dict[str, Any] = {"degree": degree, "filter": filter, "ssim_weight": weight}
    options |= {"background": (0.1, 0.5, 0.9), "step": 1, "last": None}
    photo = photo_of(scene.view)
    loss = ours.descend(machine.kernels, scene.view, photo, **options)
    assert loss == pytest.approx(theirs.descend(definition, scene.view, photo, **options), abs=1e-5)
    # The first means are a tenth of the gradients; the moves follow from the moments.
    for one, other, what in zip(ours.first, theirs.first, Parameters._fields, strict=True):
        assert_close_gradient(one, other, what)
    before = Fit.of(scene, machine.device, degree).splats
    for old, new, mean, square, rate in zip(
        before, ours.splats, ours.first, ours.second, RATES, strict=True
    ):
        torch.testing.assert_close(square, 0.1 * mean * mean, rtol=1e-4, atol=1e-30)
        move = rate * (mean / 0.1) / ((square / 0.001).sqrt() + 1e-15)
        torch.testing.assert_close(new, old - move, rtol=1e-5, atol=1e-6)
    assert_close_gradient(ours.pull.gradient, theirs.pull.gradient)
    assert torch.equal(ours.pull.views.cpu().double(), theirs.pull.views)


def test_steps_after_a_pause(machine: Machine):
    scene = scene_of("seventeen")
    ours, theirs = Fit.of(scene, machine.device), Fit.of(scene, DOUBLE)
    # The root of almost nothing is almost anything: a large epsilon keeps such moves comparable.
    for step in (1, 2, 9, 300):
        photo = photo_of(scene.view, step)
        ours.descend(machine.kernels, scene.view, photo, step=step, epsilon=1e-3)
        theirs.descend(definition, scene.view, photo, step=step, epsilon=1e-3)
    for one, other, what in zip(ours.first, theirs.first, Parameters._fields, strict=True):
        assert_close_gradient(one, other, what)
    for one, other in zip(ours.splats, theirs.splats, strict=True):
        torch.testing.assert_close(one.cpu().double(), other, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.last.cpu(), theirs.last)


def blocks_of(fit: Fit, size: float, seed: int = 3) -> Blocks:
    """Curvature of chance, positive semidefinite, with entries of very different sizes."""
    count, rest = fit.splats.rest.shape[:2]
    rows = noise(count, 11, 6, seed=seed) * 10 ** noise(count, 11, 1, seed=seed + 1)
    low, across = torch.tril_indices(11, 11)
    geometry = size * (rows @ rows.mT)[:, low, across]
    harmonics = size * 10 ** noise(count, 1 + rest, 3, seed=seed + 2)
    like = fit.splats.means
    return Blocks(geometry.to(like), harmonics[:, 0].to(like), harmonics[:, 1:].to(like))


@pytest.mark.parametrize("degree", [0, 2, 3])
@pytest.mark.parametrize("size", [1e-6, 1e-2, 1e2])
def test_steps_damped_by_curvature(machine: Machine, degree: int, size: float):
    scene = scene_of("seventeen")
    ours, theirs = Fit.of(scene, machine.device, degree), Fit.of(scene, DOUBLE, degree)
    sides = [(ours, machine.kernels), (theirs, definition)]
    rates = RATES._replace(quaternions=0.0)
    for step in (1, 2, 9):
        photo = photo_of(scene.view, step)
        options: dict[str, Any] = {"degree": degree, "step": step, "epsilon": 1e-3}
        for fit, kernels in sides:
            # The others move while one has no rate, and all do together.
            options["rates"] = rates if step == 2 else RATES
            fit.descend(kernels, scene.view, photo, curvature=blocks_of(fit, size), **options)
    for one, other in zip(ours.splats, theirs.splats, strict=True):
        torch.testing.assert_close(one.cpu().double(), other, rtol=1e-4, atol=1e-4)


def test_a_step_solves_with_the_curvature_and_the_damping(machine: Machine):
    scene = scene_of("seventeen")
    fit, before = (Fit.of(scene, machine.device) for _ in range(2))
    curvature = blocks_of(fit, 1e-2)
    fit.descend(machine.kernels, scene.view, photo_of(scene.view), step=1, curvature=curvature)
    matrices = curvature.matrices().double()
    count = len(matrices)

    def flat(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([x.reshape(count, -1) for x in parts[:4]], 1).double()

    rates = torch.tensor([r / 0.1 for r in RATES[:4]]).double()
    rates = rates.repeat_interleave(torch.tensor([3, 4, 3, 1])).to(matrices.device)
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    diagonal.mul_(1 + BLOCK_DAMPING).add_((flat(fit.second) / 0.001).sqrt() / rates)
    moved = flat(before.splats) - flat(fit.splats)
    assert (moved.abs() < 1.001 * FARTHEST_STEP * rates + 1e-6).all()
    far = (moved.abs() > 0.99 * FARTHEST_STEP * rates).any(1)
    assert not far.all()
    seen = ((fit.last == 1) & ~far)[:, None]
    pull = (matrices @ moved[:, :, None])[:, :, 0]
    scale = matrices.diagonal(dim1=1, dim2=2).sqrt()
    torch.testing.assert_close(pull / scale * seen, flat(fit.first) / scale, rtol=1e-3, atol=1e-4)
    assert not moved[fit.last != 1].any()


@pytest.mark.parametrize("error", [0.0, 1e-7, 1e-3])
def test_steps_are_bounded_by_any_block(machine: Machine, error: float):
    scene = scene_of("seventeen")
    fit, before = (Fit.of(scene, machine.device) for _ in range(2))
    # Of rank one, which rounding has taken from what is positive, and next to no gradients.
    row = 10 ** noise(len(fit.splats.means), 11, 1, seed=5)
    low, across = torch.tril_indices(11, 11)
    geometry = (row @ row.mT)[:, low, across]
    geometry *= 1 + error * noise(*geometry.shape, seed=6)
    base, rest = torch.zeros_like(fit.splats.base), torch.zeros_like(fit.splats.rest)
    curvature = Blocks(geometry.to(base), base, rest)
    fit.descend(machine.kernels, scene.view, photo_of(scene.view), step=1, curvature=curvature)
    for one, other, rate in zip(fit.splats[:4], before.splats[:4], RATES[:4], strict=True):
        assert one.isfinite().all()
        assert ((one - other).abs() < 1.001 * FARTHEST_STEP * rate / 0.1 + 1e-6).all()


def test_no_curvature_is_adam(machine: Machine):
    scene = scene_of("seventeen")
    fits = [Fit.of(scene, machine.device) for _ in range(2)]
    photo = photo_of(scene.view)
    for fit, curvature in zip(fits, (None, blocks_of(fits[1], 0.0)), strict=True):
        fit.descend(machine.kernels, scene.view, photo, step=1, curvature=curvature)
    for one, other in zip(fits[0].splats, fits[1].splats, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_pause_is_as_long_as_the_steps_without_a_gradient(machine: Machine):
    scene = scene_of("seventeen")
    fit = Fit.of(scene, machine.device)
    photo = photo_of(scene.view)
    fit.descend(machine.kernels, scene.view, photo, step=1)
    seen = fit.last == 1
    assert seen.any()
    before = [t.clone() for t in (*fit.first, *fit.second)]
    # Moments decay once for each of the two steps missed, and once more in the step itself.
    none = Rates(*[1e-20] * 6)
    still = Fit.of(scene, machine.device)
    still.descend(machine.kernels, scene.view, photo, step=4, last=None)
    fit.splats = Fit.of(scene, machine.device).splats
    fit.descend(machine.kernels, scene.view, photo, step=4, rates=none)
    moments, fresh = (*fit.first, *fit.second), (*still.first, *still.second)
    for old, new, alone, decay in zip(before, moments, fresh, [0.9] * 6 + [0.999] * 6, strict=True):
        torch.testing.assert_close(new, alone + decay**3 * old, rtol=1e-4, atol=1e-7)


def test_photos_in_bytes_and_in_floats_are_the_same(machine: Machine):
    scene = scene_of("seventeen")
    photo = photo_of(scene.view)
    fits = [Fit.of(scene, machine.device) for _ in range(2)]
    losses = [
        fit.descend(machine.kernels, scene.view, target, step=1)
        for fit, target in zip(fits, (photo, photo.float() / 255), strict=True)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-7)
    for one, other in zip(fits[0].first, fits[1].first, strict=True):
        assert_close_gradient(one, other)


def test_what_is_not_seen_and_what_has_no_rate_stays(machine: Machine):
    scene = scene_of("a crowd")
    fit, before = Fit.of(scene, machine.device), Fit.of(scene, machine.device)
    fit.descend(
        machine.kernels, scene.view, photo_of(scene.view), step=3, rates=RATES._replace(rest=0.0)
    )
    hidden = fit.last == 0
    assert hidden.any()
    assert not hidden.all()
    assert torch.equal(fit.last[~hidden], torch.full_like(fit.last[~hidden], 3))
    for now, then in zip(
        (*fit.splats, *fit.first, *fit.second, *fit.pull),
        (*before.splats, *before.first, *before.second, *before.pull),
        strict=True,
    ):
        assert torch.equal(now[hidden], then[hidden])
    assert torch.equal(fit.splats.rest, before.splats.rest)
    assert not fit.first.rest.any()
    assert not torch.equal(fit.splats.base, before.splats.base)


@pytest.mark.parametrize(
    ("change", "message"),
    {
        "a photo of another size": ({"photo": torch.zeros(3, 4, 3)}, "photo|target"),
        "a photo of one channel": ({"photo": torch.zeros(17, 33, 1)}, "photo|target"),
        "a photo in doubles": ({"photo": torch.zeros(17, 33, 3).double()}, "target must be"),
        "no harmonics of that degree": ({"degree": 4}, "degree must be"),
        "a list of another length": ({"last": torch.zeros(3, dtype=torch.int32)}, "last must be"),
    }.values(),
)
def test_descend_refuses(change: dict[str, Any], message: str):
    scene = scene_of("seventeen")
    fit = Fit.of(scene, "cpu")
    options = {"step": 1, "photo": photo_of(scene.view), **change}
    with pytest.raises((ValueError, TypeError), match=message):
        fit.descend(cpu, scene.view, options.pop("photo"), **options)


def test_descend_refuses_what_it_could_only_copy():
    scene = scene_of("seventeen")
    fit = Fit.of(scene, "cpu")
    columns = fit.splats.base.T.contiguous().T
    fit.splats = fit.splats._replace(base=columns)
    with pytest.raises(ValueError, match="base of splats must be contiguous"):
        fit.descend(cpu, scene.view, photo_of(scene.view), step=1)
    fit = Fit.of(scene, "cpu")
    fit.first = fit.first._replace(means=torch.zeros(3, 17))
    with pytest.raises(ValueError, match="moments of means must have its shape"):
        fit.descend(cpu, scene.view, photo_of(scene.view), step=1)


def test_autograd_learns_that_parameters_were_moved(machine: Machine):
    scene = scene_of("seventeen")
    fit = Fit.of(scene, machine.device)
    leaf = torch.ones((), device=machine.device, requires_grad=True)
    product = (leaf * fit.splats.means).sum()
    fit.descend(machine.kernels, scene.view, photo_of(scene.view), step=1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_a_first_mean_without_memory_gives_no_nan(machine: Machine):
    scene = scene_of("seventeen")
    fit = Fit.of(scene, machine.device)
    for step in (1, 3):
        fit.descend(machine.kernels, scene.view, photo_of(scene.view), step=step, betas=(0.0, 0.9))
    assert all(value.isfinite().all() for value in fit.splats)


# Determinism, on the CPU ----------------------------------------------------------------------


@pytest.fixture(params=available_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before, threads = active_level(), torch.get_num_threads()
    select_level(request.param)
    yield request.param
    select_level(before)
    torch.set_num_threads(threads)


def everything() -> list[Tensor]:
    """All that the CPU backend computes for one scene of several tiles, values and gradients."""
    scene = scatter(10_000, size=(97, 75), scale=-3.0)
    inputs = leaves((*parameters(scene), scene.base, scene.rest))
    footprints, colors = cpu.look(Parameters(*inputs), Look(scene.view, 3, "antialiased"))
    absolute = torch.zeros(10_000, 2)
    raster = cpu.rasterize(
        footprints,
        torch.cat([colors, footprints.depths[:, None]], 1),
        width=97,
        height=75,
        background=(0.1, 0.2, 0.3, 0),
        absolute_gradients=absolute,
    )
    losses = [(raster.features[..., :3] * noise(75, 97, 3).float()).mean()]
    losses.append((raster.transmittance * raster.features[..., 3]).mean())
    derived = list(torch.autograd.grad(sum(losses, torch.zeros(())), inputs))
    fit = Fit.of(scene, "cpu")
    losses.append(torch.tensor(fit.descend(cpu, scene.view, photo_of(scene.view), step=4)))
    moved = (*fit.splats, *fit.first, *fit.second, *fit.pull, fit.last)
    painted = cpu.paint(fit.splats, view=scene.view, degree=3)
    values = [*footprints, colors, *raster, *losses, *derived, absolute, *moved, *painted]
    return [tensor.detach() for tensor in values]


def test_a_median_that_is_not_asked_for_changes_nothing_else():
    footprints, features = blend_inputs("seventeen", 3)
    for machine in (cpu, reference):
        whole = machine.rasterize(footprints, features, width=33, height=17)
        spared = machine.rasterize(footprints, features, width=33, height=17, median=False)
        assert spared.median.numel() == 0
        assert torch.equal(spared.features, whole.features)


def test_features_without_channels_are_refused():
    footprints, features = blend_inputs("seventeen", 3)
    with pytest.raises(ValueError, match="at least one channel"):
        cpu.rasterize(footprints, features[:, :0], width=33, height=17)


def test_the_number_of_threads_changes_no_bit(level: str):
    torch.set_num_threads(1)
    once = everything()
    for threads in (1, 2, 8):
        torch.set_num_threads(threads)
        for one, other in zip(once, everything(), strict=True):
            assert torch.equal(one, other), f"{threads} threads"


# What bad input gets -------------------------------------------------------------------------

POISON = {
    "a mean": ("means", math.nan),
    "an infinite mean": ("means", math.inf),
    "a rotation": ("quaternions", math.nan),
    "an infinite rotation": ("quaternions", math.inf),
    "a scale": ("log_scales", math.nan),
    "an infinite scale": ("log_scales", math.inf),
    "an enormous scale": ("log_scales", 200.0),
    "an opacity": ("logits", math.nan),
}


@pytest.mark.parametrize("what", POISON)
def test_a_splat_that_is_not_finite_is_not_seen(machine: Machine, what: str):
    scene = scene_of("seventeen")
    field, value = POISON[what]
    poisoned = getattr(scene, field).clone()
    poisoned[5] = value
    healthy = torch.arange(17) != 5
    scene = replace(scene, **{field: poisoned})
    tensors = (*parameters(scene), scene.base, scene.rest)
    inputs = leaves(tensors, machine.device)
    sources = leaves(tuple(tensor[healthy] for tensor in tensors), machine.device)
    raster = draw(machine, scene, inputs, "classic", machine.device)
    without = draw(machine, scene, sources, "classic", machine.device)
    assert_close_image(raster.features.detach(), without.features.detach().cpu().double())
    for one, other in zip(
        gradients(raster[:2], inputs), gradients(without[:2], sources), strict=True
    ):
        assert_close_gradient(one[healthy.to(one.device)], other)


def project_with(scene: Scene, degree: int = 3, **changes: Any) -> None:
    changed = replace(scene, **changes)
    splats = Parameters(*parameters(changed), changed.base, changed.rest)
    splats_cpu.project(splats, view=changed.view, degree=degree)


def blend_with(
    *, rows: Tensor | None = None, index: Tensor | None = None, **options: Any
) -> splats_cpu.CpuPicture:
    footprints, _ = blend_inputs("seventeen", 3)
    seen = seen_of(footprints)
    seen = Seen(seen.index if index is None else index, seen.rows if rows is None else rows)
    return splats_cpu.blend(splats_cpu.records(seen, Look(plain_view(33, 17), 0)), **options)


def rows_like(seen: Seen, column: int, value: float) -> Tensor:
    rows = seen.rows.clone()
    rows[3, column] = value
    return rows


def vjp_with(gradient: Tensor, light: Tensor | None = None, **options: Any) -> None:
    absolute = options.pop("absolute", False)
    blend_with(**options).vjp(gradient, light, absolute=absolute)


COUNT = len(seen_of(blend_inputs("seventeen", 3)[0]).index)

BAD: dict[str, Callable[[], Any]] = {
    "float64 means": lambda: project_with(scatter(17), means=torch.zeros(17, 3).double()),
    "means of two columns": lambda: project_with(scatter(17), means=torch.zeros(17, 2)),
    "too few quaternions": lambda: project_with(scatter(17), quaternions=torch.zeros(16, 4)),
    "logits of two axes": lambda: project_with(scatter(17), logits=torch.zeros(17, 1)),
    "integer logits": lambda: project_with(scatter(17), logits=torch.zeros(17, dtype=torch.int32)),
    "means elsewhere": lambda: project_with(scatter(17), means=torch.zeros(17, 3, device="meta")),
    "colours of two channels": lambda: project_with(scatter(17), base=torch.zeros(17, 2)),
    "half coefficients": lambda: project_with(scatter(17), rest=torch.zeros(17, 15, 3).half()),
    "degree above what is stored": lambda: project_with(
        scatter(17), degree=2, rest=torch.zeros(17, 3, 3)
    ),
    "degree four": lambda: project_with(scatter(17), degree=4, rest=torch.zeros(17, 24, 3)),
    "a near plane behind the camera": lambda: project_with(
        scatter(17), view=scatter(17).view._replace(near=-1.0)
    ),
    "float64 features": lambda: blend_with(features=torch.zeros(COUNT, 3).double()),
    "too many features": lambda: blend_with(features=torch.zeros(COUNT + 1, 3)),
    "a short background": lambda: blend_with(background=(1.0, 1.0)),
    "too few rows": lambda: blend_with(rows=torch.zeros(COUNT - 1, 12)),
    "rows of eleven numbers": lambda: blend_with(rows=torch.zeros(COUNT, 11)),
    "float64 rows": lambda: blend_with(rows=torch.zeros(COUNT, 12).double()),
    "an index of 64 bits": lambda: blend_with(index=torch.arange(COUNT)),
    "a negative depth": lambda: blend_with(
        rows=rows_like(seen_of(blend_inputs("seventeen", 3)[0]), 9, -1.0)
    ),
    "a window beyond the image": lambda: blend_with(window=Window(30, 0, 4, 4)),
    "a window without pixels": lambda: blend_with(window=Window(3, 0, 0, 4)),
    "a gradient of one channel": lambda: vjp_with(torch.zeros(17, 33, 1)),
    "a gradient of another size": lambda: vjp_with(torch.zeros(33, 17, 3)),
    "a float64 gradient": lambda: vjp_with(torch.zeros(17, 33, 3).double()),
    "a gradient by light of channels": lambda: vjp_with(
        torch.zeros(17, 33, 3), torch.zeros(17, 33, 1)
    ),
    "absolute sums over too many channels": lambda: vjp_with(
        torch.zeros(17, 33, 5), features=torch.zeros(COUNT, 5), absolute=True
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_an_error_that_says_what_was_expected(what: str):
    expected = "must (be|have|lie)|need (features of|int32)|following argument types are supported"
    with pytest.raises((TypeError, ValueError), match=expected):
        BAD[what]()


def test_images_that_no_memory_holds_are_refused():
    footprints, features = blend_inputs("seventeen", 3)
    for width, height in ((1, 429_496_736), (65_537, 1), (40_000, 40_000)):
        with pytest.raises(ValueError, match="larger than 65,536"):
            cpu.rasterize(footprints, features, width=width, height=height)
