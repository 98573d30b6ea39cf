"""How far a splat may move in one step: a trust region in squared Hellinger distance.

3DGS2-TR (arXiv 2602.00395) bounds the distance between a splat before and after a step, both taken
as a density of its opacity's weight, by epsilon; one bound for each parameter by itself.
"""

import math

import torch
from torch import Tensor

from lumigraph.kernels.reference import rotation_matrices
from lumigraph.render import Splats

BASE = 0.5 / math.sqrt(math.pi)
"""The harmonic of degree 0: what a base coefficient is multiplied by to be a colour."""

COLOR_MIN = 1 / 255
"""The bound of a colour falls with its root to zero; black must be able to become brighter."""


@torch.no_grad()
def largest_moves(splats: Splats, epsilon: float) -> dict[str, Tensor]:
    """The most that each parameter may change, of a shape that broadcasts to the parameter's.

    The bounds are those of the paper, for the parameters as they are stored: of a logarithm, a
    logit or a coefficient the bound is that of the value over the derivative. The higher harmonics
    have none: they move a twentieth as far as the base.
    """
    opacities = splats.opacity_logits.sigmoid()
    # A splat so faint that it may change altogether is bounded as one of half its weight would be.
    weighted = (epsilon / opacities).clamp_max(0.5)
    scales = splats.log_scales.exp()
    shift = (-8 * torch.log1p(-weighted)).sqrt()
    rotations = rotation_matrices(splats.quaternions)
    parts = (rotations * scales[:, None]).square().unbind(-1)
    variances = parts[0] + parts[1] + parts[2]
    colors = (0.5 + BASE * splats.base).clamp(COLOR_MIN, 1)
    return {
        "means": variances.sqrt() * shift[:, None],
        "quaternions": (_turn(scales, shift) * _length(splats.quaternions))[:, None],
        "log_scales": (2 * weighted).sqrt()[:, None],
        "opacity_logits": 2 * (epsilon * opacities).sqrt() / (opacities * (1 - opacities)),
        "base": 2 * (colors * weighted[:, None]).sqrt() / BASE,
    }


def _turn(scales: Tensor, shift: Tensor) -> Tensor:
    """The most that an entry of a unit quaternion may change. [splats]

    Turned by a small angle in the plane of two axes a splat moves by a squared Hellinger distance
    of angle^2 / 8 * (a / b - b / a)^2; a quaternion changes by half the angle. The bound is that of
    the plane in which it is tightest. Round splats may turn as they like.
    """
    ratio = scales.amax(1) / scales.amin(1)
    return shift / (2 * (ratio - 1 / ratio)).clamp_min(1e-6)


def _length(quaternions: Tensor) -> Tensor:
    """Of each row. [splats]"""
    w, x, y, z = quaternions.square().unbind(1)
    return (w + x + y + z).sqrt()


def confine(parameter: Tensor, before: Tensor, most: Tensor) -> None:
    """Takes back, in place, what a step moved the parameter too far from where it was before."""
    parameter.copy_(before + (parameter - before).clamp(-most, most))
