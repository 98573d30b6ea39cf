"""Differences between a picture and its photo, as squares for Gauss-Newton methods.

`published` has the residuals of 3DGS-LM (arXiv 2409.12892, eq. 2), which treat each pixel as
independent of its neighbours. `curvature_weights` has the second derivatives of the loss of 3DGS,
for "lm".
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lumigraph.kernels import images_for
from lumigraph.kernels.images.reference import blur, gaussian_window
from lumigraph.recon.optimizers.levenberg import total

HUBER = 0.1
"""Up to this error of a colour the published cost is a square; beyond, it grows linearly."""

SSIM_SCALE = 0.25
"""The published weight of 1 - SSIM relative to the colours: 0.2 to 0.8, as in the loss of 3DGS."""

MISSING_MIN = 1e-12
"""Divisors of 1 - SSIM are clamped to at least this value, which is below the rounding error of
float32 colours. The numerator falls as fast, so the quotient is right down to this bound."""

C1, C2 = 0.01**2, 0.03**2
"""Constants that keep SSIM from dividing by zero, for values in [0, 1]."""

SMALL = 0.02
"""The curvature of |e| is that at this error for all smaller ones: five steps of a byte."""


class Terms(NamedTuple):
    """The sum of squares of one picture, and its derivatives for a Gauss-Newton step.

    With G the derivative of the colours by the parameters, J^T J is G^T diag(weights) G and
    J^T r is G^T right.
    """

    cost: float
    """|r|^2 / 2."""
    weights: Tensor
    """Sum of w^2 over the residuals of each colour, where w is a residual's derivative by it; not
    negative. [height, width, 3]"""
    right: Tensor
    """Sum of w r. [height, width, 3]"""


@torch.no_grad()
def published(
    image: Tensor, photo: Tensor, *, huber: float = HUBER, ssim_scale: float = SSIM_SCALE
) -> Terms:
    """The two residuals of each colour in 3DGS-LM, as in its code, which differs from its paper.

    With e = image - photo, h the Huber function (in the paper |e|), S the SSIM about the pixel and
    s its scale,

        r1 = sqrt(h(e)),            w1 = h'(e) / (2 r1)
        r2 = sqrt(s (1 - min(S, 1))), w2 = -s S' / (2 r2)

    where S' is the derivative by the colour at the window's centre alone. So G^T right is not the
    gradient of the cost: where S changes little from pixel to pixel, the part of SSIM is too small
    by the window's weight at its centre, 0.07, and costs fall by several times the predicted fall.
    Products are taken before roots: w1 r1 = h' / 2, w2 r2 = -s S' / 2, w1^2 = h'^2 / (4 h) and
    w2^2 = s S'^2 / (4 (1 - S)). So w1^2 has its limit 1/2 where e = 0; the code has 0 there.

    Args:
        image: The picture. [height, width, 3]
        photo: The photo, in [0, 1]. [height, width, 3]
        huber: The error at which h turns from a square to a line.
        ssim_scale: s; 0 leaves out the second residual.
    """
    error = image - photo
    size, slope = error.abs(), error.clamp(-huber, huber)
    cost = total(_huber(size, huber))
    weights = huber / (4 * size.clamp_min(huber) - 2 * huber)
    right = slope / 2
    if ssim_scale:
        missing, moves = ssim_by_pixel(image, photo)
        cost += ssim_scale * total(missing)
        weights += ssim_scale / 4 * moves.square() / missing.clamp_min(MISSING_MIN)
        right -= ssim_scale / 2 * moves
    return Terms(cost / 2, weights, right)


@torch.no_grad()
def photo_loss(image: Tensor, photo: Tensor, ssim_weight: float) -> float:
    """The loss of 3DGS (arXiv 2308.04079, eq. 7) between a picture and its photo.

    Args:
        image: The picture. [height, width, 3]
        photo: The photo: uint8, or floats in [0, 1]. [height, width, 3]
        ssim_weight: The weight of 1 - SSIM; the mean absolute difference has the rest.
    """
    photo, images = as_colors(photo, image), images_for(image.device)
    loss = (1 - ssim_weight) * images.l1(image, photo)
    return float(loss + ssim_weight * (1 - images.ssim(image, photo)))


@torch.no_grad()
def curvature_weights(image: Tensor, photo: Tensor, ssim_weight: float) -> Tensor:
    """Approximate second derivatives of the loss by the picture's colours; they are not negative.

    The loss is that of 3DGS, the mean of (1 - s) |e| + s (1 - SSIM) with e = image - photo. The
    curvature of |e| is that of the parabola that touches it at e, 1 / |e|, at most 1 / `SMALL`.
    Close to the photo, 1 - SSIM is v_e / (2 v_y + C2) with variances v over windows. Its curvature
    is taken as that of e^2 / (2 v_y + C2), which leaves out the means over windows; v_y is that of
    the grey photo, as the channels vary alike.

    Args:
        image: The picture. [height, width, channels]
        photo: The photo, in [0, 1]. [height, width, channels]
        ssim_weight: s.

    Returns:
        [height, width, channels]
    """
    grey = photo.mean(2, keepdim=True)
    mean, square = _blurred(grey, grey * grey)
    (similar,) = _blurred(1 / (2 * (square - mean * mean).clamp_min(0) + C2))
    absolute = 1 / (image - photo).abs_().clamp_min_(SMALL)
    return ((1 - ssim_weight) * absolute + 2 * ssim_weight * similar) / image.numel()


@torch.no_grad()
def published_cost(
    image: Tensor, photo: Tensor, *, huber: float = HUBER, ssim_scale: float = SSIM_SCALE
) -> float:
    """The cost of `published` without its derivatives."""
    cost = total(_huber((image - photo).abs(), huber))
    if ssim_scale:
        cost += ssim_scale * total(_averages(image, photo).missing())
    return cost / 2


def _huber(size: Tensor, huber: float) -> Tensor:
    """e^2 / 2 up to `huber`, and on along the tangent. size: |e|"""
    inside = size.clamp_max(huber)
    return inside * (size - inside / 2)


def ssim_by_pixel(image: Tensor, photo: Tensor) -> tuple[Tensor, Tensor]:
    """1 - SSIM about each pixel, and the derivative of SSIM there by that pixel's own colour.

    SSIM (Wang 2004) has an 11x11 Gaussian window of sigma 1.5, zeros beyond the border, and values
    in [0, 1]; its mean is `ImageBackend.ssim`. It is found from the error e = image - photo: with
    means m and variances v over a window,

        1 - SSIM = a + b - a b,  a = m_e^2 / (m_x^2 + m_y^2 + C1),  b = v_e / (v_x + v_y + C2).

    By the usual formula float32 would err by 5e-4 where both are bright, flat and nearly equal.

    Args:
        image: x. [height, width, channels]
        photo: y. [height, width, channels]

    Returns:
        Both [height, width, channels]
    """
    near = _averages(image, photo)
    by_mean, by_square, by_error = near.derivatives()
    peak = gaussian_window()[5] ** 2
    by = by_mean + 2 * image * by_square + (image - photo) * by_error
    return near.missing(), peak * by


class _Averages(NamedTuple):
    """Means and variances over the window about each pixel. [height, width, channels]"""

    mean: Tensor
    """m_x."""
    error: Tensor
    """m_e."""
    spread: Tensor
    """v_e."""
    luminance: Tensor
    """m_x^2 + m_y^2 + C1."""
    contrast: Tensor
    """v_x + v_y + C2."""

    def missing(self) -> Tensor:
        """1 - SSIM, not negative."""
        a, b = self.error.square() / self.luminance, self.spread / self.contrast
        return (a + b - a * b).clamp_min(0)

    def derivatives(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and C: a change dx of the image changes SSIM by

            A blur(dx) + B blur(2 x dx) + C blur(e dx).

        Where the error vanishes, so do A, B and C e.
        """
        mean, error, spread, luminance, contrast = self
        a, b = error.square() / luminance, spread / contrast
        by_a, by_b = 2 * (1 - b) / luminance, 2 * (1 - a) / contrast
        by_mean = by_b * (error - b * mean) - by_a * (error - a * mean)
        return by_mean, by_b * b / 2, -by_b


