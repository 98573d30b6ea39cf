"""The part of the CPU backend that works on the derivative of a picture."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lumigraph.kernels import _native
from lumigraph.kernels.splats.checks import (
    check_blocks,
    check_direction,
    check_gradient,
    check_unchanged,
    check_weights,
)
from lumigraph.kernels.splats.types import GEOMETRY, Blocks, Parameters


@dataclass(frozen=True)
class Products:
    """A `Linearization` in C++.

    Between products it keeps the splats in view and the sorted list of each tile: 72 bytes a
    splat, 24 an entry of a list and a quarter more to grow, and the picture. While one is found it
    takes 64 bytes a splat (`jvp`), 48 an entry (`vjp`) or 128 and 32 a splat (`blocks`; 96 and none
    without harmonics) from memory that all objects share.
    """

    color: Tensor
    splats: Parameters
    """As they were given: `native` may read copies that are contiguous."""
    versions: tuple[int, ...]
    """Of these tensors, which count their changes."""
    native: _native.Linearization

    @property
    def bytes(self) -> int:
        """See `Linearization.bytes`."""
        return self.native.bytes + self.color.nbytes

    @torch.no_grad()
    def jvp(self, direction: Parameters) -> Tensor:
        """See `Linearization.jvp`."""
        check_direction(direction, self.splats)
        check_unchanged(self.splats, self.versions)
        image = torch.empty_like(self.color)
        self.native.jvp(tuple(x.detach().contiguous() for x in direction), image)
        return image

    @torch.no_grad()
    def vjp(self, weights: Tensor, out: Parameters | None = None) -> Parameters:
        """See `Linearization.vjp`."""
        check_weights(weights, self.color)
        check_unchanged(self.splats, self.versions)
        if out is None:
            out = Parameters(*(torch.zeros(x.shape) for x in self.splats))
        check_gradient(out, self.splats)
        self.native.vjp(weights.detach().contiguous(), tuple(out))
        torch.autograd.graph.increment_version(out)
        return out

    @torch.no_grad()
    def blocks(self, weights: Tensor, out: Blocks | None = None) -> Blocks:
        """See `Linearization.blocks`."""
        check_weights(weights, self.color)
        check_unchanged(self.splats, self.versions)
        if out is None:
            *_, base, rest = self.splats
            geometry = torch.zeros(len(base), GEOMETRY * (GEOMETRY + 1) // 2)
            out = Blocks(geometry, torch.zeros(base.shape), torch.zeros(rest.shape))
        check_blocks(out, self.splats)
        self.native.blocks(weights.detach().contiguous(), tuple(out))
        torch.autograd.graph.increment_version(out)
        return out
