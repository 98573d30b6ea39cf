"""Images as eight bits hold them."""

import torch
from torch import Tensor


def to_bytes(image: Tensor) -> Tensor:
    """The image as a file or a screen shows it: clamped, rounded to 256 levels. uint8 [...]"""
    return (image.detach().clamp(0, 1) * 255).round().to(torch.uint8)


def quantize(image: Tensor) -> Tensor:
    """The image as it would be read back from an 8-bit file; evaluations compare this. [...]

    Published numbers of 3DGS and its kin are measured on such images.
    """
    return to_bytes(image).to(image.dtype) / 255
