"""Mean and variance over all masks of dropped splats: the laws, on every backend.

"All masks" is meant literally where a scene has few splats: the reference blends each of them.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from parts import Parts
from torch import Tensor
from torch.autograd import gradcheck

from lumigraph.kernels import (
    ALPHA_MAX,
    ALPHA_MIN,
    TRANSMITTANCE_MIN,
    Footprints,
    Look,
    Parameters,
    RasterMoments,
    Stopped,
    View,
)
from lumigraph.kernels._native import active_level, available_levels, select_level
from lumigraph.kernels.images import cpu as images_cpu
from lumigraph.kernels.images import reference as images_reference
from lumigraph.kernels.splats import cpu as splats_cpu
from lumigraph.kernels.splats import reference as definitions
from lumigraph.kernels.splats.composed import REFERENCE

cpu = Parts(splats_cpu, images_cpu)
reference = Parts(REFERENCE, images_reference)

SMOOTH: dict[str, Any] = {"alpha_min": 0.0, "alpha_max": 1 - 1e-9, "transmittance_min": 0.0}
"""Without floor, ceiling and stop; only the reference can be without."""


class Machine(NamedTuple):
    """A backend, and what of it is to be expected."""

    kernels: Parts
    dtype: torch.dtype
    tolerance: float
    """Of a mean or of a standard deviation, in units of the standard deviation."""


@pytest.fixture(
    params=["reference-64", "reference-32", *(f"cpu-{level}" for level in available_levels())]
)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    kind, which = request.param.split("-")
    if kind == "reference":
        double = which == "64"
        dtype = torch.float64 if double else torch.float32
        yield Machine(reference, dtype, 1e-12 if double else 1e-4)
        return
    before = active_level()
    select_level(which)
    yield Machine(cpu, torch.float32, 1e-4)
    select_level(before)


@pytest.fixture(params=available_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before, threads = active_level(), torch.get_num_threads()
    select_level(request.param)
    yield request.param
    select_level(before)
    torch.set_num_threads(threads)


# Scenes --------------------------------------------------------------------------------------


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Scene(NamedTuple):
    """Footprints in float64, of numbers that float32 has too, and an image for them."""

    footprints: Footprints
    width: int
    height: int

    @property
    def size(self) -> dict[str, Any]:
        """Of the image."""
        return {"width": self.width, "height": self.height}

    def at(self, like: torch.dtype) -> Footprints:
        """The footprints in another type."""
        return Footprints(*(tensor.to(like) for tensor in self.footprints))


def scatter(
    count: int, width: int, height: int, *, sigma: float = 3.0, opacity: float = 0.0, seed: int = 1
) -> Scene:
    """Splats about as wide as `sigma` pixels all over an image, with logits around `opacity`."""
    means = (0.5 + 0.35 * random(count, 2, seed=seed)) * torch.tensor([width, height])
    axes = sigma * (random(count, 2, 2, seed=seed + 1) + 1.5 * torch.eye(2))
    covariance = axes @ axes.mT + 0.3 * torch.eye(2)
    inverse = torch.linalg.inv(covariance)
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], 1)
    opacities = (opacity + 1.5 * random(count, seed=seed + 2)).sigmoid()
    reach = 2 * torch.log((opacities / ALPHA_MIN).clamp_min(1))
    extents = (reach[:, None] * covariance.diagonal(dim1=1, dim2=2)).sqrt() * 1.001
    depths = 1 + 3 * random(count, seed=seed + 3).sigmoid()
    tensors = (means, conics, opacities, depths, extents)
    return Scene(Footprints(*(tensor.float().double() for tensor in tensors)), width, height)


def stacked(opacities: Tensor) -> Scene:
    """Splats one behind the other, all over the middle of one pixel."""
    count = len(opacities)
    one = torch.ones(count, dtype=torch.float64)
    wide = torch.tensor([1.0, 0, 1], dtype=torch.float64).expand(count, 3)
    middle = 0.5 * one[:, None].expand(count, 2)
    return Scene(Footprints(middle, wide, opacities.double(), one.cumsum(0), 6 * middle), 1, 1)


SCENES: dict[str, Callable[[], Scene]] = {
    "no splat": lambda: scatter(0, 9, 5),
    "one splat": lambda: scatter(1, 9, 5),
    "one pixel": lambda: scatter(17, 1, 1),
    "seventeen": lambda: scatter(17, 33, 17),
    "a narrow image": lambda: scatter(60, 5, 40),
    "a wide image": lambda: scatter(150, 300, 20),
    "tiny": lambda: scatter(400, 40, 36, sigma=0.2),
    "opaque": lambda: scatter(120, 35, 33, sigma=5.0, opacity=4.0),
    "a crowd": lambda: scatter(1500, 37, 30, opacity=-1.0),
}


def features_of(scene: Scene, channels: int) -> Tensor:
    """What each splat shows; in float64, of numbers that float32 has too."""
    return random(len(scene.footprints.means), channels, seed=9).sigmoid().float().double()


def noise(*shape: int, seed: int) -> Tensor:
    return random(*shape, seed=seed).float().double()


# The laws ------------------------------------------------------------------------------------


def all_masks(
    scene: Scene, features: Tensor, rate: float, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and mean transmittance by blending every mask by itself."""
    count = len(features)
    images, lights, chances = [], [], []
    for mask in itertools.product((0.0, 1.0), repeat=count):
        kept = torch.tensor(mask, dtype=torch.float64)
        thin = scene.footprints._replace(opacities=scene.footprints.opacities * kept)
        raster = definitions.rasterize(thin, features, **scene.size, **options)
        images.append(raster.features)
        lights.append(raster.transmittance)
        chances.append((1 - rate) ** sum(mask) * rate ** (count - sum(mask)))
    image, light, chance = (
        torch.stack(images),
        torch.stack(lights),
        torch.tensor(chances, dtype=torch.float64),
    )
    # No mask's pixel is finished, for that comes later where splats are only expected.
    assert light.min() > 2 * TRANSMITTANCE_MIN
    mean = torch.einsum("m,mhwc->hwc", chance, image)
    deviation = torch.einsum("m,mhwc->hwc", chance, (image - mean).square()).sqrt()
    return mean, deviation, torch.einsum("m,mhw->hw", chance, light)


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.7])
@pytest.mark.parametrize("background", [None, (0.25, 0.75)])
def test_moments_are_those_of_all_masks(
    machine: Machine, rate: float, background: tuple[float, ...] | None
):
    scene = scatter(9, 7, 5, sigma=1.5)
    features = features_of(scene, 2)
    smooth = SMOOTH if machine.kernels is reference else {}
    kernels: Any = definitions if smooth else machine.kernels
    mean, deviation, left = all_masks(scene, features, rate, background=background, **smooth)
    actual = kernels.rasterize_moments(
        scene.at(machine.dtype),
        features.to(machine.dtype),
        rate=rate,
        background=background,
        **scene.size,
        **smooth,
    )
    assert actual.mean.dtype == machine.dtype
    # Rounding of what is summed, which is about one, is far less than that.
    floor = 4 * torch.finfo(machine.dtype).eps
    assert floor < 0.5 * machine.tolerance * deviation.median()
    allowed = machine.tolerance * deviation + floor
    assert ((actual.mean.double() - mean).abs() <= allowed).all()
    assert ((actual.variance.double().sqrt() - deviation).abs() <= allowed).all()
    torch.testing.assert_close(actual.transmittance.double(), left, rtol=1e-5, atol=0)