def _averages(x: Tensor, y: Tensor) -> _Averages:
    e = x - y
    mean, error, squares, errors = _blurred(x, e, x * x + y * y, e * e)
    means = mean.square() + (mean - error).square()
    return _Averages(
        mean,
        error,
        spread=(errors - error.square()).clamp_min(0),
        luminance=means + C1,
        contrast=(squares - means).clamp_min(0) + C2,
    )


def _blurred(*images: Tensor) -> tuple[Tensor, ...]:
    """Images of one shape, each blurred. [height, width, channels]"""
    height, width, channels = images[0].shape
    planes = torch.stack(images).permute(0, 3, 1, 2).reshape(-1, 1, height, width)
    # cuDNN's default, TF32, has 10 bits: too few for a small variance.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        blurred = blur(planes)
    return blurred.view(-1, channels, height, width).permute(0, 2, 3, 1).unbind(0)


def as_colors(photo: Tensor, image: Tensor) -> Tensor:
    """A photo as colours in [0, 1], with the type and device of a picture.

    Args:
        photo: uint8, or any float type. [height, width, 3]
        image: The picture of the same view. [height, width, 3]

    Raises:
        ValueError: Photo and picture differ in size.
    """
    if photo.shape != image.shape:
        raise ValueError(
            f"a photo is {list(photo.shape)} but the picture of its view {list(image.shape)}: "
            "give each camera the size of its photo"
        )
    return photo.to(image) / 255 if photo.dtype == torch.uint8 else photo.to(image)
