"""Checks of the arguments of the operations on images, the same in every backend."""

import torch
from torch import Tensor

from lumigraph.kernels.images.protocol import Inner


def check_images(image: Tensor, target: Tensor) -> None:
    """Raises ValueError unless an image can be compared with a target."""
    if image.ndim != 3 or image.numel() == 0 or not image.is_floating_point():
        raise ValueError(
            "the image must be floats [height, width, channels] with at least one number, but is "
            f"{image.dtype} {list(image.shape)}"
        )
    same_type = target.dtype in (image.dtype, torch.uint8) and target.device == image.device
    if target.shape != image.shape or not same_type:
        raise ValueError(
            f"the target must be {image.dtype} or uint8 {list(image.shape)} on {image.device}, as "
            f"the image is, but is {target.dtype} {list(target.shape)} on {target.device}"
        )


def check_loss(
    image: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    inner: Inner | None,
    out: Tensor | None,
) -> None:
    """Raises ValueError unless `ImageBackend.loss` can work on these."""
    check_images(image, target)
    height, width, _ = image.shape
    if mask is not None:
        _check("the mask", mask, torch.bool, (height, width), image.device)
    if weight is not None:
        _check("the weight", weight, image.dtype, (height, width), image.device)
    if out is not None:
        _check("out", out, image.dtype, tuple(image.shape), image.device)
        if not out.is_contiguous() or out.requires_grad:
            raise ValueError(
                "out must be contiguous and need no gradient, for the gradient is written to it: "
                "pass torch.empty of the image's shape"
            )
    if inner is not None:
        left, top, columns, rows, pixels = inner
        inside = 0 <= left <= left + columns <= width and 0 <= top <= top + rows <= height
        if not inside or pixels < columns * rows or pixels < 1:
            raise ValueError(
                f"{inner} must be a part of a window of {width}x{height} pixels, with no more "
                "pixels than the whole image has"
            )


def check_adam(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rows: Tensor | None
) -> None:
    """Raises ValueError unless `ImageBackend.adam` can take a step with these."""
    shape = tuple(parameter.shape)
    for name, tensor in (("gradient", gradient), ("first mean", first), ("second mean", second)):
        _check(f"the {name}", tensor, parameter.dtype, shape, parameter.device)
    if rows is not None:
        _check("rows", rows, torch.bool, shape[:1] or (1,), parameter.device)


def _check(
    name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    if tensor.shape != shape or tensor.dtype != dtype or tensor.device != device:
        raise ValueError(
            f"{name} must be {dtype} {list(shape)} on {device} but is {tensor.dtype} "
            f"{list(tensor.shape)} on {tensor.device}"
        )
