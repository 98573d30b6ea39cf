"""The Triton kernels, and what draws by them, have the values and derivatives of the reference.

On a GPU where there is one, else on the CPU in Triton's interpreter. The reference works in float64
on what the kernels get in float32.
"""

import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from parts import Linear, Parts
from torch import Tensor
from torch.autograd import forward_ad

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # is read while Triton and the kernels are imported
if find_spec("triton") is None:
    MISSING = "there is no Triton: pip install --group dev, which has it for Linux x86-64"
    if os.environ.get("LUMIGRAPH_FULL_INSTALL") and platform.machine() == "x86_64":
        pytest.fail(MISSING, pytrace=False)
    pytest.skip(MISSING, allow_module_level=True)

from lumigraph.kernels import (
    ALPHA_MAX,
    ALPHA_MIN,
    Adam,
    Footprints,
    Look,
    Moments,
    Parameters,
    Pull,
    Rates,
    Target,
    View,
    Window,
)
from lumigraph.kernels.images import reference as images_reference
from lumigraph.kernels.splats import cuda, derivative, reference
from lumigraph.kernels.splats.composed import REFERENCE
from lumigraph.kernels.splats.triton import blend as triton_blend
from lumigraph.kernels.splats.triton import curvature as triton_curvature
from lumigraph.kernels.splats.triton import lists as triton_lists
from lumigraph.kernels.splats.triton import moments as triton_moments

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# PyTorch warns of its own compiler when it first differentiates forward.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

WIDTH, HEIGHT = 40, 24
NAMES: list[str] = ["means", "conics", "opacities", "colors"]


def chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def footprints_of(means: Tensor, covariances: Tensor, opacities: Tensor, depths: Tensor):
    """Footprints with the extents that belong to them."""
    inverse = covariances.inverse()
    reach = 2 * torch.log((opacities / ALPHA_MIN).clamp_min(1))
    extents = (reach[:, None] * covariances.diagonal(dim1=1, dim2=2)).sqrt()
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], 1)
    return Footprints(means, conics, opacities, depths, extents)


def scatter(
    count: int,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    *,
    spread: float = 3.0,
    least: float = 0.0,
) -> Footprints:
    """Splats all over an image, of opacities from `least` on; some are not to be seen."""
    source = chance(count)
    means = (1.4 * torch.rand(count, 2, generator=source) - 0.2) * torch.tensor(size)
    axes = spread * torch.randn(count, 2, 2, generator=source)
    opacities = least + (1 - least) * torch.rand(count, generator=source)
    depths = 1 + torch.rand(count, generator=source)
    return footprints_of(means, axes @ axes.mT + 0.3 * torch.eye(2), opacities, depths)


def covering() -> Footprints:
    """One splat in front of all others covers the image, with a box beyond all integers."""
    fixed = scatter(20)
    extents, conics = fixed.extents.clone(), fixed.conics.clone()
    depths, opacities = fixed.depths.clone(), fixed.opacities.clone()
    extents[7], conics[7], depths[7], opacities[7] = 1e30, 1e-9, 0.5, 0.7
    return fixed._replace(extents=extents, conics=conics, depths=depths, opacities=opacities)


def finished() -> Footprints:
    """Large and nearly opaque: the last ones are hidden everywhere."""
    return scatter(40, spread=30.0, least=0.6)


def bounded() -> Footprints:
    """Opaque ones, centred on pixels, so that alpha is held."""
    fixed = scatter(12)
    means, one = fixed.means.floor() + 0.5, torch.ones(12)
    covariances = (2 + fixed.depths)[:, None, None] * torch.eye(2)
    return footprints_of(means, covariances, one, fixed.depths)


def hidden() -> Footprints:
    """What view and chance leave out: extents of zero, opacities of zero, boxes off the image."""
    fixed = scatter(24)
    gone = torch.arange(24) % 3 == 0
    opacities = torch.where(torch.arange(24) % 3 == 1, 0, fixed.opacities)
    means, extents = fixed.means.clone(), torch.where(gone[:, None], 0, fixed.extents)
    means[5:9] += 400
    return fixed._replace(means=means, opacities=opacities, extents=extents)


def even() -> Footprints:
    """Depths of which many are equal."""
    fixed = scatter(30)
    return fixed._replace(depths=torch.ones(30) + (torch.arange(30) % 3 == 0))


