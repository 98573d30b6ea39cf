"""The Morton order: neighbours in space lie next to each other in memory."""

import math

import pytest
import torch

from lumigraph.recon.splats.morton import BITS, morton_order


def test_a_morton_curve_visits_one_eighth_of_the_cube_after_the_other():
    axis = torch.arange(4.0)
    grid = torch.cartesian_prod(axis, axis, axis)
    order = morton_order(grid)
    assert sorted(order.tolist()) == list(range(64))
    eighths = (grid[order].view(8, 8, 3) >= 2).all(1) | (grid[order].view(8, 8, 3) < 2).all(1)
    assert eighths.all()  # The curve visits all cells of an eighth of the cube before it leaves.
    expected = [[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert grid[order][:5].tolist() == expected


def test_a_morton_order_separates_what_float32_separates_and_keeps_the_order_of_equals():
    x = torch.tensor([1.0, 0.0, 2.0**-BITS * 3, 0.0])
    assert morton_order(torch.stack([x, x * 0, x * 0], 1)).tolist() == [1, 3, 2, 0]
    assert morton_order(torch.ones(3, 3)).tolist() == [0, 1, 2]
    assert morton_order(torch.zeros(0, 3)).shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, -3e38])
def test_points_that_are_not_finite_come_last_and_the_others_keep_their_order(value):
    points = torch.rand(100, 3)
    expected = morton_order(points).tolist()
    assert expected != list(range(100))
    points = torch.cat([points[:40], torch.rand(3, 3), points[40:]])
    points[40, 0], points[41, 1], points[42] = value, value, value
    if math.isfinite(value):  # The difference of 3e38 and -3e38 leaves float32.
        points[42, 2] = -value
    order = morton_order(points).tolist()
    assert sorted(order) == list(range(103))
    if not math.isfinite(value):
        assert [i - 3 * (i > 42) for i in order[:100]] == expected
        assert order[100:] == [40, 41, 42]
    assert morton_order(torch.full((3, 3), value)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("far", [1e6, 1e30])
def test_a_point_that_is_far_away_leaves_the_others_sorted(far):
    points = torch.rand(1000, 3)

    def way(order: list[int]) -> float:
        """The length of the way through the points."""
        return float(points[order].diff(dim=0).norm(dim=1).sum())

    order = morton_order(torch.cat([points, torch.tensor([[far, -far, 0.0]])])).tolist()
    assert way([i for i in order if i < 1000]) < 1.1 * way(morton_order(points).tolist())
