"""How alike two images are."""

import math

from torch import Tensor

from lumigraph.kernels import images_for

PSNR_MAX = 120.0
"""What equal images score, in dB, where the formula says infinity.

Means over views stay finite and so does JSON, and images of up to five million pixels that differ
by one step of eight bits in a single value still score less.
"""


def psnr(image: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, for a peak of 1; at most `PSNR_MAX`.

    The sum is taken in float64 on one thread, so the result does not depend on their number.

    Args:
        image: Values in [0, 1]; `quantize` it first to compare with published numbers.
            [height, width, channels]
        target: The same. [height, width, channels]

    Raises:
        ValueError: The images differ in shape or are empty.
    """
    _check(image, target)
    difference = (image.detach().double() - target.detach().double()).cpu().numpy()
    error = float((difference * difference).sum()) / difference.size
    return min(-10 * math.log10(error), PSNR_MAX) if error != 0 else PSNR_MAX


def ssim(image: Tensor, target: Tensor) -> float:
    """Mean structural similarity over pixels and channels (Wang 2004), as 3DGS reports it.

    An 11x11 Gaussian window of sigma 1.5 with zeros beyond the border and a data range of 1. Other
    tools reflect the border (torchmetrics) or leave it out (pytorch-msssim), which moves the third
    decimal and more on small images.

    Args:
        image: Values in [0, 1]. [height, width, channels]
        target: The same. [height, width, channels]

    Raises:
        ValueError: The images differ in shape or are empty.
    """
    _check(image, target)
    return float(images_for(image.device).ssim(image.detach(), target.detach()))


def _check(image: Tensor, target: Tensor) -> None:
    if image.shape != target.shape or image.ndim != 3 or image.numel() == 0:
        raise ValueError(
            f"Two images of one shape [height, width, channels] can be compared, but these have "
            f"{list(image.shape)} and {list(target.shape)}: resize one to the size of the other"
        )
    if not (image.is_floating_point() and target.is_floating_point()):
        raise ValueError(
            f"Images are compared as floats in [0, 1], but these are {image.dtype} and "
            f"{target.dtype}: divide 8-bit values by 255"
        )
