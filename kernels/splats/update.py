"""The definition of `update`: a step of the splats in view along their gradient, in PyTorch."""

import torch
from torch import Tensor

from lumigraph.kernels.images.reference import adam as adam_step
from lumigraph.kernels.splats.types import (
    BLOCK_DAMPING,
    FARTHEST_STEP,
    Adam,
    Blocks,
    ByRecords,
    Moments,
    Parameters,
    Penalty,
    Pull,
)

STILL = 1e30
"""Damping of a parameter without a rate."""


@torch.no_grad()
def step_rows(
    splats: Parameters,
    gradient: Parameters,
    moments: Moments,
    by_records: ByRecords,
    adam: Adam,
    pull: Pull | None,
    curvature: Blocks | None,
    penalty: Penalty | None,
) -> None:
    """See `SplatBackend.update`; `gradient` is by the parameters, and is changed."""
    index, view = by_records.index.long(), by_records.look.view
    seen = torch.zeros_like(splats.opacity_logits, dtype=torch.bool)
    seen[index] = True
    absolute = torch.zeros_like(splats.means[:, :2])
    absolute[index] = by_records.absolute
    _drop_what_is_not_finite(gradient, absolute)
    if penalty is not None:
        _add_penalty(splats, gradient, seen, penalty)
    _step(splats, gradient, moments, adam, seen, curvature)
    if pull is not None:
        lengths = torch.hypot(absolute[:, 0] * (view.width / 2), absolute[:, 1] * (view.height / 2))
        pull.gradient.add_(lengths)
        pull.views.add_(seen)


def _drop_what_is_not_finite(gradient: Parameters, absolute: Tensor) -> None:
    """Zeros for splats of which a number is not finite, or has a square that is not."""
    numbers = torch.cat([x.flatten(1) if x.ndim > 1 else x[:, None] for x in gradient], 1)
    bad = ~(torch.cat([numbers, absolute], 1).square().sum(1) * 0 == 0)
    if bad.any():
        for values in (*gradient, absolute):
            values[bad] = 0


def _add_penalty(splats: Parameters, gradient: Parameters, seen: Tensor, penalty: Penalty) -> None:
    """Adds the gradient of what opacities and scales cost by themselves."""
    opacity, scales = splats.opacity_logits.sigmoid(), splats.log_scales.exp()
    slope = penalty.opacity * opacity * (1 - opacity)
    gradient.opacity_logits.add_(torch.where(seen, slope, 0))
    gradient.log_scales.add_(torch.where(seen[:, None], penalty.scale * scales, 0))


def _step(
    splats: Parameters,
    gradient: Parameters,
    moments: Moments,
    adam: Adam,
    seen: Tensor,
    curvature: Blocks | None,
) -> None:
    """Moves the splats that are seen."""
    (rates, step, betas, epsilon), last = adam, moments.last
    missed = torch.zeros_like(splats.opacity_logits)
    if last is not None:
        missed = torch.where(seen, step - 1 - last, 0).clamp_min(0).to(missed)
        last.masked_fill_(seen, step)
    pulls, dampings, farthest = [], [], []
    for value, slope, mean, square, rate in zip(
        splats, gradient, moments.first, moments.second, rates, strict=True
    ):
        whole = rate / (1 - betas[0] ** step)
        farthest.append(FARTHEST_STEP * whole)
        if rate == 0:
            pulls.append(torch.zeros_like(value))
            dampings.append(torch.full_like(value, STILL))
            continue
        old, steps = mean.clone(), missed.view(-1, *[1] * (mean.ndim - 1))
        mean.mul_(betas[0] ** steps)
        square.mul_(betas[1] ** steps)
        adam_step(
            value,
            slope,
            mean,
            square,
            step=step,
            learning_rate=rate if curvature is None else 0.0,
            betas=betas,
            epsilon=epsilon,
            rows=seen,
        )
        # What the old mean would have moved meanwhile, divided by the root as it is now.
        drift = betas[0] * (1 - betas[0] ** steps) / (1 - betas[0])
        root = (square / (1 - betas[1] ** step)).sqrt() + epsilon
        if curvature is None:
            value.sub_(whole * drift * old / root)
        else:
            pulls.append(mean + drift * old)
            dampings.append(root / whole)
    if curvature is not None:
        _move(splats, Parameters(*pulls), Parameters(*dampings), farthest, curvature, seen)


def _move(
    splats: Parameters,
    pull: Parameters,
    damping: Parameters,
    farthest: list[float],
    curvature: Blocks,
    seen: Tensor,
) -> None:
    """Goes (curvature + damping)^-1 pull down, not too far, where a splat is seen."""
    index = torch.nonzero(seen)[:, 0]
    count = len(index)
    matrices = Blocks(*(x[index] for x in curvature)).matrices()
    rows = [torch.cat([x[index].view(count, -1) for x in part[:4]], 1) for part in (damping, pull)]
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    diagonal.mul_(1 + BLOCK_DAMPING).add_(rows[0])
    scale = diagonal.rsqrt()
    matrices *= scale[:, :, None] * scale[:, None, :]
    solved, _ = torch.linalg.solve_ex(matrices, scale * rows[1])
    parts = zip(splats[:4], (scale * solved).split([3, 4, 3, 1], 1), farthest[:4], strict=True)
    for value, move, most in parts:
        moves = move.clamp(-most, most).view(count, *value.shape[1:])
        value.index_add_(0, index, moves, alpha=-1)
    for value, x, d, bend in zip(
        splats[4:], pull[4:], damping[4:], (curvature.base, curvature.rest), strict=True
    ):
        value.sub_(x / (bend + d) * seen.view(-1, *[1] * (x.ndim - 1)))
