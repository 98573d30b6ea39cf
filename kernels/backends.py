"""Which backend works on which device."""

import torch

from lumigraph.kernels.images import cpu as images_cpu
from lumigraph.kernels.images import cuda as images_cuda
from lumigraph.kernels.images.protocol import ImageBackend
from lumigraph.kernels.splats import cpu as splats_cpu
from lumigraph.kernels.splats import cuda as splats_cuda
from lumigraph.kernels.splats.protocol import SplatBackend


def splats_for(device: torch.device | str) -> SplatBackend:
    """The fastest backend for splats on `device`."""
    return splats_cuda.BACKEND if torch.device(device).type == "cuda" else splats_cpu


def images_for(device: torch.device | str) -> ImageBackend:
    """The fastest backend for images on `device`."""
    return images_cuda if torch.device(device).type == "cuda" else images_cpu
