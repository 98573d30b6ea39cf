"""Metrics that compare two images: PSNR and SSIM."""

import math

from torch import Tensor

from lumigraph.kernels import images_for

PSNR_MAX = 120.0
"""The PSNR of equal images in dB, where the formula gives infinity.

It keeps means over views finite, and numbers valid in JSON. Images of up to five million pixels
that differ by one step of eight bits in a single value still have a lower PSNR.
"""


def psnr(image: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, for a peak of 1; at most `PSNR_MAX`.

    One thread sums in float64, so the result does not depend on the number of threads.

    Args:
        image: Values in [0, 1]. To compare with published numbers, call `quantize` first.
            [height, width, channels]
        target: The image to compare with. [height, width, channels]

    Raises:
        ValueError: The images differ in shape or are empty.
    """
    _check(image, target)
    difference = (image.detach().double() - target.detach().double()).cpu().numpy()
    error = float((difference * difference).sum()) / difference.size
    return min(-10 * math.log10(error), PSNR_MAX) if error != 0 else PSNR_MAX


def ssim(image: Tensor, target: Tensor) -> float:
    """Mean structural similarity over pixels and channels (Wang 2004), as 3DGS reports it.

    The window is an 11x11 Gaussian of sigma 1.5, the image is zero beyond its border, and the data
    range is 1. Other tools reflect the image at the border (torchmetrics) or leave the border out
    (pytorch-msssim). This changes the third decimal, and more on small images.

    Args:
        image: Values in [0, 1]. [height, width, channels]
        target: The image to compare with. [height, width, channels]

    Raises:
        ValueError: The images differ in shape or are empty.
    """
    _check(image, target)
    return float(images_for(image.device).ssim(image.detach(), target.detach()))


def _check(image: Tensor, target: Tensor) -> None:
    if image.shape != target.shape or image.ndim != 3 or image.numel() == 0:
        raise ValueError(
            f"The images must have one shape [height, width, channels], but have the shapes "
            f"{list(image.shape)} and {list(target.shape)}: resize one to the size of the other"
        )
    if not (image.is_floating_point() and target.is_floating_point()):
        raise ValueError(
            f"The images must have floats in [0, 1], but have {image.dtype} and "
            f"{target.dtype}: divide 8-bit values by 255"
        )
