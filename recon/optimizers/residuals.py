"""How far a picture is from its photo, as squares that Gauss-Newton methods can work on.

`published` are the residuals of 3DGS-LM (arXiv 2409.12892, eq. 2), in which each pixel stands for
itself. `ssim_map` is structural similarity (Wang 2004) with its exact derivative, for those who
want that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lumigraph.kernels import Backend
from lumigraph.kernels.splats.reference import blur, gaussian_window

HUBER = 0.1
"""Error of a colour up to which the published cost is a square; beyond, it grows linearly."""

SSIM_SCALE = 0.25
"""Published weight of 1 - SSIM beside the colours: 0.2 to 0.8, as in the loss of 3DGS."""

MISSING_MIN = 1e-12
"""1 - SSIM is held above this where something is divided by it: less than what one rounding of the
colours in float32 makes of it. The numerator vanishes as fast, so the quotient is right above."""

C1, C2 = 0.01**2, 0.03**2
"""That keep SSIM from dividing by zero, for values in [0, 1]."""

SMALL = 0.02
"""Error of a colour below which |e| is taken for no more bent: five steps of a byte."""

SUM_ROW = 4096
"""Numbers that are summed by one thread."""


class Terms(NamedTuple):
    """The squares of one picture, and what one Gauss-Newton step wants to know of them.

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
    """The two residuals of each colour in 3DGS-LM, as its code has them rather than its paper.

    With e = image - photo, h the Huber function (which the paper has not: there it is |e|), S the
    SSIM about the pixel and s its scale,

        r1 = sqrt(h(e)),            w1 = h'(e) / (2 r1)
        r2 = sqrt(s (1 - min(S, 1))), w2 = -s S' / (2 r2)

    where S' is by the colour at the window's centre alone, so that G^T right is not the gradient
    of the cost: where S changes little from pixel to pixel, SSIM's part of it is 0.07 of what it
    should be, which is the window's weight at its centre, and costs fall by several times what is
    foretold. Products are taken before roots are: w1 r1 = h' / 2, w2 r2 = -s S' / 2,
    w1^2 = h'^2 / (4 h) and w2^2 = s S'^2 / (4 (1 - S)). So where e = 0 w1^2 is 1/2, its limit,
    where the code has 0.

    Args:
        image: The picture. [height, width, 3]
        photo: What it should be, in [0, 1]. [height, width, 3]
        huber: Error at which h turns from a square to a line.
        ssim_scale: s; of 0 there is no second residual.
    """
    error = image - photo
    size, slope = error.abs(), error.clamp(-huber, huber)
    cost = total(_huber(size, huber))
    weights = huber / (4 * size.clamp_min(huber) - 2 * huber)
    right = slope / 2
    if ssim_scale:
        near = ssim_map(image, photo)
        moves = near.centre()
        cost += ssim_scale * total(near.missing)
        weights += ssim_scale / 4 * moves.square() / near.missing.clamp_min(MISSING_MIN)
        right -= ssim_scale / 2 * moves
    return Terms(cost / 2, weights, right)


@torch.no_grad()
def photo_loss(backend: Backend, image: Tensor, photo: Tensor, ssim_weight: float) -> float:
    """The loss of 3DGS (arXiv 2308.04079, eq. 7) of a picture beside its photo.

    Args:
        backend: Of the picture's device.
        image: The picture. [height, width, 3]
        photo: What it should be: uint8, or floats in [0, 1]. [height, width, 3]
        ssim_weight: Of 1 - SSIM, beside the mean absolute difference.
    """
    photo = as_colors(photo, image)
    loss = (1 - ssim_weight) * backend.l1(image, photo)
    return float(loss + ssim_weight * (1 - backend.ssim(image, photo)))


