"""The operations on images in C++: SIMD chosen at run time, OpenMP, no copies."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lumigraph.kernels import _native
from lumigraph.kernels.images.checks import check_adam, check_images, check_loss
from lumigraph.kernels.images.protocol import Inner

__all__ = ["adam", "l1", "loss", "ssim"]


@torch.no_grad()
def loss(
    image: Tensor,
    target: Tensor,
    *,
    ssim_weight: float,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    inner: Inner | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `ImageBackend.loss`."""
    check_loss(image, target, mask, weight, inner, out)
    image = image.detach().contiguous()
    gradient = torch.empty_like(image) if out is None else out
    value = _native.loss(
        image,
        *_as_floats_or_bytes(target),
        None if mask is None else mask.contiguous(),
        None if weight is None else weight.detach().contiguous(),
        inner,
        ssim_weight,
        gradient,
        torch.get_num_threads(),
    )
    return torch.tensor(value, dtype=torch.float64), gradient


class _Loss(torch.autograd.Function):
    """The gradient is found with the value, in the same pass, and only scaled on the way back."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, ssim_weight: float) -> Tensor:
        check_images(image, target)
        image = image.contiguous()
        gradient = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        value = _native.loss(
            image,
            *_as_floats_or_bytes(target),
            None,
            None,
            None,
            ssim_weight,
            gradient,
            torch.get_num_threads(),
        )
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return image.new_tensor(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None


def _as_floats_or_bytes(target: Tensor) -> tuple[Tensor | None, Tensor | None]:
    target = target.detach().contiguous()
    return (None, target) if target.dtype == torch.uint8 else (target, None)


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """See `ImageBackend.ssim`."""
    return 1 - _Loss.apply(image, target, 1.0)  # type: ignore[no-any-return]


def l1(image: Tensor, target: Tensor) -> Tensor:
    """See `ImageBackend.l1`."""
    return _Loss.apply(image, target, 0.0)  # type: ignore[no-any-return]


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
    _native.adam(
        parameter.detach(),
        gradient.contiguous(),
        first,
        second,
        (*betas, epsilon),
        learning_rate / (1 - betas[0] ** step),
        (1 - betas[1] ** step) ** -0.5,
        rows,
        torch.get_num_threads(),
    )
    # Tells autograd that the tensors have changed, so that it refuses gradients at old values.
    torch.autograd.graph.increment_version((parameter, first, second))
