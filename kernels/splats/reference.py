"""The definition of every kernel: plain PyTorch, differentiable by autograd, any float type.

Readable first. Work over images goes in blocks of pixels, recomputed in backward, so that memory
stays under 2 GB whatever the number of splats.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lumigraph.kernels.splats.checks import check_moments, check_view
from lumigraph.kernels.splats.types import (
    ALPHA_MAX,
    ALPHA_MIN,
    BLUR,
    TRANSMITTANCE_MIN,
    Filter,
    Footprints,
    Lens,
    Raster,
    RasterMoments,
    View,
)

_PAIRS_PER_BLOCK = 1 << 22
"""Pixel-splat pairs held at once: about 25 tensors of 16 MB are alive in a block's backward."""


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """The rotations that (w, x, y, z) quaternions of any length stand for. [..., 3, 3]"""
    w, x, y, z = functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def project(
    means: Tensor,
    quaternions: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    *,
    view: View,
    filter: Filter = "classic",
) -> Footprints:
    """The splats as Gaussians on the image plane of one view; see `SplatBackend.project`.

    Args:
        means: Centres in the scene's frame. [splats, 3]
        quaternions: Rotations as (w, x, y, z), of any length but zero. [splats, 4]
        log_scales: Logarithm of the standard deviation along each axis. [splats, 3]
        opacity_logits: Opacity before the sigmoid. [splats]
        view: The camera.
        filter: How splats smaller than a pixel are drawn.
    """
    check_view(view)
    matrix = _matrix(view, means)
    points = means @ matrix[:, :3].T + matrix[:, 3]
    in_front = points[:, 2] >= view.near
    points = torch.where(in_front[:, None], points, points.new_tensor([0.0, 0.0, 1.0]))
    centers, jacobian = LENSES[view.lens](points, view)

    # Rows of M = J W R S, so that the projected covariance is M M^T (EWA splatting, eq. 31).
    axes = matrix[:, :3] @ (rotation_matrices(quaternions) * log_scales.exp()[:, None, :])
    row_x, row_y = (jacobian @ axes).unbind(1)

    xx = row_x.square().sum(-1) + BLUR
    xy = (row_x * row_y).sum(-1)
    yy = row_y.square().sum(-1) + BLUR
    # By Cauchy-Binet |row_x x row_y|^2 is the determinant without blur, with no cancellation.
    sharp = torch.linalg.cross(row_x, row_y).square().sum(-1)
    determinant = sharp + BLUR * (xx + yy - BLUR)
    opacities = opacity_logits.sigmoid()
    if filter == "antialiased":
        opacities = opacities * (sharp / determinant).clamp_min(1e-8).sqrt()

    mean_x, mean_y = centers.unbind(-1)
    reach = 2 * torch.log((opacities / ALPHA_MIN).clamp_min(1)).detach()
    extent_x, extent_y = (reach * xx.detach()).sqrt(), (reach * yy.detach()).sqrt()
    seen = (
        in_front
        & (reach > 0)
        & torch.isfinite(determinant)
        & torch.isfinite(points).all(1)
        & (mean_x + extent_x > 0)
        & (mean_x - extent_x < view.width)
        & (mean_y + extent_y > 0)
        & (mean_y - extent_y < view.height)
    )

    def kept(*columns: Tensor) -> Tensor:
        return torch.where(seen[:, None], torch.stack(columns, -1), 0)

    return Footprints(
        means=kept(mean_x, mean_y),
        conics=kept(yy / determinant, -xy / determinant, xx / determinant),
        opacities=kept(opacities)[:, 0],
        depths=kept(points[:, 2])[:, 0],
        extents=kept(extent_x, extent_y),
    )


