"""Density control beside 3DGS: budgets, scores of several views, neighbours in memory."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lumigraph.recon import Plan
from lumigraph.recon.density import EXPECTED, Statistics, refine, split_longest
from lumigraph.recon.errors import Shown, shown
from lumigraph.recon.initial import splats_from_points
from lumigraph.recon.morton import BITS, morton_order
from lumigraph.render import Camera, Splats, render, to_bytes

PLAN = Plan(steps=100, refine_stop=80, grow_scale=10.0, prune_scale=10.0)
BLACK = (0.0, 0.0, 0.0)


def some(count: int) -> Splats:
    """Splats of one size at random places before the camera, of random colours."""
    points = torch.rand(count, 3) * 2 - 1
    splats = splats_from_points(points, torch.rand(count, 3), Plan(steps=1, start_opacity=0.5))
    return dataclasses.replace(splats, log_scales=torch.full((count, 3), math.log(0.1)))


def camera() -> Camera:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[2, 3] = 4
    return Camera(matrix, (30.0, 30.0), (16.0, 12.0), 32, 24)


def fit_of(splats: Splats, plan: Plan, step: int = 40, start: int | None = None) -> Any:
    """The part of a fit that density control changes; each splat is pulled at as its index says."""
    moments = {name: torch.zeros_like(value) for name, value in splats.tensors.items()}
    count = len(splats)
    start = count if start is None else start
    return SimpleNamespace(
        plan=plan,
        step=step,
        splats=splats,
        first=moments,
        second=dict(moments),
        statistics=Statistics(torch.arange(count) + 1.0, torch.ones(count)),
        levels=torch.tensor([[0.0, 1.0]], dtype=torch.float64),
        start_splats=start,
        expected_splats=EXPECTED * start,
    )


def refined(fit: Any, seen: Shown | None = None) -> Splats:
    refine(fit, torch.Generator().manual_seed(0), seen)
    return fit.splats


@pytest.mark.parametrize(("step", "count"), [(20, 18), (40, 25), (80, 30), (99, 30)])
def test_a_budget_is_reached_when_refinement_stops(step, count):
    plan = dataclasses.replace(PLAN, growth="budget", splat_budget=30, grow_gradient=1e9)
    # From 10 splats along 30 - 20 (1 - t)^2; a refinement can at most double what is there.
    fit = fit_of(some(16), plan, step=step, start=10)
    assert len(refined(fit)) == min(count, 32)


def test_a_budget_below_what_is_there_grows_nothing():
    plan = dataclasses.replace(PLAN, growth="budget", splat_budget=5)
    assert len(refined(fit_of(some(10), plan))) == 10


def test_small_photos_allow_fewer_splats():
    plan = dataclasses.replace(PLAN, growth="resolution", grow_gradient=0.5)
    counts = []
    for downscale in (4.0, 2.0, 1.0):
        fit = fit_of(some(40), plan, start=10)
        fit.expected_splats = 60.0
        fit.levels[0, 1] = downscale
        counts.append(len(refined(fit)))
    # All 40 want to grow, so 98.8 are expected: 10 + 88.8 / downscale^1.6, but none is removed.
    assert counts == [40, 40, 80]
    fit = fit_of(some(40), plan, start=10)
    fit.levels[0, 1] = 1.5
    assert len(refined(fit)) == int(10 + (0.98 * 50 + 40 - 10) / 1.5**1.6)
    assert fit.expected_splats == pytest.approx(0.98 * 50 + 40)


def test_clones_that_share_hide_together_what_one_did():
    splats = some(5)
    before = splats.opacity_logits.sigmoid()
    plan = dataclasses.replace(PLAN, clones="shared", grow_gradient=2.5)
    after = refined(fit_of(splats, plan)).opacity_logits.sigmoid()
    torch.testing.assert_close(after[:2], before[:2])
    torch.testing.assert_close(1 - (1 - after[2:5]) * (1 - after[5:]), before[2:])


def test_halves_along_the_longest_axis_have_the_weight_and_the_extent_of_the_whole():
    splats = some(1)
    splats.log_scales[:] = torch.tensor([-2.0, -1.0, -4.0])
    splats.quaternions[:] = torch.tensor([0.5, 0.5, 0.5, 0.5])  # x -> y -> z -> x
    left, right = split_longest(splats)
    torch.testing.assert_close((left.means + right.means) / 2, splats.means)
    apart = (right.means - left.means) / 2
    assert apart[0, :2].abs().max() < 1e-6  # Its second axis lies along the scene's third.
    scales, halves = splats.log_scales.exp(), left.log_scales.exp()
    torch.testing.assert_close(halves[0, 1] ** 2 + apart[0, 2] ** 2, scales[0, 1] ** 2)
    assert torch.equal(halves[0, [0, 2]], scales[0, [0, 2]])
    weight = splats.opacity_logits.sigmoid() * scales.prod(1)
    torch.testing.assert_close(2 * left.opacity_logits.sigmoid() * halves.prod(1), weight)


def test_what_views_show_of_splats_is_their_blend_weight():
    splats, view = some(20), camera()
    black = torch.zeros(view.height, view.width, 3, dtype=torch.uint8)
    seen = shown(splats, [(view, black), (view, black)], BLACK, 0.0)
    opacity = render(splats, view).opacity
    torch.testing.assert_close(seen.pixels.sum(), 2 * opacity.sum())
    torch.testing.assert_close(seen.most, seen.pixels / 2)
    assert (seen.views == 2).all()
    # With a level of zero all that is seen at all is wrong.
    torch.testing.assert_close(seen.wrong, seen.pixels)


def test_only_the_splat_that_is_wrong_is_blamed():
    left = torch.tensor([[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0]])
    splats = splats_from_points(left, torch.full((2, 3), 0.6), Plan(steps=1, start_opacity=0.9))
    splats.log_scales[:] = math.log(0.08)
    view = camera()
    photo = to_bytes(render(splats, view).color)
    photo[:, : view.width // 2] = 255 - photo[:, : view.width // 2]
    seen = shown(splats, [(view, photo)], BLACK, 1.0)
    assert seen.wrong[0] > 0.3 * seen.pixels[0]
    assert seen.wrong[1] == 0
    assert torch.allclose(seen.pixels[0], seen.pixels[1], rtol=1e-3)


def test_a_splat_out_of_sight_is_in_no_view():
    splats = splats_from_points(
        torch.tensor([[0.0, 0, 0], [0, 0, -90.0]]), torch.ones(2, 3), Plan(steps=1)
    )
    splats.log_scales[:] = math.log(0.1)
    view = camera()
    photo = torch.zeros(view.height, view.width, 3, dtype=torch.uint8)
    seen = shown(splats, [(view, photo)], BLACK, 1.0)
    assert seen.views.tolist() == [1, 0]
    assert seen.pixels[1] == 0


def test_only_splats_that_show_wrong_pixels_grow():
    plan = dataclasses.replace(PLAN, grow_error=2.0)
    seen = Shown(*torch.tensor([[9.0] * 4, [9, 9, 0, 3], [9.0] * 4, [3, 5, 0, 1]]))
    splats = some(4)
    after = refined(fit_of(splats, plan), seen)
    assert torch.equal(after.means, splats.means[[0, 1, 2, 3, 0, 3]])


def test_splats_that_show_nothing_or_only_what_is_wrong_are_removed():
    plan = dataclasses.replace(PLAN, grow_gradient=1e9, prune_error=0.8, prune_contribution=0.5)
    pixels = torch.tensor([10.0, 10, 10, 1, 0, 0.6])
    seen = Shown(
        pixels=pixels,
        wrong=torch.tensor([9.0, 7, 0, 0, 0, 0]),
        most=torch.tensor([5.0, 5, 5, 0.4, 0, 0.6]),
        views=torch.tensor([2.0, 2, 2, 3, 0, 1]),
    )
    splats = some(6)
    assert torch.equal(refined(fit_of(splats, plan), seen).means, splats.means[[1, 2, 4, 5]])


def test_a_wrong_splat_that_grows_is_not_removed():
    plan = dataclasses.replace(PLAN, prune_error=0.8)
    ones = torch.ones(3)
    after = refined(fit_of(some(3), plan), Shown(ones, ones, ones, ones))
    assert len(after) == 6


def test_the_order_in_memory_changes_nothing_else():
    splats = some(50)
    fits = []
    for layout in ("age", "morton"):
        fit = fit_of(splats, dataclasses.replace(PLAN, layout=layout, grow_gradient=40.0))
        fit.first = {name: value + 1 for name, value in splats.tensors.items()}
        refined(fit)
        fits.append(fit)
    order = morton_order(fits[0].splats.means)
    for name, value in fits[0].splats.tensors.items():
        assert torch.equal(value[order], fits[1].splats.tensors[name])
        assert torch.equal(fits[0].first[name][order], fits[1].first[name])
    assert torch.equal(morton_order(fits[1].splats.means), torch.arange(len(order)))


def test_a_morton_curve_visits_each_half_cell_after_the_other():
    axis = torch.arange(4.0)
    grid = torch.cartesian_prod(axis, axis, axis)
    order = morton_order(grid)
    assert sorted(order.tolist()) == list(range(64))
    eighths = (grid[order].view(8, 8, 3) >= 2).all(1) | (grid[order].view(8, 8, 3) < 2).all(1)
    assert eighths.all()  # No eighth of the cube is left before all of it was seen.
    expected = [[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert grid[order][:5].tolist() == expected


def test_a_morton_order_tells_apart_what_float32_does_and_keeps_the_order_of_equals():
    x = torch.tensor([1.0, 0.0, 2.0**-BITS * 3, 0.0])
    assert morton_order(torch.stack([x, x * 0, x * 0], 1)).tolist() == [1, 3, 2, 0]
    assert morton_order(torch.ones(3, 3)).tolist() == [0, 1, 2]
    assert morton_order(torch.zeros(0, 3)).shape == (0,)
