"""The part of the CPU backend that works on moments over dropped splats."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lumigraph.kernels import _native
from lumigraph.kernels.splats.checks import check_moments
from lumigraph.kernels.splats.types import Footprints, RasterMoments


def chances(rate: float) -> tuple[float, float]:
    """The probabilities that a splat is there, and that it is missing."""
    return 1 - rate, rate


class _RasterizeMoments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        size: tuple[int, int],
        rate: float,
        background: tuple[float, ...],
        origin: Tensor | None,
        shares: Tensor | None,
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and transmittance."""
        *projected, features = inputs
        footprints = Footprints(*projected)
        (width, height), channels = size, features.shape[1]
        ctx.lists = _native.tile_lists(*footprints, size, torch.get_num_threads())
        ctx.arguments = (background, chances(rate))
        mean = features.new_empty(height, width, channels)
        variance, transmittance = torch.empty_like(mean), features.new_empty(height, width)
        _native.moments(
            ctx.lists, features, *ctx.arguments, origin, mean, variance, transmittance, shares
        )
        ctx.save_for_backward(footprints.conics, features, origin)
        return mean, variance, transmittance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """To means, conics, opacities and features."""
        conics, features, origin = ctx.saved_tensors
        background, chance = ctx.arguments
        count = conics.shape[0]
        out = (
            conics.new_zeros(count, 2),
            torch.zeros_like(conics),
            conics.new_zeros(count),
            torch.zeros_like(features),
        )
        incoming = tuple(gradient.contiguous() for gradient in gradients)
        _native.moments_backward(
            ctx.lists, features, conics, background, chance, origin, incoming, out
        )
        means, conics, opacities, features = out
        return (*[None] * 5, means, conics, opacities, None, None, features)


def rasterize_moments(
    footprints: Footprints,
    features: Tensor,
    *,
    rate: float,
    width: int,
    height: int,
    background: tuple[float, ...] | None = None,
    origin: Tensor | None = None,
    shares: Tensor | None = None,
) -> RasterMoments:
    """See `Backend.rasterize_moments`."""
    check_moments(
        features.shape[1],
        rate,
        (width, height),
        background,
        origin,
        shares,
        len(features),
        features,
    )
    if origin is not None:
        origin = origin.detach().contiguous()
    inputs = (*(x.contiguous() for x in footprints), features.contiguous())
    moments = _RasterizeMoments.apply(
        (width, height), rate, background or (), origin, shares, *inputs
    )
    if shares is not None:
        torch.autograd.graph.increment_version(shares)
    return RasterMoments(*moments)