def pinhole(points: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Where points in the camera's frame appear, and the Jacobian of that.

    The Jacobian is that at the direction clamped to the field of view.

    Args:
        points: [splats, 3]
        view: The camera.

    Returns:
        Pixels [splats, 2], and their derivatives by the points [splats, 2, 3].
    """
    (fx, fy), (cx, cy) = view.focal, view.center
    x, y, z = points.unbind(-1)
    u = _clamp_to_field_of_view(x / z, fx, cx, view.width)
    v = _clamp_to_field_of_view(y / z, fy, cy, view.height)
    none = torch.zeros_like(z)
    across = torch.stack([fx / z, none, -fx * u / z], -1)
    down = torch.stack([none, fy / z, -fy * v / z], -1)
    return torch.stack([fx * x / z + cx, fy * y / z + cy], -1), torch.stack([across, down], 1)


LENSES: dict[Lens, Callable[[Tensor, View], tuple[Tensor, Tensor]]] = {"pinhole": pinhole}
"""Each lens: a function from points in the camera's frame to pixels, with its Jacobian."""


def _matrix(view: View, like: Tensor) -> Tensor:
    """The rows of the view's matrix; a tensor stays in the graph that it is in. [3, 4]"""
    numbers = view.world_to_camera
    return (numbers if isinstance(numbers, Tensor) else like.new_tensor(numbers)).view(3, 4)


def _clamp_to_field_of_view(slope: Tensor, focal: float, center: float, size: int) -> Tensor:
    """Keep x/z near the image: far beside it the affine approximation blows splats up."""
    margin = 0.15 * size / focal
    return slope.clamp(-center / focal - margin, (size - center) / focal + margin)


def harmonics(
    means: Tensor,
    base: Tensor,
    rest: Tensor,
    *,
    view: View,
    degree: int,
    visible: Tensor | None = None,
) -> Tensor:
    """The colour that each splat shows to the camera: max(0, 0.5 + basis . coefficients).

    Args:
        means: Centres in the scene's frame. [splats, 3]
        base: Coefficients of degree 0. [splats, 3]
        rest: Coefficients of the higher degrees. [splats, (D + 1)^2 - 1, 3]
        view: The camera; the direction is from its centre to the splat's.
        degree: The highest degree to use, 0 to 3, at most D.
        visible: Where False, the colour and all its gradients are zero. bool [splats]

    Returns:
        [splats, 3]
    """
    matrix = _matrix(view, means)
    position = -matrix[:, :3].T @ matrix[:, 3]
    basis = harmonics_basis(functional.normalize(means - position, dim=-1), degree)
    colors = 0.5 + basis[:, :1] * base
    if degree > 0:
        count = basis.shape[1] - 1
        colors = colors + (basis[:, 1:, None] * rest[:, :count]).sum(1)
    colors = colors.clamp_min(0)
    return colors if visible is None else torch.where(visible[:, None], colors, 0)


def harmonics_basis(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics up to `degree`, in the order and signs of 3DGS. [n, (degree+1)^2]"""
    x, y, z = directions.unbind(-1)
    terms = [torch.full_like(x, 0.5 / math.sqrt(math.pi))]
    if degree >= 1:
        c = math.sqrt(3 / (4 * math.pi))
        terms += [-c * y, c * z, -c * x]
    if degree >= 2:
        c = math.sqrt(15 / math.pi) / 2
        terms += [c * x * y, -c * y * z, c / math.sqrt(12) * (2 * z * z - x * x - y * y)]
        terms += [-c * x * z, c / 2 * (x * x - y * y)]
    if degree >= 3:
        a, b = math.sqrt(35 / (2 * math.pi)) / 4, math.sqrt(105 / math.pi) / 2
        c, d = math.sqrt(21 / (2 * math.pi)) / 4, math.sqrt(7 / math.pi) / 4
        terms += [-a * y * (3 * x * x - y * y), b * x * y * z, -c * y * (4 * z * z - x * x - y * y)]
        terms += [d * z * (2 * z * z - 3 * x * x - 3 * y * y), -c * x * (4 * z * z - x * x - y * y)]
        terms += [b / 2 * z * (x * x - y * y), -a * x * (x * x - 3 * y * y)]
    return torch.stack(terms, -1)


def rasterize(
    footprints: Footprints,
    features: Tensor,
    *,
    width: int,
    height: int,
    background: tuple[float, ...] | None = None,
    absolute_gradients: Tensor | None = None,
    median: bool = True,
    alpha_min: float = ALPHA_MIN,
    alpha_max: float = ALPHA_MAX,
    transmittance_min: float = TRANSMITTANCE_MIN,
) -> Raster:
    """Footprints blended front to back; see `SplatBackend.blend`.

    Differentiable to the means, conics and opacities of the footprints and to the features.

    Args:
        footprints: From `project`.
        features: What each splat shows; at least one channel. [splats, channels]
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        background: One value for each channel, or None for zeros.
        absolute_gradients: If given, backward adds to it the sum over pixels of the absolute
            gradient of the mean (AbsGS, arXiv 2404.10484, eq. 8), of at most 4 channels.
            [splats, 2]
        median: Whether to find the median splats.
        alpha_min: Splats are not seen where alpha is lower.
        alpha_max: Upper bound of every alpha.
        transmittance_min: At which a pixel is finished. With all three out of the way the picture
            is smooth.
    """
    order = front_to_back(footprints)
    splats = [tensor[order] for tensor in (*footprints[:3], features)]

    def add_absolute(gradient: Tensor) -> None:
        assert absolute_gradients is not None
        absolute_gradients.index_add_(0, order, gradient.abs().sum(0))

    def blend(pixels: Tensor, means: Tensor, conics: Tensor, opacities: Tensor, features: Tensor):
        offsets = pixels[:, None] - means
        if absolute_gradients is not None and offsets.requires_grad:
            offsets.register_hook(add_absolute)
        alpha = alphas(offsets, conics, opacities, alpha_min, alpha_max)
        # Transmittance before each splat; those behind a finished pixel do not count.
        log_after = torch.log1p(-alpha).cumsum(1)
        before = torch.exp(log_after - torch.log1p(-alpha))
        alpha = torch.where(before > transmittance_min, alpha, 0)
        left = torch.exp(torch.log1p(-alpha).sum(1))
        after = before * (1 - alpha)
        halves = (before > 0.5) & (after <= 0.5)
        index = (halves * torch.arange(halves.shape[1], device=halves.device)).sum(1)
        return (before * alpha) @ features, left, halves.any(1), index

    parts = [
        checkpoint(blend, block, *splats, use_reentrant=False)
        for block in pixel_centers(width, height, features).split(block_size(len(order)))
    ]
    image, left, found, index = (torch.cat(column) for column in zip(*parts, strict=True))
    if background is not None:
        image = image + left[:, None] * image.new_tensor(background)
    halfway = torch.where(found, functional.pad(order, (0, 1))[index], -1).int()
    return Raster(
        image.view(height, width, -1),
        left.view(height, width),
        halfway.view(height, width) if median else halfway.new_empty(0, 0),
    )


def front_to_back(footprints: Footprints) -> Tensor:
    """Indices of the splats that are seen, the nearest first."""
    seen = torch.nonzero(footprints.extents[:, 0] > 0)[:, 0]
    return seen[torch.sort(footprints.depths.detach()[seen], stable=True).indices]


def pixel_centers(width: int, height: int, like: Tensor) -> Tensor:
    """The centres of an image's pixels, row by row. [pixels, 2]"""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows], -1).view(-1, 2).to(like) + 0.5


def block_size(numbers: int) -> int:
    """The number of pixels to work on at once, if each needs this many numbers."""
    return max(1, _PAIRS_PER_BLOCK // max(1, numbers))


def alphas(
    offsets: Tensor, conics: Tensor, opacities: Tensor, alpha_min: float, alpha_max: float
) -> Tensor:
    """What each splat stops of the light at offsets from its centre. [pixels, splats]"""
    dx, dy = offsets.unbind(-1)
    xx, xy, yy = conics.unbind(-1)
    form = -0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy
    # Rounding can make the form of a long needle positive, which it is nowhere. That is taken away
    # as a constant, for it says nothing of the form's derivative.
    alpha = opacities * torch.exp(form - form.detach().clamp_min(0))
    return torch.where(alpha >= alpha_min, alpha.clamp_max(alpha_max), 0)


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
    alpha_min: float = ALPHA_MIN,
    alpha_max: float = ALPHA_MAX,
    transmittance_min: float = TRANSMITTANCE_MIN,
) -> RasterMoments:
    """Mean and variance of `rasterize` where chance drops splats; see `SplatBackend.moments`.

    Differentiable as `rasterize` is, and with the same thresholds.
    """
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
    channels = features.shape[1]
    order = front_to_back(footprints)
    splats = [tensor[order] for tensor in (*footprints[:3], features)]

    def blend(pixels: Tensor, origins: Tensor, ends: Tensor, *splats: Tensor):
        means, conics, opacities, features = splats
        alpha = alphas(pixels[:, None] - means, conics, opacities, alpha_min, alpha_max)
        return _moments(alpha, features - origins[:, None], ends, rate, transmittance_min)

    start = features.new_zeros(height, width, channels) if origin is None else origin.detach()
    start = start.reshape(-1, channels)
    end = torch.zeros_like(start) if background is None else start.new_tensor(background) - start
    whole, size = (
        (pixel_centers(width, height, start), start, end),
        block_size(len(order) * channels),
    )
    blocks = zip(*(tensor.split(size) for tensor in whole), strict=True)
    parts = [checkpoint(blend, *block, *splats, use_reentrant=False) for block in blocks]
    mean, variance, left, portions = zip(*parts, strict=True)
    if shares is not None:
        shares.index_add_(0, order, torch.stack(portions).sum(0))
    return RasterMoments(
        torch.cat(mean).view(height, width, channels),
        torch.cat(variance).view(height, width, channels),
        torch.cat(left).view(height, width),
    )


def _moments(
    alpha: Tensor, features: Tensor, ends: Tensor, rate: float, transmittance_min: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance and transmittance of some pixels, and each splat's part of their variance.

    Args:
        alpha: Of the splats, nearest first, where none is missing. [pixels, splats]
        features: What each shows to each pixel. [pixels, splats, channels]
        ends: The features behind all splats. [pixels, channels]
        rate: Probability that a splat is missing.
        transmittance_min: At which a pixel is finished.
    """
    p = 1 - rate
    log_through = torch.log1p(-p * alpha)
    before = torch.exp(log_through.cumsum(1) - log_through)
    alpha = torch.where(before > transmittance_min, alpha, 0)
    after = torch.exp(torch.log1p(-p * alpha).cumsum(1))
    left = functional.pad(after, (1, 0), value=1)[:, -1]

    # The mean behind each splat is a sum from the back, over the light that gets there.
    weighted = (before * p * alpha)[..., None] * features
    sums = torch.cat([(left[:, None] * ends)[:, None], weighted.flip(1)], 1).cumsum(1).flip(1)
    deviations = features - sums[:, 1:] / after[..., None]
    # The recursion written out: a sum of terms, each times the factors of the splats in front.
    spread = p * rate * alpha.square()
    log_factors = torch.log((1 - p * alpha).square() + spread)
    front = torch.exp(log_factors.cumsum(1) - log_factors)
    terms = (front * spread)[..., None] * deviations.square()
    return sums[:, 0], terms.sum(1), left, terms.detach().sum((0, 2))
