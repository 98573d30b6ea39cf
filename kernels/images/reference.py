"""The definition of the operations on images: plain PyTorch, any float type, any device."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lumigraph.kernels.images.checks import check_adam, check_images, check_loss
from lumigraph.kernels.images.protocol import MARGIN, Inner

C1, C2 = 0.01**2, 0.03**2
"""They keep SSIM from dividing by zero, for values in [0, 1] (Wang 2004)."""


def gaussian_window(size: int = 2 * MARGIN + 1, sigma: float = 1.5) -> list[float]:
    """The weights of a Gaussian window, which sum to one."""
    weights = [math.exp(-((i - size // 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return [weight / sum(weights) for weight in weights]


def blur(images: Tensor) -> Tensor:
    """Images blurred by the window of SSIM, with zeros beyond the border. [n, 1, height, width]"""
    window = images.new_tensor(gaussian_window())
    images = functional.conv2d(images, window.view(1, 1, 1, -1), padding=(0, MARGIN))
    return functional.conv2d(images, window.view(1, 1, -1, 1), padding=(MARGIN, 0))


def similarity(image: Tensor, target: Tensor, blur: Callable[[Tensor], Tensor] = blur) -> Tensor:
    """SSIM about each pixel (Wang 2004, eq. 13). [height, width, channels]"""
    x, y = (t.permute(2, 0, 1)[:, None] for t in (image, target))
    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x.square()
    variance_y = blur(y * y) - mean_y.square()
    covariance = blur(x * y) - mean_x * mean_y
    values = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    values = values / (mean_x.square() + mean_y.square() + C1) / (variance_x + variance_y + C2)
    return values[:, 0].permute(1, 2, 0)


def loss(
    image: Tensor,
    target: Tensor,
    *,
    ssim_weight: float,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    inner: Inner | None = None,
    out: Tensor | None = None,
    blur: Callable[[Tensor], Tensor] = blur,
) -> tuple[Tensor, Tensor]:
    """See `ImageBackend.loss`; another backend can bring its own `blur`."""
    check_loss(image, target, mask, weight, inner, out)
    height, width, channels = image.shape
    left, top, columns, rows, pixels = inner or (0, 0, width, height, height * width)
    target = _as_floats(target, image)
    with torch.enable_grad():
        leaf = image.detach().requires_grad_()
        seen = leaf if mask is None else torch.where(mask[..., None], leaf, target)
        terms = (1 - ssim_weight) * (seen - target).abs()
        if ssim_weight:
            terms = terms + ssim_weight * (1 - similarity(seen, target, blur))
        if weight is not None:
            terms = terms * weight[..., None]
        part = terms[top : top + rows, left : left + columns]
        value = part.sum(dtype=torch.float64) / (pixels * channels)
        (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient.contiguous() if out is None else out.copy_(gradient)


def ssim(image: Tensor, target: Tensor, *, blur: Callable[[Tensor], Tensor] = blur) -> Tensor:
    """See `ImageBackend.ssim`; another backend can bring its own `blur`."""
    check_images(image, target)
    return similarity(image, _as_floats(target, image), blur).mean()


def l1(image: Tensor, target: Tensor) -> Tensor:
    """See `ImageBackend.l1`."""
    check_images(image, target)
    return (image - _as_floats(target, image)).abs().mean()


def _as_floats(target: Tensor, image: Tensor) -> Tensor:
    target = target.detach()
    return target.to(image) / 255 if target.dtype == torch.uint8 else target


@torch.no_grad()
def adam(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-15,
    rows: Tensor | None = None,
) -> None:
    """See `ImageBackend.adam`."""
    check_adam(parameter, gradient, first, second, rows)
    new_first = first + (1 - betas[0]) * (gradient - first)
    new_second = second + (1 - betas[1]) * (gradient.square() - second)
    mean = new_first / (1 - betas[0] ** step)
    root = (new_second / (1 - betas[1] ** step)).sqrt()
    moved = parameter - learning_rate * mean / (root + epsilon)
    for old, new in ((first, new_first), (second, new_second), (parameter, moved)):
        if rows is None:
            old.copy_(new)
        else:
            old.copy_(torch.where(rows.view(old.shape[:1] + (1,) * (old.ndim - 1)), new, old))
