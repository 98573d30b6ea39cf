"""Density control: halves of a split splat, and neighbours in memory."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import torch

from lumigraph.kernels import Pull
from lumigraph.recon import Plan
from lumigraph.recon.splats.density import refine
from lumigraph.recon.splats.morton import BITS, morton_order
from lumigraph.recon.splats.start import splats_from_points
from lumigraph.render import Splats


def some(count: int) -> Splats:
    """Splats of one size at random places before the camera, of random colours."""
    points = torch.rand(count, 3) * 2 - 1
    splats = splats_from_points(points, torch.rand(count, 3), Plan(steps=1, start_opacity=0.5))
    return dataclasses.replace(splats, log_scales=torch.full((count, 3), math.log(0.1)))


def test_what_belongs_to_a_splat_moves_with_it_along_the_curve():
    splats = some(50)
    fit: Any = SimpleNamespace(
        plan=Plan(steps=100, grow_gradient=40.0),
        step=60,
        splats=splats,
        first={name: value + 1 for name, value in splats.tensors.items()},
        second={name: value + 2 for name, value in splats.tensors.items()},
        last=torch.full((50,), 7, dtype=torch.int32),
        pull=Pull(torch.arange(50) + 0.5, torch.ones(50)),
    )
    refine(fit, torch.Generator().manual_seed(0))
    means = fit.splats.means
    assert torch.equal(morton_order(means), torch.arange(len(means)))
    old = fit.last == 7
    assert (fit.last[~old] == 60).all()
    assert [int(rows.sum()) for rows in (old, ~old)] == [40, 20]  # Ten are split in two.
    for name, value in fit.splats.tensors.items():
        assert torch.equal(fit.first[name][old], value[old] + 1)
        assert torch.equal(fit.second[name][old], value[old] + 2)
        assert not fit.first[name][~old].any()
        assert not fit.second[name][~old].any()


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