SCENES = {
    "one": lambda: scatter(1),
    "few": lambda: scatter(5),
    "many": lambda: scatter(40),
    "none": lambda: scatter(0),
    "covering": covering,
    "finished": finished,
    "bounded": bounded,
    "hidden": hidden,
    "even": even,
    "unseen": lambda: scatter(5)._replace(extents=torch.zeros(5, 2)),
}
scenes = pytest.mark.parametrize("name", SCENES)


def features_of(count: int, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, generator=chance(7))


def close(actual: Tensor, expected: Tensor, part: float) -> None:
    """Equal to that part of the largest of the expected numbers, or ten times that of each."""
    expected = expected.detach().to(actual.device, torch.float64)
    bound = part * expected.abs().amax().item() if expected.numel() else 0.0
    torch.testing.assert_close(actual.detach().double(), expected, rtol=10 * part, atol=bound)


def placed(kernels: Any, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """In the type and on the device that the kernels are tested in."""
    if kernels is reference:
        return [t.double() for t in tensors]
    return [t.clone().to(DEVICE) for t in tensors]


def derived(
    kernels: Any,
    footprints: Footprints,
    features: Tensor,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    background: tuple[float, ...] | None = None,
) -> dict[str, Tensor]:
    """A raster and the gradients of a sum over it."""
    width, height = size
    *leaves, shown = (x.requires_grad_() for x in placed(kernels, (*footprints[:3], features)))
    fixed = placed(kernels, footprints[3:])
    absolute = torch.zeros_like(leaves[0]).detach() if features.shape[1] <= 4 else None
    raster = kernels.rasterize(
        Footprints(*leaves, *fixed),
        shown,
        width=width,
        height=height,
        background=background,
        absolute_gradients=absolute,
    )
    weights = torch.rand(height, width, features.shape[1] + 1, generator=chance(3)).to(shown)
    loss = (raster.features * weights[..., :-1]).sum()
    loss = loss + (raster.transmittance * weights[..., -1]).sum()
    gradients = torch.autograd.grad(loss, [*leaves, shown])
    named = dict(zip(NAMES, gradients, strict=True))
    named["absolute"] = loss.new_zeros(0) if absolute is None else absolute
    return raster._asdict() | named


def agree(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert torch.equal(one["median"].cpu(), other["median"].cpu())
    for name in ("features", "transmittance"):
        close(one[name], other[name], 1e-5)
    for name in (*NAMES, "absolute"):
        close(one[name], other[name], 1e-4)


@scenes
def test_rasters_and_gradients_are_those_of_the_reference(name: str):
    splats = SCENES[name](), features_of(len(SCENES[name]().means))
    one, other = (
        derived(kernels, *splats, background=(0.2, 0.5, 0.9))
        for kernels in (triton_blend, reference)
    )
    agree(one, other)
    if name == "finished":
        assert other["transmittance"].amax() < 1e-3
        assert (other["colors"] == 0).all(1).any()
    if name == "bounded":
        assert (other["transmittance"] <= 1 - ALPHA_MAX + 1e-9).any()


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 5), (5, 40)])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_size_and_number_of_channels(size: tuple[int, int], channels: int):
    footprints = scatter(9, size)
    features = features_of(9, channels)
    one, other = (
        derived(kernels, footprints, features, size) for kernels in (triton_blend, reference)
    )
    assert one["features"].shape == (size[1], size[0], channels)
    assert one["features"].is_contiguous()
    agree(one, other)


def test_the_median_can_be_spared():
    raster = triton_blend.rasterize(
        Footprints(*placed(triton_blend, scatter(5))),
        features_of(5).to(DEVICE),
        width=WIDTH,
        height=HEIGHT,
        median=False,
    )
    assert raster.median.shape == (0, 0)


def test_absolute_gradients_are_added():
    footprints, features = Footprints(*placed(triton_blend, scatter(5))), features_of(5).to(DEVICE)
    footprints.means.requires_grad_()
    absolute = torch.zeros(5, 2, device=DEVICE)
    sums = []
    for _ in range(2):
        raster = triton_blend.rasterize(
            footprints, features, width=WIDTH, height=HEIGHT, absolute_gradients=absolute
        )
        raster.features.sum().backward()
        sums.append(absolute.clone())
    assert sums[0].any()
    assert torch.equal(2 * sums[0], sums[1])


