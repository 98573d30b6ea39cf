"""Needles of 100,000 pixels: no rounding of their quadratic forms makes a splat amplify light.

At an image far from its centre, the form of a slanting needle is a small difference of numbers that
are too large for float32: rounding makes it positive at some pixels, where it would be an alpha
without bound.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from parts import Parts
from torch import Tensor

from lumigraph.kernels import Adam, Look, Moments, Parameters, Rates, Target, View
from lumigraph.kernels._native import active_level, available_levels, select_level
from lumigraph.kernels.images import cpu as images_cpu
from lumigraph.kernels.images import reference as images_reference
from lumigraph.kernels.splats import cpu as splats_cpu
from lumigraph.kernels.splats.composed import REFERENCE

cpu = Parts(splats_cpu, images_cpu)
reference = Parts(REFERENCE, images_reference)

WIDTH, HEIGHT = 37, 21
FOCAL, DEPTH, LENGTH = 40.0, 3.0, 8000.0
VIEW = View(
    (1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), (FOCAL, FOCAL), (18.0, 10.0), WIDTH, HEIGHT, 0.1
)
OPTIONS: dict[str, Any] = {"view": VIEW, "degree": 1, "background": (0.2, 0.5, 0.9)}
COUNT = 60


@pytest.fixture(params=["reference", *(f"cpu-{level}" for level in available_levels())])
def kernels(request: pytest.FixtureRequest) -> Iterator[Parts]:
    if request.param == "reference":
        yield reference
        return
    before = active_level()
    select_level(request.param.removeprefix("cpu-"))
    yield cpu
    select_level(before)


def random(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers that float32 has."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def needles(length: float = LENGTH) -> Parameters:
    """Needles across the image, each at an angle of its own, and centred about as far as long."""
    angles = math.pi * random(COUNT, seed=1)
    axis = torch.stack([angles.cos(), angles.sin(), torch.zeros(COUNT)], 1)
    # Where each crosses the middle of the image, and how far from there its centre is.
    across = torch.tensor([0.2, 0.1, 0.3]) * random(COUNT, 3, seed=2) + torch.tensor([0, 0, DEPTH])
    away = length * (0.2 + random(COUNT, seed=3).sigmoid()) * random(COUNT, seed=4).sign()
    quaternions = torch.zeros(COUNT, 4)
    quaternions[:, 0], quaternions[:, 3] = (angles / 2).cos(), (angles / 2).sin()
    return Parameters(
        means=across + away[:, None] * axis,
        quaternions=quaternions,
        log_scales=torch.tensor([math.log(length), -3.5, -3.5]).repeat(COUNT, 1),
        opacity_logits=2 * random(COUNT, seed=5),
        base=random(COUNT, 3, seed=6),
        rest=0.1 * random(COUNT, 3, 3, seed=7),
    )


def upright(axis: int) -> Parameters:
    """Needles along the rows of the image, or its columns, and centred where they are."""
    along = torch.nn.functional.one_hot(torch.tensor(axis), 3).float()
    across = torch.tensor([0.2, 0.1, 0.3]) * random(COUNT, 3, seed=2) + torch.tensor([0, 0, DEPTH])
    away = LENGTH * (0.2 + random(COUNT, seed=3).sigmoid()) * random(COUNT, seed=4).sign()
    return needles()._replace(
        means=across + away[:, None] * along,
        quaternions=torch.tensor([1.0, 0, 0, 0]).repeat(COUNT, 1),
        log_scales=(math.log(LENGTH) + 3.5) * along.repeat(COUNT, 1) - 3.5,
    )


def only(splats: Parameters, index: int) -> Parameters:
    return Parameters(*(x[index : index + 1].clone() for x in splats))


def test_no_alpha_is_more_than_the_opacity(kernels: Parts):
    splats = needles()
    for index in range(COUNT):
        one = only(splats, index)
        _, transmittance = kernels.paint(one, **OPTIONS)
        opacity = one.opacity_logits.sigmoid().item()
        assert (1 - transmittance).amax() <= 1.00001 * min(opacity, 0.99)
        assert (transmittance <= 1).all()


def test_light_is_never_amplified(kernels: Parts):
    splats = needles()
    color, transmittance = kernels.paint(splats, **OPTIONS)
    footprints, shown = kernels.look(splats, Look(VIEW, 1))
    brightest = max(0.9, shown.amax().item())
    assert (transmittance > 0).all()
    assert (transmittance < 1).any()
    assert ((color >= 0) & (color <= 1.0001 * brightest)).all()
    moments = kernels.rasterize_moments(footprints, shown, rate=0.3, width=WIDTH, height=HEIGHT)
    assert ((moments.mean >= 0) & (moments.mean <= 1.0001 * brightest)).all()
    assert ((moments.variance >= 0) & (moments.variance <= brightest**2)).all()


def test_gradients_are_numbers(kernels: Parts):
    splats = Parameters(*(x.requires_grad_() for x in needles()))
    footprints, shown = kernels.look(splats, Look(VIEW, 1))
    size: dict[str, Any] = {"width": WIDTH, "height": HEIGHT}
    raster = kernels.rasterize(footprints, shown, **size)
    moments = kernels.rasterize_moments(footprints, shown, rate=0.3, **size)
    for images in (raster[:2], moments):
        loss = sum((x.square().mean() for x in images), torch.zeros(()))
        for gradient in torch.autograd.grad(loss, splats, retain_graph=True):
            assert torch.isfinite(gradient).all()
            assert gradient.any()


def test_products_are_numbers(kernels: Parts):
    splats = needles()
    weights = random(HEIGHT, WIDTH, 3, seed=8)
    direction = Parameters(*(random(*x.shape, seed=20 + i) for i, x in enumerate(splats)))
    linear = kernels.linearize(splats, **OPTIONS)
    for product in ((linear.jvp(direction),), linear.vjp(weights), linear.blocks(weights.square())):
        assert all(torch.isfinite(x).all() and x.any() for x in product)


def test_products_of_shorter_ones_are_adjoint_and_blocks_are_theirs(kernels: Parts):
    """Of 1,000 pixels: rounding still makes forms positive, but spares their derivatives.

    The definition has formulas that are easy to read, and needs float64 for this.
    """
    like = torch.float64 if kernels is reference else torch.float32
    splats = Parameters(*(x.to(like) for x in needles(LENGTH / 100)))
    weights = random(HEIGHT, WIDTH, 3, seed=8).to(like)
    direction = Parameters(*(random(*x.shape, seed=20 + i).to(like) for i, x in enumerate(splats)))
    linear = kernels.linearize(splats, **OPTIONS)
    change, gradient = linear.jvp(direction), linear.vjp(weights)
    pairs = zip(gradient, direction, strict=True)
    right = sum((g.double() * v.double()).sum().item() for g, v in pairs)
    size = weights.double().norm().item() * change.double().norm().item()
    assert abs((weights.double() * change.double()).sum().item() - right) <= 1e-3 * size
    # Of one splat, v^T B v is the weighted square of what moves with its geometry.
    for index in range(12):
        one = kernels.linearize(only(splats, index), **OPTIONS)
        way = only(direction, index)
        way = way._replace(base=0 * way.base, rest=0 * way.rest)
        moved = (weights.square() * one.jvp(way).square()).double().sum().item()
        flat = torch.cat([*way[:3], way.opacity_logits[:, None]], 1).double()[0]
        block = one.blocks(weights.square()).matrices().double()[0]
        assert (flat @ block @ flat).item() == pytest.approx(moved, rel=0.02, abs=1e-12)


def test_a_step_leaves_numbers(kernels: Parts):
    splats = needles()
    first, second = (Parameters(*map(torch.zeros_like, splats)) for _ in range(2))
    moments = Moments(first, second, torch.zeros(COUNT, dtype=torch.int32))
    photo = (255 * random(HEIGHT, WIDTH, 3, seed=9).sigmoid()).to(torch.uint8)
    for step in range(1, 4):
        adam = Adam(rates=Rates(1e-3, 1e-3, 1e-3, 1e-2, 1e-2, 1e-3), step=step)
        loss = kernels.descend(splats, moments, Target(VIEW, photo), adam, degree=1)
        assert 0 < loss < 2
    for tensor in (*splats, *first, *second):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_needles_along_rows_and_columns_are_those_of_the_definition(kernels: Parts, axis: int):
    """Their forms are no differences of large numbers, whatever their length."""
    truth = Parameters(*(x.double() for x in upright(axis)))
    weights = random(HEIGHT, WIDTH, 3, seed=8)
    exact, linear = (
        reference.linearize(truth, **OPTIONS),
        kernels.linearize(upright(axis), **OPTIONS),
    )
    assert exact.color.std() > 0.1
    assert (linear.color - exact.color).abs().max() <= 2e-4
    for one, other in zip(linear.vjp(weights), exact.vjp(weights.double()), strict=True):
        assert (one - other).abs().max() <= 1e-2 * other.abs().max()
