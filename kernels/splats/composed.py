"""The operations that are others in a row, in terms of any backend's."""

import torch
from torch import Tensor

from lumigraph.kernels.images import ImageBackend
from lumigraph.kernels.splats.protocol import Backend
from lumigraph.kernels.splats.types import (
    BLOCK_DAMPING,
    FARTHEST_STEP,
    Adam,
    Blocks,
    Filter,
    Footprints,
    Moments,
    Parameters,
    Pull,
    RasterMoments,
    Stopped,
    Target,
    View,
)

STILL = 1e30
"""Damping of what has no rate."""


def _look(
    backend: Backend,
    splats: Parameters,
    view: View,
    degree: int,
    filter: Filter,
    stop: Tensor | None = None,
) -> tuple[Footprints, Tensor]:
    """The splats as the view sees them, and their colours."""
    means, *shape, base, rest = splats
    _heed(stop)
    footprints = backend.project(means, *shape, view=view, filter=filter)
    seen = footprints.extents[:, 0] > 0
    colors = backend.harmonics(means, base, rest, view=view, degree=degree, visible=seen)
    _heed(stop)
    return footprints, colors


def _heed(stop: Tensor | None) -> None:
    if stop is not None and stop.any():
        raise Stopped


@torch.no_grad()
def paint(
    backend: Backend,
    splats: Parameters,
    *,
    view: View,
    degree: int,
    filter: Filter = "classic",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    stop: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `Backend.paint`."""
    raster = backend.rasterize(
        *_look(backend, splats, view, degree, filter, stop),
        width=view.width,
        height=view.height,
        background=background,
        median=False,
    )
    return raster.features, raster.transmittance


@torch.no_grad()
def paint_moments(
    backend: Backend,
    splats: Parameters,
    *,
    view: View,
    degree: int,
    filter: Filter = "classic",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    rate: float,
    shares: Tensor | None = None,
    stop: Tensor | None = None,
) -> RasterMoments:
    """See `Backend.paint_moments`."""
    return backend.rasterize_moments(
        *_look(backend, splats, view, degree, filter, stop),
        rate=rate,
        width=view.width,
        height=view.height,
        background=background,
        shares=shares,
    )


@torch.enable_grad()
def descend(
    backend: Backend,
    images: ImageBackend,
    splats: Parameters,
    moments: Moments,
    target: Target,
    adam: Adam,
    *,
    degree: int,
    filter: Filter = "classic",
    pull: Pull | None = None,
    curvature: Blocks | None = None,
) -> float:
    """See `Backend.descend`."""
    view, photo, background, ssim_weight = target
    leaves = Parameters(*(value.detach().requires_grad_() for value in splats))
    absolute = torch.zeros_like(leaves.means[:, :2]) if pull else None
    footprints, colors = _look(backend, leaves, view, degree, filter)
    image = backend.rasterize(
        footprints,
        colors,
        width=view.width,
        height=view.height,
        background=background,
        absolute_gradients=absolute,
        median=False,
    ).features
    photo = photo if photo.dtype == torch.uint8 else photo.to(image)
    loss, gradient = images.loss(image, photo, ssim_weight=ssim_weight)
    image.backward(gradient)
    seen = footprints.extents[:, 0] > 0
    gradients = Parameters(*(leaf.grad for leaf in leaves))  # type: ignore[arg-type]
    _step(images, splats, gradients, moments, adam, seen, curvature)
    if pull is not None and absolute is not None:
        lengths = torch.hypot(absolute[:, 0] * (view.width / 2), absolute[:, 1] * (view.height / 2))
        pull.gradient.add_(lengths)
        pull.views.add_(seen)
    return loss.item()


@torch.no_grad()
def _step(
    images: ImageBackend,
    splats: Parameters,
    gradients: Parameters,
    moments: Moments,
    adam: Adam,
    seen: Tensor,
    curvature: Blocks | None,
) -> None:
    """Moves the splats that are seen; a gradient of None is one of zeros that never were others."""
    (rates, step, betas, epsilon), last = adam, moments.last
    missed = torch.zeros_like(splats.opacity_logits)
    if last is not None:
        missed = torch.where(seen, step - 1 - last, 0).clamp_min(0).to(missed)
        last.masked_fill_(seen, step)
    pulls, dampings, farthest = [], [], []
    for value, gradient, mean, square, rate in zip(
        splats, gradients, moments.first, moments.second, rates, strict=True
    ):
        whole = rate / (1 - betas[0] ** step)
        farthest.append(FARTHEST_STEP * whole)
        if rate == 0 or gradient is None:
            pulls.append(torch.zeros_like(value))
            dampings.append(torch.full_like(value, STILL))
            continue
        old, steps = mean.clone(), missed.view(-1, *[1] * (mean.ndim - 1))
        mean.mul_(betas[0] ** steps)
        square.mul_(betas[1] ** steps)
        images.adam(
            value,
            gradient,
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