def test_one_splat_has_a_closed_form(machine: Machine):
    scene = stacked(torch.tensor([0.8]))
    rate, color, behind = 0.3, 0.9, 0.25
    feature = torch.tensor([[color]], dtype=machine.dtype)
    moments = machine.kernels.rasterize_moments(
        scene.at(machine.dtype), feature, rate=rate, background=(behind,), width=1, height=1
    )
    # Drawn with probability 1 - rate, it covers 0.8 of what is behind.
    assert moments.mean.item() == pytest.approx(behind + 0.7 * 0.8 * (color - behind), rel=1e-5)
    expected = 0.7 * 0.3 * (0.8 * (color - behind)) ** 2
    assert moments.variance.item() == pytest.approx(expected, rel=1e-5)
    assert moments.transmittance.item() == pytest.approx(1 - 0.7 * 0.8, rel=1e-5)


def test_trials_converge_to_the_moments_as_the_root_of_their_number():
    scene = scatter(60, 24, 18)
    footprints, features = scene.at(torch.float32), features_of(scene, 3).float()
    exact = cpu.rasterize_moments(
        footprints, features, rate=0.2, background=(0, 0, 0), **scene.size
    )
    chance, counts, errors = torch.Generator().manual_seed(4), (64, 4096), []
    sums = [torch.zeros_like(exact.mean, dtype=torch.float64) for _ in range(2)]
    for trial in range(counts[-1]):
        kept = torch.rand(60, generator=chance) >= 0.2
        thin = footprints._replace(opacities=footprints.opacities * kept)
        thin = thin._replace(extents=footprints.extents * kept[:, None])
        image = cpu.rasterize(thin, features, background=(0, 0, 0), median=False, **scene.size)
        off = (image.features - exact.mean).double()
        sums[0] += off
        sums[1] += off.square()
        if trial + 1 in counts:
            variance = sums[1] / (trial + 1) - exact.variance
            errors.append([(sums[0] / (trial + 1)).norm().item(), variance.norm().item()])
    # 64 times as many trials: an eighth of the error, give or take what chance does.
    for few, many in zip(*errors, strict=True):
        assert 4 < few / many < 16
    typical = (exact.variance.double().sum() / counts[-1]).sqrt().item()
    assert errors[-1][0] == pytest.approx(typical, rel=0.5)


