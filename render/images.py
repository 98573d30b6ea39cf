"""Conversion of images to 8 bits."""

import torch
from torch import Tensor


def to_bytes(image: Tensor) -> Tensor:
    """The image with 8 bits for each value, as in a file: clamped and rounded. uint8 [...]"""
    return (image.detach().clamp(0, 1) * 255).round().to(torch.uint8)


def quantize(image: Tensor) -> Tensor:
    """The image after writing it to an 8-bit file and reading it back. [...]

    Evaluations compare such images, as the published numbers of 3DGS and its successors do.
    """
    return to_bytes(image).to(image.dtype) / 255