def pushed(
    kernels: Any, footprints: Footprints, features: Tensor, direction: list[Tensor]
) -> list[Tensor]:
    """How a raster changes along a direction of means, conics, opacities and features."""
    with forward_ad.dual_level():
        inputs = placed(kernels, (*footprints[:3], features))
        moves = placed(kernels, tuple(direction))
        *moving, shown = (forward_ad.make_dual(x, v) for x, v in zip(inputs, moves, strict=True))
        raster = kernels.rasterize(
            Footprints(*moving, *placed(kernels, footprints[3:])),
            shown,
            width=WIDTH,
            height=HEIGHT,
            background=(0.2, 0.5, 0.9)[: features.shape[1]] if features.shape[1] <= 3 else None,
        )
        images = (forward_ad.unpack_dual(x) for x in (raster.features, raster.transmittance))
        return [x.primal * 0 if x.tangent is None else x.tangent for x in images]


def directions(footprints: Footprints, features: Tensor) -> list[Tensor]:
    source = chance(5)
    inputs = (*footprints[:3], features)
    return [torch.randn(x.shape, generator=source) * (x.abs() + 0.1) for x in inputs]


@scenes
def test_products_with_the_derivative_are_those_of_the_reference(name: str):
    footprints = SCENES[name]()
    features = features_of(len(footprints.means))
    direction = directions(footprints, features)
    results = [
        pushed(kernels, footprints, features, direction) for kernels in (triton_blend, reference)
    ]
    for one, other in zip(*results, strict=True):
        close(one, other, 1e-4)


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize("name", ["few", "bounded"])
def test_products_are_adjoint(name: str, channels: int):
    """The sum of u (G v) is that of (G^T u) v."""
    footprints = SCENES[name]()
    features = features_of(len(footprints.means), channels)
    direction = directions(footprints, features)
    images = pushed(triton_blend, footprints, features, direction)
    background = (0.2, 0.5, 0.9) if channels == 3 else None
    found = derived(triton_blend, footprints, features, background=background)
    weights = torch.rand(HEIGHT, WIDTH, channels + 1, generator=chance(3)).double()
    image, transmittance = (x.double().cpu() for x in images)
    across = (image * weights[..., :-1]).sum() + (transmittance * weights[..., -1]).sum()
    gradients = [found[name].double().cpu() for name in NAMES]
    products = [(g * v).sum() for g, v in zip(gradients, direction, strict=True)]
    largest = max(p.abs().item() for p in products)
    assert across.item() == pytest.approx(sum(p.item() for p in products), abs=1e-4 * largest)


