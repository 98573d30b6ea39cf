"""Kernels for NVIDIA GPUs: gsplat's (Apache-2.0), ours in Triton, and plain PyTorch.

Unverified: no line of this has run on a GPU yet. Tests marked `cuda` hold it to the reference.

| operation | gsplat works | only Triton does | neither does |
|---|---|---|---|
| project, harmonics | gsplat | PyTorch | PyTorch, if small |
| rasterize | gsplat | Triton | PyTorch, if small |
| moments, jvp, blocks | Triton, else PyTorch by parts | Triton | PyTorch by parts |

Triton draws float32 only. What gsplat draws differs a little: see `gsplat.py`.
"""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from lumigraph.kernels.splats import derivative, reference
from lumigraph.kernels.splats import gsplat as cuda_gsplat
from lumigraph.kernels.splats.checks import check_moments
from lumigraph.kernels.splats.composed import TensorBackend
from lumigraph.kernels.splats.gsplat import probe
from lumigraph.kernels.splats.types import (
    ALPHA_MAX,
    Filter,
    Footprints,
    Raster,
    RasterMoments,
    View,
    Window,
)

__all__ = ["BACKEND", "probe", "probe_triton"]

_PATCH = 64
"""Side in pixels of the parts in which moments are found: a few hundred for a large image."""

_SMALL_SPLATS, _SMALL_PIXELS = 2_000, 1 << 16
"""Up to here the reference may rasterize: it takes well under a second on any GPU."""


@functools.cache
def probe_triton() -> str | None:
    """Why our Triton kernels do not work here, or None if they drew and derived one splat."""
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU"
    try:
        from lumigraph.kernels.splats.triton import blend as triton_blend
    except ImportError as error:
        return f"Triton fails with {type(error).__name__}: {error}"
    return triton_blend.probe()


def project(
    means: Tensor,
    quaternions: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    *,
    view: View,
    filter: Filter = "classic",
) -> Footprints:
    """See `reference.project`."""
    falls = len(means) == 0 or _falls_back("project", len(means), view.width * view.height)
    kernels = reference if falls else cuda_gsplat
    return kernels.project(means, quaternions, log_scales, opacity_logits, view=view, filter=filter)


def harmonics(
    means: Tensor,
    base: Tensor,
    rest: Tensor,
    *,
    view: View,
    degree: int,
    visible: Tensor | None = None,
) -> Tensor:
    """See `reference.harmonics`."""
    falls = len(means) == 0 or _falls_back("harmonics", len(means), view.width * view.height)
    kernels = reference if falls else cuda_gsplat
    return kernels.harmonics(means, base, rest, view=view, degree=degree, visible=visible)


def rasterize(
    footprints: Footprints,
    features: Tensor,
    *,
    width: int,
    height: int,
    background: tuple[float, ...] | None = None,
    absolute_gradients: Tensor | None = None,
    median: bool = True,
    alpha_max: float = ALPHA_MAX,
) -> Raster:
    """See `reference.rasterize`; up to 512 channels. gsplat has an `alpha_max` of its own."""
    draw: Callable[..., Raster] = cuda_gsplat.rasterize
    if len(features) and probe() is not None and _suits_triton(features):
        from lumigraph.kernels.splats.triton import blend as triton_blend

        draw = functools.partial(triton_blend.rasterize, alpha_max=alpha_max)
    elif len(features) == 0 or _falls_back("rasterize", len(features), width * height):
        draw = functools.partial(reference.rasterize, alpha_max=alpha_max)
    return draw(
        footprints,
        features,
        width=width,
        height=height,
        background=background,
        absolute_gradients=absolute_gradients,
        median=median,
    )


def rasterize_moments(
    footprints: Footprints,
    features: Tensor,
    *,
    rate: float,
    width: int,
    height: int,
    background: tuple[float, ...] | None = None,
    origin: Tensor | None = None,
    shares: Tensor | None = None,
) -> RasterMoments:
    """See `reference.rasterize_moments`: by Triton, or by the reference for each patch.

    Either way alpha stops at `ALPHA_MAX`, not where gsplat has it.
    """
    check_moments(
        features.shape[1],
        rate,
        (width, height),
        background,
        origin,
        shares,
        len(features),
        features,
    )
    if _suits_triton(features):
        from lumigraph.kernels.splats.triton import moments as triton_moments

        return triton_moments.rasterize_moments(
            footprints,
            features,
            rate=rate,
            width=width,
            height=height,
            background=background,
            origin=origin,
            shares=shares,
        )
    rows = []
    for y in range(0, height, _PATCH):
        row = []
        for x in range(0, width, _PATCH):
            size = min(_PATCH, width - x), min(_PATCH, height - y)
            _, part, index = derivative.part_of(footprints, Window(x, y, *size))
            portions = None if shares is None else shares.new_zeros(len(index))
            patch = reference.rasterize_moments(
                part,
                features[index],
                rate=rate,
                width=size[0],
                height=size[1],
                background=background,
                origin=None if origin is None else origin[y : y + size[1], x : x + size[0]],
                shares=portions,
            )
            if shares is not None and portions is not None:
                shares.index_add_(0, index, portions)
            row.append(patch)
        rows.append([torch.cat(images, 1) for images in zip(*row, strict=True)])
    return RasterMoments(*(torch.cat(images) for images in zip(*rows, strict=True)))


def _setting(like: Tensor) -> derivative.Setting:
    """How products of pictures are found: by Triton, or by the reference in patches.

    Where gsplat draws, its picture differs from the one that is differentiated there: see
    `gsplat.py`.
    """
    if not _suits_triton(like):
        return derivative.Setting(patch=_PATCH)
    from lumigraph.kernels.splats.triton import blend as triton_blend
    from lumigraph.kernels.splats.triton import curvature as triton_curvature

    return derivative.Setting(
        rasterize=triton_blend.rasterize, screen_products=triton_curvature.screen_products
    )


def _suits_triton(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and probe_triton() is None


def _falls_back(operation: str, splats: int, pixels: int) -> bool:
    """Whether the reference must do this operation; raises RuntimeError if that is too much."""
    reason = probe()
    if reason is None:
        return False
    other = probe_triton()
    if other is None and operation != "rasterize":
        return True  # A few steps of PyTorch for each splat, which are not what takes long.
    reason = f"{reason}; {other or 'Triton draws float32 only'}"
    if splats > _SMALL_SPLATS or pixels > _SMALL_PIXELS:
        raise RuntimeError(
            f"{operation} of {splats} splats on {pixels} pixels needs gsplat or Triton, but "
            f"{reason}. Install lumigraph[cuda], and for gsplat a CUDA toolkit with nvcc or for "
            "Triton a C compiler, or run on the CPU; without either the limit is "
            f"{_SMALL_SPLATS} splats on {_SMALL_PIXELS} pixels"
        )
    _warn_once(operation, reason)
    return True


@functools.cache
def _warn_once(operation: str, reason: str) -> None:
    warnings.warn(f"{operation} is done slowly in PyTorch: {reason}", stacklevel=4)


BACKEND = TensorBackend(project, harmonics, rasterize, rasterize_moments, _setting)
"""`SplatBackend` on GPUs."""
