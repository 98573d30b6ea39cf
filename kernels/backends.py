"""Which backend works on which device."""

import torch

from lumigraph.kernels.images import cpu as images_cpu
from lumigraph.kernels.images import cuda as images_cuda
from lumigraph.kernels.images.protocol import ImageBackend


def images_for(device: torch.device | str) -> ImageBackend:
    """The fastest backend for images on `device`."""
    return images_cuda if torch.device(device).type == "cuda" else images_cpu