@scenes
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_moments_and_shares_are_those_of_the_reference(name: str, rate: float):
    footprints = SCENES[name]()
    features = features_of(len(footprints.means))
    origin = torch.rand(HEIGHT, WIDTH, 3, generator=chance(9))
    results = []
    for kernels in (triton_moments, reference):
        *moved, shown, start = placed(kernels, (*footprints, features, origin))
        shares = torch.full_like(shown[:, 0], 0.25)
        moments = kernels.rasterize_moments(
            Footprints(*moved),
            shown,
            rate=rate,
            width=WIDTH,
            height=HEIGHT,
            background=(0.2, 0.5, 0.9),
            origin=start if rate else None,
            shares=shares,
        )
        results.append([*moments, shares])
    for one, other in zip(*results, strict=True):
        close(one, other, 1e-5)
    variance, shares = results[0][1], results[0][3] - 0.25
    assert (variance >= 0).all()
    assert variance.any() == (rate > 0 and name not in ("none", "unseen"))
    torch.testing.assert_close(shares.sum(), variance.sum(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_moments_of_any_number_of_channels(channels: int):
    footprints, features = scatter(20), features_of(20, channels)
    results = []
    for kernels in (triton_moments, reference):
        *moved, shown = placed(kernels, (*footprints, features))
        shares = torch.zeros_like(shown[:, 0])
        moments = kernels.rasterize_moments(
            Footprints(*moved), shown, rate=0.2, width=17, height=9, shares=shares
        )
        results.append([*moments, shares])
    for one, other in zip(*results, strict=True):
        close(one, other, 1e-5)


def derived_moments(
    kernels: Any,
    footprints: Footprints,
    features: Tensor,
    rate: float,
    *,
    origin: Tensor | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> dict[str, Tensor]:
    """Gradients of a sum over moments."""
    *leaves, shown = (x.requires_grad_() for x in placed(kernels, (*footprints[:3], features)))
    moments = kernels.rasterize_moments(
        Footprints(*leaves, *placed(kernels, footprints[3:])),
        shown,
        rate=rate,
        width=size[0],
        height=size[1],
        background=None if origin is None else (0.2, 0.5, 0.9),
        origin=None if origin is None else placed(kernels, (origin,))[0],
        shares=torch.zeros_like(shown[:, 0]).detach(),
    )
    source = chance(3)
    weights = [torch.randn(image.shape, generator=source).to(shown) for image in moments]
    loss = sum((image * w).sum() for image, w in zip(moments, weights, strict=True))
    assert isinstance(loss, Tensor)
    return dict(zip(NAMES, torch.autograd.grad(loss, [*leaves, shown]), strict=True))


@scenes
def test_gradients_of_moments_are_those_of_the_reference(name: str):
    footprints = SCENES[name]()
    features = features_of(len(footprints.means))
    origin = torch.rand(HEIGHT, WIDTH, 3, generator=chance(9))
    one, other = (
        derived_moments(kernels, footprints, features, 0.3, origin=origin)
        for kernels in (triton_moments, reference)
    )
    for which in NAMES:
        close(one[which], other[which], 1e-4)
    assert other["opacities"].any() == (name not in ("none", "unseen"))


@pytest.mark.parametrize(("channels", "rate"), [(1, 0.2), (3, 0.0), (6, 0.2)])
def test_gradients_of_moments_of_any_number_of_channels(channels: int, rate: float):
    splats = scatter(20), features_of(20, channels)
    one, other = (
        derived_moments(kernels, *splats, rate) for kernels in (triton_moments, reference)
    )
    for which in NAMES:
        close(one[which], other[which], 1e-4)


def test_a_small_variance_is_not_lost():
    """Features that differ by a millionth of themselves, measured from about where they are."""
    footprints = scatter(10)
    features = 1000 + 1e-3 * features_of(10)
    origin = torch.full((HEIGHT, WIDTH, 3), 1000.0)
    results = []
    for kernels in (triton_moments, reference):
        *moved, shown, start = placed(kernels, (*footprints, features, origin))
        moments = kernels.rasterize_moments(
            Footprints(*moved),
            shown,
            rate=0.2,
            width=WIDTH,
            height=HEIGHT,
            background=(1000.0,) * 3,
            origin=start,
        )
        results.append(moments.variance)
    assert 0 < results[1].amax() < 1e-6
    close(results[0], results[1], 1e-4)


def screened(
    kernels: Any, footprints: Footprints, colors: Tensor, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over pixels of products of derivatives by what splats are on the image plane."""
    (width, height), source = size, chance(3)
    weights = torch.rand(height, width, 3, generator=source)
    *moved, shown, weights = placed(kernels, (*footprints, colors, weights))
    view = VIEW._replace(width=width, height=height)
    setting = derivative.Setting(Look(view, 0), (0.2, 0.5, 0.9), Window(0, 0, width, height))
    products = (derivative if kernels is reference else triton_curvature).screen_products
    return products(Footprints(*moved), shown, weights, setting)


def agree_in_units(one: tuple[Tensor, ...], other: tuple[Tensor, ...], part: float) -> None:
    """Equal to that part of the roots of the diagonal, so that none is lost among larger ones."""
    own, _, shown = other
    scales, light = own.diagonal(dim1=1, dim2=2).clamp_min(1e-30).sqrt(), shown.clamp_min(1e-30)
    rooms = scales[:, :, None] * scales[:, None], light.sqrt()[:, :, None] * scales[:, None], light
    for mine, theirs, room in zip(one, other, rooms, strict=True):
        assert mine.shape == theirs.shape
        assert (((mine.double().cpu() - theirs) / room).abs() <= part).all()


@scenes
def test_products_on_the_screen_are_those_of_the_reference(name: str):
    footprints = SCENES[name]()
    colors = features_of(len(footprints.means))
    one, other = (
        screened(kernels, footprints, colors) for kernels in (triton_curvature, reference)
    )
    agree_in_units(one, other, 1e-4)
    assert other[0].any() == (name not in ("none", "unseen"))


def test_rounding_makes_no_needle_amplify_light():
    """They are 100,000 pixels long and far beside the image: float32 cannot hold their forms."""
    source, count = chance(1), 40
    angles = 6 * torch.rand(count, generator=source)
    along = torch.stack([angles.cos(), angles.sin()], 1)
    across = torch.stack([-along[:, 1], along[:, 0]], 1)
    conics = across[:, :, None] * across[:, None]
    xx, xy, yy = conics[:, 0, 0], conics[:, 0, 1], conics[:, 1, 1]
    middles = torch.rand(count, 2, generator=source) * torch.tensor([WIDTH, HEIGHT])
    means = middles + 1e5 * (0.2 + torch.rand(count, 1, generator=source)) * along
    opacities, depths = 0.3 + 0.6 * torch.rand(2, count, generator=source)
    conics, extents = torch.stack([xx, xy, yy], 1), torch.full((count, 2), 3e5)
    footprints = Footprints(means, conics, opacities, depths, extents)
    features = features_of(count)
    for index in range(count):
        one = Footprints(*(x[index : index + 1] for x in placed(triton_blend, footprints)))
        shown = features[:1].to(DEVICE)
        raster = triton_blend.rasterize(one, shown, width=WIDTH, height=HEIGHT)
        assert (1 - raster.transmittance).amax() <= opacities[index] + 1e-6
    found = derived(triton_blend, footprints, features)
    assert ((found["transmittance"] > 0) & (found["transmittance"] <= 1)).all()
    found |= derived_moments(triton_moments, footprints, features, 0.3)
    products = screened(triton_curvature, footprints, features)
    changes = pushed(triton_blend, footprints, features, directions(footprints, features))
    for tensor in (*found.values(), *products, *changes):
        assert torch.isfinite(tensor).all()
        assert tensor.any()


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 5), (5, 40)])
def test_products_on_a_screen_of_any_size(size: tuple[int, int]):
    footprints, colors = scatter(9, size), features_of(9)
    one, other = (
        screened(kernels, footprints, colors, size) for kernels in (triton_curvature, reference)
    )
    for mine, theirs in zip(one, other, strict=True):
        close(mine, theirs, 1e-4)


def test_products_of_long_splats_keep_their_small_entries():
    """Whose quadratic forms are differences of large numbers, and the squares of those larger."""
    source, size = chance(1), (70, 40)
    angles = 3 * torch.rand(6, generator=source)
    axes = torch.stack([angles.cos(), angles.sin(), -angles.sin(), angles.cos()], 1).view(6, 2, 2)
    covariances = axes.mT @ torch.diag(torch.tensor([40.0, 1.0]).square()) @ axes
    means = torch.rand(6, 2, generator=source) * torch.tensor(size)
    opacities, depths = 0.3 + 0.6 * torch.rand(2, 6, generator=source)
    footprints = footprints_of(means, covariances, opacities, depths)
    one, other = (
        screened(kernels, footprints, features_of(6), size)
        for kernels in (triton_curvature, reference)
    )
    agree_in_units(one, other, 1e-4)


@scenes
def test_lists_hold_what_each_tile_meets_nearest_first(name: str):
    footprints = SCENES[name]()
    lists = triton_lists.tile_lists(footprints, WIDTH, HEIGHT)
    side = triton_lists.TILE
    tiles = [(x, y) for y in range(0, HEIGHT, side) for x in range(0, WIDTH, side)]
    order = reference.front_to_back(footprints).tolist()
    lower = (footprints.means - footprints.extents).double()
    upper = (footprints.means + footprints.extents).double()
    assert len(lists.begins) == len(tiles) + 1
    for tile, (x, y) in enumerate(tiles):
        corner = torch.tensor([x, y])
        meets = ((lower < corner + side) & (upper >= corner)).all(1)
        listed = lists.splats[lists.begins[tile] : lists.begins[tile + 1]].tolist()
        assert listed == [splat for splat in order if meets[splat]]


@scenes
def test_sums_by_splat_are_those_of_the_entries(name: str):
    footprints = SCENES[name]()
    lists, count = triton_lists.tile_lists(footprints, WIDTH, HEIGHT), len(footprints.means)
    values = torch.rand(len(lists.splats), 2, generator=chance(0)).double()
    table = torch.empty_like(values)
    table[lists.rows.long()] = values
    expected = torch.zeros(count, 2).double().index_add(0, lists.splats.long(), values)
    torch.testing.assert_close(lists.sum_by_splat(table, count), expected)


def test_what_the_kernels_cannot_do_is_said():
    footprints, features = scatter(5), features_of(5, 5)
    said = r"^depths must be float32 but is torch.float64: pass depths.float\(\)"
    wide = footprints._replace(depths=footprints.depths.double())
    with pytest.raises(ValueError, match=said):
        triton_blend.rasterize(wide, features, width=8, height=8)
    with pytest.raises(ValueError, match=said):
        triton_moments.rasterize_moments(wide, features, rate=0.1, width=8, height=8)
    with pytest.raises(ValueError, match=said):
        screened(triton_curvature, wide, features[:, :3])
    with pytest.raises(ValueError, match=r"^rate must be at least 0 and below 1"):
        triton_moments.rasterize_moments(footprints, features, rate=1, width=8, height=8)
    absolute = torch.zeros(5, 2)
    with pytest.raises(ValueError, match=r"at most 4 channels, not 5"):
        triton_blend.rasterize(footprints, features, width=8, height=8, absolute_gradients=absolute)
    with pytest.raises(ValueError, match=r"^absolute_gradients must be float32 \[5, 2\]"):
        triton_blend.rasterize(
            footprints, features, width=8, height=8, absolute_gradients=absolute[:4]
        )


def test_the_probe_tells_what_is_missing():
    assert triton_blend._draws_one_splat(DEVICE)
    # Whoever only paints may be the first to ask.
    with torch.no_grad():
        assert triton_blend._draws_one_splat(DEVICE)
    with torch.inference_mode():
        assert triton_blend._draws_one_splat(DEVICE)
    if DEVICE == "cpu":
        assert triton_blend.probe() == "torch finds no NVIDIA GPU"
    else:
        assert triton_blend.probe() is None


# The CUDA backend, where gsplat does not work -------------------------------------------------


@pytest.fixture
def without_gsplat(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where only Triton works."""
    monkeypatch.setattr(cuda, "probe", lambda: "gone")
    monkeypatch.setattr(cuda, "probe_triton", lambda: None)


VIEW = View((1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 4), (45, 45), (21, 11), WIDTH, HEIGHT, 0.1)


def cloud(count: int = 30, seed: int = 0) -> Parameters:
    """Splats about the origin, of which some are not in view."""
    source = chance(seed)
    shapes = ((count, 3), (count, 4), (count, 3), (count,), (count, 3), (count, 3, 3))
    means, quaternions, log_scales, *rest = (torch.randn(s, generator=source) for s in shapes)
    return Parameters(1.5 * means, quaternions, 0.5 * log_scales - 1.5, *rest)


def seen_by(kernels: Any, splats: Parameters) -> Parameters:
    """See `placed`."""
    return Parameters(*placed(reference if kernels is reference else triton_blend, splats))


def parts_of(kernels: Any) -> Parts:
    """The operations of the CUDA backend or of the definition."""
    return Parts(REFERENCE if kernels is reference else cuda.BACKEND, images_reference)


def linearized(kernels: Any, splats: Parameters) -> Linear:
    return parts_of(kernels).linearize(
        seen_by(kernels, splats),
        view=VIEW,
        degree=1,
        filter="antialiased",
        background=(0.2, 0.5, 0.9),
    )


@pytest.mark.usefixtures("without_gsplat")
@pytest.mark.parametrize("count", [0, 5, 30])
def test_products_of_the_backend_are_those_of_the_reference(count: int):
    splats = cloud(count)
    one, other = (linearized(kernels, splats) for kernels in (cuda, reference))
    close(one.color, other.color, 1e-5)
    direction = cloud(count, seed=1)
    change = other.jvp(seen_by(reference, direction))
    close(one.jvp(seen_by(cuda, direction)), change, 1e-4)
    assert change.any() == (count > 0)
    weights = torch.randn(HEIGHT, WIDTH, 3, generator=chance(2))
    for mine, theirs in zip(one.vjp(weights.to(DEVICE)), other.vjp(weights.double()), strict=True):
        close(mine, theirs, 1e-4)
    squares = weights.square()
    for mine, theirs in zip(
        one.blocks(squares.to(DEVICE)), other.blocks(squares.double()), strict=True
    ):
        close(mine, theirs, 1e-4)


@pytest.mark.usefixtures("without_gsplat")
def test_pictures_of_the_backend_are_those_of_the_reference():
    results = []
    for kernels in (cuda, reference):
        splats = seen_by(kernels, cloud())
        shares = torch.zeros_like(splats.opacity_logits)
        background = (0.2, 0.5, 0.9)
        painted = parts_of(kernels).paint(splats, view=VIEW, degree=1, background=background)
        moments = parts_of(kernels).paint_moments(
            splats, view=VIEW, degree=1, background=background, rate=0.2, shares=shares
        )
        results.append([*painted, *moments, shares])
    for one, other in zip(*results, strict=True):
        assert other.any()
        close(one, other, 1e-5)


@pytest.mark.usefixtures("without_gsplat")
def test_a_step_of_the_backend_is_that_of_the_reference():
    results = []
    photo = torch.rand(HEIGHT, WIDTH, 3, generator=chance(4))
    for kernels in (cuda, reference):
        splats = seen_by(kernels, cloud())
        first, second = (Parameters(*(torch.zeros_like(x) for x in splats)) for _ in range(2))
        pull = Pull(*(torch.zeros_like(splats.opacity_logits) for _ in range(2)))
        target = Target(VIEW, photo.to(splats.means), (0.0, 0.0, 0.0), 0.2)
        adam = Adam(Rates(*(1e-2 for _ in splats)), 1)
        moments = Moments(first, second)
        descend = parts_of(kernels).descend
        loss = descend(splats, moments, target, adam, degree=1, pull=pull)
        results.append([torch.tensor(loss), *first, pull.gradient, pull.views])
    for one, other in zip(*results, strict=True):
        assert other.any()
        close(one, other, 1e-3)


COMPILE = """
import itertools, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lumigraph.kernels.splats.triton import blend as triton_blend
from lumigraph.kernels.splats.triton import curvature as triton_curvature
from lumigraph.kernels.splats.triton import moments as triton_moments

TYPES = dict.fromkeys(("begins", "splats", "rows", "median"), "*i32")
TYPES |= dict.fromkeys(("width", "height", "columns"), "i32")
TYPES |= dict.fromkeys(("keep", "drop"), "fp32")
KERNELS = (
    triton_blend._blend,
    triton_blend._blend_backward,
    triton_blend._blend_forward_mode,
    triton_curvature._curve,
    triton_moments._moments,
    triton_moments._moments_backward,
)
# An argument of 1 is compiled in: images may be one pixel wide, and of one column of tiles.
for kernel, channels, ones in itertools.product(KERNELS, (1, 3), ((), ("width", "columns"))):
    fixed = {"CHANNELS": channels, "PADDED": triton.next_power_of_2(channels), "TILE": 16}
    fixed |= {"MEDIAN": True, "ABSOLUTE": True, "NUMBERS": 8 + channels, "BATCH": 4}
    fixed |= {"ORIGIN": True, "SHARES": True, "ALPHA_MAX": 0.99} | dict.fromkeys(ones, 1)
    names = kernel.arg_names
    signature = {n: "constexpr" if n in fixed else TYPES.get(n, "*fp32") for n in names}
    constants = {(i,): fixed[n] for i, n in enumerate(names) if n in fixed}
    source = ASTSource(kernel, signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert ".visible .entry" in compiled.asm["ptx"]
    print(kernel.__name__)
"""


def test_the_kernels_compile_for_a_gpu_where_there_is_none(tmp_path: Path):
    settings = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-P", "-c", COMPILE],
        env=settings | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.split()) == 24


@pytest.mark.cuda
def test_a_larger_image_on_a_gpu_is_that_of_the_reference_and_the_same_each_time():
    size = (500, 300)
    footprints, features = scatter(500, size, spread=10.0), features_of(500)
    one, same = (derived(triton_blend, footprints, features, size) for _ in range(2))
    for name, value in one.items():
        assert torch.equal(value, same[name])
    other = derived(reference, footprints, features, size)
    for name in (*NAMES, "absolute"):
        close(one[name], other[name], 1e-3)
    mine, again, theirs = (
        screened(kernels, footprints, features, size)
        for kernels in (triton_curvature, triton_curvature, reference)
    )
    for x, same_x, expected in zip(mine, again, theirs, strict=True):
        assert torch.equal(x, same_x)
        close(x, expected, 1e-3)
    bent, bent_again, expected = (
        derived_moments(kernels, footprints, features, 0.2, size=size)
        for kernels in (triton_moments, triton_moments, reference)
    )
    for name in NAMES:
        assert torch.equal(bent[name], bent_again[name])
        close(bent[name], expected[name], 1e-3)