@torch.no_grad()
def curvature_weights(image: Tensor, photo: Tensor, ssim_weight: float) -> Tensor:
    """Second derivatives of a photo's loss by its picture's colours, about, and not negative.

    The loss is that of 3DGS: means of (1 - s) |e| + s (1 - SSIM), with e = image - photo. |e| is as
    bent as the parabola that touches it where e is, 1 / |e|, but no more than at `SMALL`. And where
    the picture is close to its photo 1 - SSIM is v_e / (2 v_y + C2), with v variances over windows:
    e^2 over that, but for the windows' means, which are left out. For that a photo is taken for
    grey: its channels hardly differ in how they vary.

    Args:
        image: The picture. [height, width, channels]
        photo: What it should be, in [0, 1]. [height, width, channels]
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
    """The cost of `published` alone."""
    cost = total(_huber((image - photo).abs(), huber))
    if ssim_scale:
        cost += ssim_scale * total(_averages(image, photo).missing())
    return cost / 2


def _huber(size: Tensor, huber: float) -> Tensor:
    """e^2 / 2 up to `huber`, and on along the tangent. size: |e|"""
    inside = size.clamp_max(huber)
    return inside * (size - inside / 2)


@dataclass(frozen=True)
class SsimMap:
    """SSIM at each pixel and channel, and products with its derivative by the image.

    A window is an average, and SSIM is made of averages of x, e = x - y and their squares, so a
    change dx of the image changes the map by

        A blur(dx) + B blur(2 x dx) + C blur(e dx).

    Attributes:
        missing: 1 - SSIM, which is accurate where it is small. [height, width, channels]
        image: x. [height, width, channels]
        error: e. [height, width, channels]
        by_mean: A. [height, width, channels]
        by_square: B. [height, width, channels]
        by_error: C. [height, width, channels]
    """

    missing: Tensor
    image: Tensor
    error: Tensor
    by_mean: Tensor
    by_square: Tensor
    by_error: Tensor

    @property
    def map(self) -> Tensor:
        """SSIM. [height, width, channels]"""
        return 1 - self.missing

    def jvp(self, change: Tensor) -> Tensor:
        """How the map changes along a change of the image. [height, width, channels]"""
        means, squares, errors = _blurred(change, 2 * self.image * change, self.error * change)
        return self.by_mean * means + self.by_square * squares + self.by_error * errors

    def vjp(self, weights: Tensor) -> Tensor:
        """The gradient of sum(weights * map) by the image. [height, width, channels]"""
        means, squares, errors = _blurred(
            weights * self.by_mean, weights * self.by_square, weights * self.by_error
        )
        return means + 2 * self.image * squares + self.error * errors

    def centre(self) -> Tensor:
        """The derivative of each of the map's numbers by the image's at the same place."""
        peak = gaussian_window()[5] ** 2
        by = self.by_mean + 2 * self.image * self.by_square + self.error * self.by_error
        return peak * by

    def diagonal(self, weights: Tensor) -> Tensor:
        """The diagonal of D^T diag(weights) D, where D is the derivative of the map.

        It takes six convolutions with the squared window, whose sum is not negative but for
        rounding: it is cut off at 0. [height, width, channels]
        """
        a, b, c = self.by_mean, 2 * self.by_square, self.by_error
        parts = [weights * p for p in (a * a, b * b, c * c, a * b, a * c, b * c)]
        aa, bb, cc, ab, ac, bc = _blurred(*parts, window=_squared)
        x, e = self.image, self.error
        return (aa + x * (x * bb + 2 * ab) + e * (e * cc + 2 * ac) + 2 * x * e * bc).clamp_min(0)


def ssim_map(image: Tensor, photo: Tensor) -> SsimMap:
    """SSIM at each pixel and channel, with its derivative: the map whose mean is `Backend.ssim`.

    An 11x11 Gaussian window of sigma 1.5, zeros beyond the border, values in [0, 1]. It is found
    from the error e = image - photo: with averages m and variances v over a window,

        1 - SSIM = a + b - a b,  a = m_e^2 / (m_x^2 + m_y^2 + C1),  b = v_e / (v_x + v_y + C2).

    By the usual formula float32 would err by 5e-4 where both are bright, flat and nearly equal.

    Args:
        image: x. [height, width, channels]
        photo: y. [height, width, channels]
    """
    near = _averages(image, photo)
    return SsimMap(near.missing(), image, image - photo, *near.derivatives())


class _Averages(NamedTuple):
    """What SSIM is made of, about each pixel. [height, width, channels]"""

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
        """A, B and C of `SsimMap`: where the error vanishes so do A, B and C e."""
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


def _squared(images: Tensor) -> Tensor:
    """Images summed with the squares of SSIM's window. [n, 1, height, width]"""
    window = images.new_tensor(gaussian_window()).square()
    images = functional.conv2d(images, window.view(1, 1, 1, -1), padding=(0, 5))
    return functional.conv2d(images, window.view(1, 1, -1, 1), padding=(5, 0))


def _blurred(*images: Tensor, window: Callable[[Tensor], Tensor] = blur) -> tuple[Tensor, ...]:
    """Images of one shape, each blurred. [height, width, channels]"""
    height, width, channels = images[0].shape
    planes = torch.stack(images).permute(0, 3, 1, 2).reshape(-1, 1, height, width)
    # By default cuDNN convolves in TF32, whose 10 bits leave nothing of a small variance.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        blurred = window(planes)
    return blurred.view(-1, channels, height, width).permute(0, 2, 3, 1).unbind(0)


def as_colors(photo: Tensor, image: Tensor) -> Tensor:
    """A photo, which may be of bytes, as colours in [0, 1] of a picture's type and device.

    Args:
        photo: uint8, or of any float type. [height, width, 3]
        image: The picture of the same view. [height, width, 3]

    Raises:
        ValueError: They are of different sizes.
    """
    if photo.shape != image.shape:
        raise ValueError(
            f"a photo is {list(photo.shape)} but the picture of its view {list(image.shape)}: "
            "give each camera the size of its photo"
        )
    return photo.to(image) / 255 if photo.dtype == torch.uint8 else photo.to(image)


def total(numbers: Tensor) -> float:
    """Their sum, in 64 bits and the same for any number of threads.

    `Tensor.sum` gives each thread a part of a long tensor; of many rows each is summed by one.
    """
    numbers = numbers.flatten()
    whole = len(numbers) // SUM_ROW * SUM_ROW
    rows = numbers[:whole].view(-1, SUM_ROW).sum(1, dtype=torch.float64)
    return float(rows.sum() + numbers[whole:].sum(dtype=torch.float64))