def test_without_dropping_there_is_no_variance(machine: Machine):
    scene = SCENES["opaque"]()
    footprints, features = scene.at(machine.dtype), features_of(scene, 3).to(machine.dtype)
    options: dict[str, Any] = {"background": (0.1, 0.5, 0.9), **scene.size}
    moments = machine.kernels.rasterize_moments(footprints, features, rate=0.0, **options)
    raster = machine.kernels.rasterize(footprints, features, **options)
    assert not moments.variance.any()
    torch.testing.assert_close(moments.mean, raster.features)
    torch.testing.assert_close(moments.transmittance, raster.transmittance)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_shares_sum_to_the_variance(machine: Machine, name: str, channels: int):
    scene = SCENES[name]()
    footprints, features = scene.at(machine.dtype), features_of(scene, channels).to(machine.dtype)
    background = tuple(0.1 * i for i in range(channels))
    start = random(len(features), seed=3).abs().to(machine.dtype)
    shares, bare = start.clone(), torch.zeros_like(start)
    options: dict[str, Any] = {"rate": 0.15, "background": background, **scene.size}
    moments = machine.kernels.rasterize_moments(footprints, features, shares=bare, **options)
    assert (bare >= 0).all()
    assert (moments.variance >= 0).all()
    total = moments.variance.double().sum().item()
    assert bare.double().sum().item() == pytest.approx(total, rel=1e-5)
    # They are added to what is there, and make no difference.
    again = machine.kernels.rasterize_moments(footprints, features, shares=shares, **options)
    torch.testing.assert_close(shares, start + bare)
    without = machine.kernels.rasterize_moments(footprints, features, **options)
    for one, two, three in zip(moments, again, without, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_each_splat_has_its_own_share(machine: Machine):
    scene = SCENES["seventeen"]()
    features = features_of(scene, 3)
    expected, actual = (torch.zeros(17, dtype=d) for d in (torch.float64, machine.dtype))
    definitions.rasterize_moments(
        scene.footprints, features, rate=0.1, shares=expected, **scene.size
    )
    machine.kernels.rasterize_moments(
        scene.at(machine.dtype), features.to(machine.dtype), rate=0.1, shares=actual, **scene.size
    )
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-6)
    # They differ, so that none can stand for another.
    assert expected.min() < 0.1 * expected.max()


