"""The first splats of a fit."""

import torch

from lumigraph.recon.splats.start import neighbor_distances


def test_neighbor_distances_of_a_grid():
    axis = torch.arange(5) * 0.1
    grid = torch.cartesian_prod(axis, axis, axis)
    torch.testing.assert_close(neighbor_distances(grid), torch.full((125,), 0.1))
    assert neighbor_distances(torch.zeros(1, 3)).shape == (1,)
    assert neighbor_distances(torch.zeros(5, 3)).min() > 0
