"""The operations on images for NVIDIA GPUs: the reference, with its blur in full float32.

Unverified: no line of this has run on a GPU yet. Tests marked `cuda` hold it to the reference.
"""

from functools import partial

import torch
from torch import Tensor

from lumigraph.kernels.images import reference
from lumigraph.kernels.images.reference import adam, l1

__all__ = ["adam", "l1", "loss", "ssim"]


class _Blur(torch.autograd.Function):
    """The window of SSIM in full float32, both ways.

    By default cuDNN convolves in TF32, and its 10 bits lose a small variance entirely. The window
    is symmetric and the border zero, so the blur is its own adjoint.
    """

    @staticmethod
    def forward(ctx: object, images: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return reference.blur(images)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _Blur.apply(gradient)


ssim = partial(reference.ssim, blur=_Blur.apply)
"""See `ImageBackend.ssim`."""

loss = partial(reference.loss, blur=_Blur.apply)
"""See `ImageBackend.loss`."""