def test_a_pixel_is_finished_by_the_expected_transmittance(machine: Machine):
    scene = stacked(torch.ones(40))
    shares = torch.zeros(40, dtype=machine.dtype)
    features = features_of(scene, 2).to(machine.dtype)
    left = machine.kernels.rasterize_moments(
        scene.at(machine.dtype), features, rate=0.5, shares=shares, **scene.size
    ).transmittance.item()
    through = 1 - 0.5 * ALPHA_MAX
    count = math.ceil(math.log(TRANSMITTANCE_MIN) / math.log(through))
    assert left == pytest.approx(through**count, rel=1e-4)
    assert (shares[:count] > 0).all()
    assert not shares[count:].any()


def test_permuting_the_splats_changes_nothing(machine: Machine):
    scene = SCENES["seventeen"]()
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0))
    results = []
    for index in (torch.arange(17), order):
        footprints = Footprints(*(tensor[index] for tensor in scene.at(machine.dtype)))
        features = features_of(scene, 3).to(machine.dtype)[index]
        shares = torch.zeros_like(features[:, 0])
        moments = machine.kernels.rasterize_moments(
            footprints, features, rate=0.1, shares=shares, **scene.size
        )
        results.append((*moments, shares[index.argsort()]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


# Measured from an origin -----------------------------------------------------------------------


def test_an_origin_moves_the_mean_alone(machine: Machine):
    scene = SCENES["seventeen"]()
    footprints, features = scene.at(machine.dtype), features_of(scene, 3).to(machine.dtype)
    origin = noise(17, 33, 3, seed=5).to(machine.dtype)
    options: dict[str, Any] = {"rate": 0.1, "background": (0.5, 0.1, 0.9), **scene.size}
    plain = machine.kernels.rasterize_moments(footprints, features, **options)
    moved = machine.kernels.rasterize_moments(footprints, features, origin=origin, **options)
    torch.testing.assert_close(moved.mean, plain.mean - origin, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.variance, plain.variance, rtol=1e-4, atol=1e-8)
    assert torch.equal(moved.transmittance, plain.transmittance)


def test_without_a_background_what_is_measured_is_the_sum_of_differences(machine: Machine):
    """Which is what the variance of a ratio asks for: D - R A, where nothing is behind."""
    scene = stacked(torch.tensor([0.8, 0.5]))
    features, base = torch.tensor([[3.0], [7.0]], dtype=torch.float64), 5.0
    origin = torch.full((1, 1, 1), base, dtype=machine.dtype)
    moments = machine.kernels.rasterize_moments(
        scene.at(machine.dtype), features.to(machine.dtype), rate=0.4, origin=origin, **scene.size
    )
    mean, deviation, _ = all_masks(scene, features - base, 0.4)
    assert moments.mean.item() == pytest.approx(mean.item(), rel=1e-5)
    assert moments.variance.item() == pytest.approx(deviation.item() ** 2, rel=1e-5)


def test_far_features_near_an_origin_lose_nothing(machine: Machine):
    scene = SCENES["seventeen"]()
    # Multiples of 1/1024, so that a thousand more is a float32 too.
    features = (features_of(scene, 1) * 1024).round() / 1024
    origin = torch.full((17, 33, 1), 1000.0, dtype=machine.dtype)
    far = machine.kernels.rasterize_moments(
        scene.at(machine.dtype),
        (features + 1000).to(machine.dtype),
        rate=0.1,
        origin=origin,
        **scene.size,
    )
    near = definitions.rasterize_moments(scene.footprints, features, rate=0.1, **scene.size)
    torch.testing.assert_close(far.variance.double(), near.variance, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(far.mean.double(), near.mean, rtol=1e-4, atol=1e-6)


# Derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["nothing", "background", "an origin", "both"])
def test_the_reference_has_the_derivatives_it_claims(over: str):
    scene = scatter(5, 5, 4, sigma=1.5)
    fixed = scene.footprints
    options: dict[str, Any] = {}
    if over in ("background", "both"):
        options["background"] = (0.3, 0.8)
    if over in ("an origin", "both"):
        options["origin"] = noise(4, 5, 2, seed=5)

    def moments(means: Tensor, conics: Tensor, opacities: Tensor, features: Tensor):
        footprints = Footprints(means, conics, opacities, fixed.depths, fixed.extents)
        return tuple(
            definitions.rasterize_moments(
                footprints, features, rate=0.3, **scene.size, **options, **SMOOTH
            )
        )

    inputs = [t.clone().requires_grad_() for t in (*fixed[:3], features_of(scene, 2))]
    assert gradcheck(moments, inputs)


def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    scene = SCENES["seventeen"]()
    options: dict[str, Any] = {"rate": 0.2, "channels": 2, "origin": noise(17, 33, 2, seed=5)}
    whole = derived(definitions, scene, torch.float64, **options)
    monkeypatch.setattr(definitions, "_PAIRS_PER_BLOCK", 17 * 2 * 40)
    for one, other in zip(
        whole, derived(definitions, scene, torch.float64, **options), strict=True
    ):
        torch.testing.assert_close(one, other)


def derived(
    kernels: Any,
    scene: Scene,
    dtype: torch.dtype,
    *,
    channels: int,
    rate: float,
    background: tuple[float, ...] | None = None,
    origin: Tensor | None = None,
    outputs: tuple[int, ...] = (0, 1, 2),
) -> list[Tensor]:
    """Moments, shares, and the gradients of the moments times noise to all that has gradients."""
    tensors = (*scene.footprints[:3], features_of(scene, channels))
    inputs = [tensor.to(dtype).requires_grad_() for tensor in tensors]
    footprints = Footprints(*inputs[:3], *(t.to(dtype) for t in scene.footprints[3:]))
    shares = torch.zeros(len(inputs[0]), dtype=dtype)
    moments = kernels.rasterize_moments(
        footprints,
        inputs[3],
        rate=rate,
        background=background,
        origin=None if origin is None else origin.to(dtype),
        shares=shares,
        **scene.size,
    )
    # Variances are small, but their gradients must show beside those of the means.
    scales = (1.0, 20.0, 1.0)
    loss = sum(
        (moments[i] * scales[i] * noise(*moments[i].shape, seed=20 + i).to(dtype)).sum()
        for i in outputs
    )
    assert isinstance(loss, Tensor)
    gradients = [torch.zeros_like(tensor) for tensor in inputs]
    if loss.requires_grad:
        found = torch.autograd.grad(loss, inputs, materialize_grads=True)
        gradients = list(found)
    return [*(tensor.detach() for tensor in moments), shares, *gradients]


NAMES = ("mean", "variance", "transmittance", "shares", "means", "conics", "opacities", "features")


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Values to 1e-4 of the range, gradients to 1e-3 of the largest and 2e-4 in norm.

    A splat on the edge of what is seen or of what finishes a pixel may be on the other side, at up
    to a thousandth of the pixels.
    """
    for ours, theirs, what in zip(actual, expected, NAMES, strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == theirs.shape, what
        if not theirs.numel():
            continue
        difference = (ours.double() - theirs).abs()
        largest = theirs.abs().max()
        if what in NAMES[:3]:
            assert difference.max() <= largest / 255, what
            assert (difference > 1e-4 * largest).sum() <= 0.001 * difference.numel(), what
        else:
            assert difference.max() <= 1e-3 * largest, what
            assert difference.norm() <= 2e-4 * theirs.norm(), what


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5])
@pytest.mark.usefixtures("level")
def test_moments_and_all_gradients_are_those_of_the_reference(name: str, rate: float):
    scene = SCENES[name]()
    options: dict[str, Any] = {"channels": 3, "rate": rate, "background": (0.2, 0.9, 0.5)}
    actual = derived(cpu, scene, torch.float32, **options)
    assert_same(actual, derived(definitions, scene, torch.float64, **options))
    assert (actual[1] >= 0).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("over", ["nothing", "background", "an origin", "both"])
@pytest.mark.usefixtures("level")
def test_any_number_of_channels_over_anything(channels: int, over: str):
    scene = SCENES["seventeen"]()
    options: dict[str, Any] = {"channels": channels, "rate": 0.1}
    if over in ("background", "both"):
        options["background"] = tuple(0.1 * i for i in range(channels))
    if over in ("an origin", "both"):
        options["origin"] = noise(17, 33, channels, seed=5)
    actual = derived(cpu, scene, torch.float32, **options)
    assert_same(actual, derived(definitions, scene, torch.float64, **options))


@pytest.mark.parametrize("output", [0, 1, 2], ids=NAMES[:3])
@pytest.mark.usefixtures("level")
def test_gradients_of_one_output_alone(output: int):
    scene = SCENES["opaque"]()
    options: dict[str, Any] = {"channels": 3, "rate": 0.1, "outputs": (output,)}
    actual = derived(cpu, scene, torch.float32, **options)
    assert_same(actual, derived(definitions, scene, torch.float64, **options))


def test_what_needs_no_gradient_has_no_graph(machine: Machine):
    scene = SCENES["seventeen"]()
    footprints, features = scene.at(machine.dtype), features_of(scene, 3).to(machine.dtype)
    moments = machine.kernels.rasterize_moments(footprints, features, rate=0.1, **scene.size)
    assert not any(tensor.requires_grad for tensor in moments)
    origin = torch.zeros(17, 33, 3, dtype=machine.dtype).requires_grad_()
    moments = machine.kernels.rasterize_moments(
        footprints, features.requires_grad_(), rate=0.1, origin=origin, **scene.size
    )
    assert all(tensor.requires_grad for tensor in moments[:2])
    (gradient,) = torch.autograd.grad(
        moments.variance.sum(), origin, allow_unused=True, retain_graph=True
    )
    assert gradient is None


def test_the_number_of_threads_changes_no_bit(level: str):
    scene = scatter(3000, 97, 75)
    origin = noise(75, 97, 5, seed=5)
    options: dict[str, Any] = {"channels": 5, "rate": 0.1, "origin": origin}
    torch.set_num_threads(1)
    once = derived(cpu, scene, torch.float32, **options)
    for threads in (1, 2, 8):
        torch.set_num_threads(threads)
        for one, other in zip(once, derived(cpu, scene, torch.float32, **options), strict=True):
            assert torch.equal(one, other), f"{threads} threads on {level}"


# Straight from a scene -------------------------------------------------------------------------

VIEW = View((1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), (40, 38), (20, 14), 41, 29, 0.2)


def parameters(count: int, dtype: torch.dtype) -> Parameters:
    """Splats about 3 units before the camera of `VIEW`."""
    means = random(count, 3, seed=1).clamp(-2, 2) * torch.tensor([1.2, 0.9, 0.4])
    return Parameters(
        means=(means + torch.tensor([0.0, 0, 3])).to(dtype),
        quaternions=random(count, 4, seed=2).to(dtype),
        log_scales=(0.4 * random(count, 3, seed=3) - 1.5).to(dtype),
        opacity_logits=(1.5 * random(count, seed=4)).to(dtype),
        base=random(count, 3, seed=5).to(dtype),
        rest=0.3 * random(count, 15, 3, seed=6).to(dtype),
    )


@pytest.mark.parametrize("filter", ["classic", "antialiased"])
@pytest.mark.parametrize("degree", [0, 3])
def test_paint_moments_is_its_parts_in_a_row(machine: Machine, filter: Any, degree: int):
    splats = parameters(200, machine.dtype)
    options: dict[str, Any] = {"rate": 0.1, "background": (0.1, 0.5, 0.9)}
    whole, parts = torch.zeros_like(splats.means[:, 0]), torch.zeros_like(splats.means[:, 0])
    painted = machine.kernels.paint_moments(
        splats, view=VIEW, degree=degree, filter=filter, shares=whole, **options
    )
    footprints, colors = machine.kernels.look(splats, Look(VIEW, degree, filter))
    expected = machine.kernels.rasterize_moments(
        footprints, colors, width=41, height=29, shares=parts, **options
    )
    for one, other in zip((*painted, whole), (*expected, parts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert whole.any()
    spared = machine.kernels.paint_moments(
        splats, view=VIEW, degree=degree, filter=filter, **options
    )
    for one, other in zip(painted, spared, strict=True):
        assert torch.equal(one, other)


def test_paint_moments_has_no_graph(machine: Machine):
    splats = Parameters(*(t.requires_grad_() for t in parameters(20, machine.dtype)))
    painted = machine.kernels.paint_moments(splats, view=VIEW, degree=3, rate=0.1)
    assert isinstance(painted, RasterMoments)
    assert not any(tensor.requires_grad for tensor in painted)


def test_a_picture_can_be_given_up(machine: Machine):
    splats, shares = parameters(20, machine.dtype), torch.zeros(20, dtype=machine.dtype)
    options: dict[str, Any] = {"view": VIEW, "degree": 3, "rate": 0.1, "shares": shares}
    stop = torch.ones(1, dtype=torch.uint8)
    with pytest.raises(Stopped):
        machine.kernels.paint_moments(splats, stop=stop, **options)
    assert not shares.any()
    machine.kernels.paint_moments(splats, stop=torch.zeros(1, dtype=torch.uint8), **options)
    assert shares.any()


# What bad input gets ---------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a negative rate": ({"rate": -0.1}, "rate must be at least 0 and below 1 but is -0.1"),
    "a rate of one": ({"rate": 1.0}, "rate must be at least 0 and below 1 but is 1.0"),
    "no rate": ({"rate": math.nan}, "rate must be at least 0 and below 1 but is nan"),
    "a short background": ({"background": (0.5,)}, "background must have one value for each of 3"),
    "no channel": ({"features": torch.zeros(17, 0)}, "features must have at least one channel"),
    "an origin of the wrong size": (
        {"origin": torch.zeros(33, 17, 3)},
        r"origin must be .* \[17, 33, 3\] on cpu but is .* \[33, 17, 3\] on cpu",
    ),
    "an origin without channels": ({"origin": torch.zeros(17, 33)}, r"origin must be .*17, 33, 3"),
    "an origin of integers": (
        {"origin": torch.zeros(17, 33, 3, dtype=torch.int32)},
        r"origin must be torch.float\d\d .* but is torch.int32",
    ),
    "too few shares": ({"shares": torch.zeros(16)}, r"shares must be .* \[17\] .* \[16\]"),
    "shares of columns": ({"shares": torch.zeros(17, 1)}, r"shares must be .* \[17\] .* \[17, 1\]"),
    "half shares": ({"shares": torch.zeros(17).half()}, "shares must be .* but is torch.float16"),
    "shares with a gradient": (
        {"shares": torch.zeros(17, requires_grad=True)},
        "shares must be contiguous and need no gradient",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_an_error_that_says_what_was_expected(machine: Machine, what: str):
    change, message = BAD[what]
    scene = SCENES["seventeen"]()
    options: dict[str, Any] = {"rate": 0.1, "features": features_of(scene, 3), **change}
    for name, value in options.items():
        if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.float64):
            options[name] = value.to(machine.dtype)
    features = options.pop("features")
    with pytest.raises(ValueError, match=message):
        machine.kernels.rasterize_moments(
            scene.at(machine.dtype), features, **scene.size, **options
        )


def test_shares_that_could_only_be_copied_are_refused(machine: Machine):
    scene = SCENES["seventeen"]()
    features = features_of(scene, 3).to(machine.dtype)
    strided = torch.zeros(34, dtype=machine.dtype)[::2]
    with pytest.raises(ValueError, match="shares must be contiguous"):
        machine.kernels.rasterize_moments(
            scene.at(machine.dtype), features, rate=0.1, shares=strided, **scene.size
        )


@pytest.mark.parametrize("what", ["a negative rate", "a rate of one", "no rate", "too few shares"])
def test_paint_moments_refuses_the_same(machine: Machine, what: str):
    change, message = BAD[what]
    options: dict[str, Any] = {"rate": 0.1, **change}
    if "shares" in options:
        options["shares"] = options["shares"].to(machine.dtype)
    with pytest.raises(ValueError, match=message):
        machine.kernels.paint_moments(parameters(17, machine.dtype), view=VIEW, degree=3, **options)
