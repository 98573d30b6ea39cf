"""The backend in C++: SIMD chosen at run time, OpenMP, no copies.

Every native call stands inside an autograd.Function: a tensor that needs a gradient would pass
through the binding without an error and silently leave the graph.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lumigraph.kernels import _native
from lumigraph.kernels.images import cpu as images
from lumigraph.kernels.splats import cpu_backend as new
from lumigraph.kernels.splats.cpu_moments import rasterize_moments
from lumigraph.kernels.splats.types import (
    Filter,
    Footprints,
    Parameters,
    Raster,
    RasterMoments,
    View,
)

__all__ = [
    "descend",
    "harmonics",
    "linearize",
    "paint",
    "paint_moments",
    "project",
    "rasterize",
    "rasterize_moments",
]


def _numbers(view: View) -> tuple[float, ...]:
    return (*view.world_to_camera, *view.focal, *view.center, view.near)


def _position(view: View) -> tuple[float, ...]:
    """Where the camera is. Plain arithmetic: tensors of 3 numbers cost more than they do."""
    m = view.world_to_camera
    return tuple(-(m[i] * m[3] + m[4 + i] * m[7] + m[8 + i] * m[11]) for i in range(3))


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, view: View, filter: Filter, *splats: Tensor) -> tuple[Tensor, ...]:
        means, quaternions, log_scales, opacity_logits = splats
        count = means.shape[0]
        centers, conics = means.new_empty(count, 2), means.new_empty(count, 3)
        opacities, depths = means.new_empty(count), means.new_empty(count)
        extents = means.new_empty(count, 2)
        ctx.arguments = (_numbers(view), (view.width, view.height), filter == "antialiased")
        _native.footprints(
            means,
            quaternions,
            log_scales,
            opacity_logits,
            *ctx.arguments,
            centers,
            conics,
            opacities,
            depths,
            extents,
            torch.get_num_threads(),
        )
        ctx.save_for_backward(*splats, extents)
        ctx.mark_non_differentiable(extents)
        return centers, conics, opacities, depths, extents

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *splats, extents = ctx.saved_tensors
        means, quaternions, log_scales, opacity_logits = splats
        view, size, antialiased = ctx.arguments
        out = tuple(torch.empty_like(x) for x in splats)
        incoming = tuple(gradient.contiguous() for gradient in gradients[:4])
        _native.project_backward(
            means,
            quaternions,
            log_scales,
            opacity_logits,
            view,
            size,
            antialiased,
            extents,
            incoming,
            out,
            torch.get_num_threads(),
        )
        return (None, None, *out)


def project(
    means: Tensor,
    quaternions: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    *,
    view: View,
    filter: Filter = "classic",
) -> Footprints:
    """See `Backend.project`."""
    splats = (means, quaternions, log_scales, opacity_logits)
    return Footprints(*_Project.apply(view, filter, *(x.contiguous() for x in splats)))


class _Harmonics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, arguments: tuple, means: Tensor, base: Tensor, rest: Tensor) -> Tensor:
        ctx.arguments = position, degree, visible = arguments
        colors = torch.empty_like(base)
        _native.harmonics(
            means, base, rest, position, degree, visible, colors, torch.get_num_threads()
        )
        ctx.save_for_backward(means, base, rest, colors)
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        means, base, rest, colors = ctx.saved_tensors
        position, degree, visible = ctx.arguments
        out = tuple(torch.empty_like(x) for x in (means, base, rest))
        _native.harmonics_backward(
            means,
            base,
            rest,
            position,
            degree,
            visible,
            colors,
            gradient.contiguous(),
            out,
            torch.get_num_threads(),
        )
        return (None, *out)


def harmonics(
    means: Tensor,
    base: Tensor,
    rest: Tensor,
    *,
    view: View,
    degree: int,
    visible: Tensor | None = None,
) -> Tensor:
    """See `Backend.harmonics`."""
    arguments = (_position(view), degree, None if visible is None else visible.contiguous())
    return _Harmonics.apply(arguments, means.contiguous(), base.contiguous(), rest.contiguous())  # type: ignore[no-any-return]


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        size: tuple[int, int],
        background: tuple[float, ...],
        absolute: Tensor | None,
        with_median: bool,
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        *projected, features = inputs
        footprints = Footprints(*projected)
        ctx.lists = _native.tile_lists(*footprints, size, torch.get_num_threads())
        width, height = size
        image = features.new_empty(height, width, features.shape[1])
        transmittance = features.new_empty(height, width)
        median = torch.empty((height, width) if with_median else (0, 0), dtype=torch.int32)
        _native.blend(
            ctx.lists, features, background, image, transmittance, median if with_median else None
        )
        ctx.absolute = absolute
        ctx.save_for_backward(footprints.conics, features, image, transmittance)
        ctx.mark_non_differentiable(median)
        return image, transmittance, median

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        conics, features, image, transmittance = ctx.saved_tensors
        count = conics.shape[0]
        out = (
            conics.new_zeros(count, 2),
            torch.zeros_like(conics),
            conics.new_zeros(count),
            torch.zeros_like(features),
        )
        _native.blend_backward(
            ctx.lists,
            features,
            conics,
            image,
            transmittance,
            gradients[0].contiguous(),
            gradients[1].contiguous(),
            out,
            ctx.absolute,
        )
        means, conics, opacities, features = out
        return (None, None, None, None, means, conics, opacities, None, None, features)


def rasterize(
    footprints: Footprints,
    features: Tensor,
    *,
    width: int,
    height: int,
    background: tuple[float, ...] | None = None,
    absolute_gradients: Tensor | None = None,
    median: bool = True,
) -> Raster:
    """See `Backend.rasterize`."""
    if absolute_gradients is not None:
        _check_absolute(absolute_gradients, footprints.means, features)
    inputs = (*(x.contiguous() for x in footprints), features.contiguous())
    return Raster(
        *_Rasterize.apply((width, height), background or (), absolute_gradients, median, *inputs)
    )


def _check_absolute(absolute: Tensor, means: Tensor, features: Tensor) -> None:
    """Backward writes into it: a copy of the right kind would be lost."""
    if absolute.shape != means.shape or absolute.dtype != torch.float32:
        raise ValueError(
            f"absolute_gradients must be float32 {list(means.shape)} but is "
            f"{absolute.dtype} {list(absolute.shape)}"
        )
    if not absolute.is_contiguous() or absolute.device != means.device:
        raise ValueError("absolute_gradients must be contiguous and on the device of the splats")
    if features.shape[1] > 4:
        raise ValueError(
            f"absolute_gradients needs features of at most 4 channels, not {features.shape[1]}: "
            "rasterize the others by themselves"
        )


@torch.no_grad()
def paint(splats, *, view, degree, filter="classic", background=(0.0, 0.0, 0.0), stop=None):
    """See `Backend.paint`."""
    records = new.project(splats, view=view, degree=degree, filter=filter, stop=stop)
    picture = new.blend(records, background=background, stop=stop)
    return picture.features, picture.transmittance


@torch.no_grad()
def paint_moments(
    splats,
    *,
    view,
    degree,
    filter="classic",
    background=(0.0, 0.0, 0.0),
    rate,
    shares=None,
    stop=None,
):
    """See `Backend.paint_moments`."""
    records = new.project(splats, view=view, degree=degree, filter=filter, stop=stop)
    found = new.moments(records, rate=rate, background=background, shares=shares, stop=stop)
    return RasterMoments(found.mean, found.variance, found.transmittance)


@torch.no_grad()
def linearize(splats, *, view, degree, filter="classic", background=(0.0, 0.0, 0.0)):
    """See `Backend.linearize`."""
    from lumigraph.kernels.splats.cpu_linear import Products

    records = new.project(splats, view=view, degree=degree, filter=filter)
    return Products(new.blend(records, background=background))


@torch.no_grad()
def descend(splats, moments, target, adam, *, degree, filter="classic", pull=None, curvature=None):
    """See `Backend.descend`."""
    records = new.project(splats, view=target.view, degree=degree, filter=filter)
    picture = new.blend(records, background=target.background)
    loss, gradient = images.loss(
        picture.features, target.photo, ssim_weight=target.ssim_weight
    )
    by_records = picture.vjp(gradient, absolute=pull is not None)
    new.update(splats, moments, by_records, adam, pull=pull, curvature=curvature)
    return loss.item()


def _check_in_place(groups: dict[str, Parameters]) -> None:
    """What is written to in place cannot be a copy of the right kind."""
    for group, values in groups.items():
        for name, value in zip(values._fields, values, strict=True):
            if value.dtype != torch.float32 or not value.is_contiguous():
                raise ValueError(
                    f"{name} of {group} must be contiguous float32 but is {value.dtype} with "
                    f"strides {value.stride()}: make it so before, it is changed in place"
                )


def _written(tensors: tuple[Tensor, ...]) -> None:
    """Lets autograd know, which would else take gradients at values that are gone."""
    torch.autograd.graph.increment_version(tensors)
