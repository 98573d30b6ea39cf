"""Kernels for NVIDIA GPUs: gsplat's (Apache-2.0), ours in Triton, and plain PyTorch.

Unverified: no line of this has run on a GPU yet. Tests marked `cuda` hold it to the reference.

| operation | gsplat works | only Triton does | neither does |
|---|---|---|---|
| project, harmonics | gsplat | PyTorch | PyTorch, if small |
| rasterize | gsplat | Triton | PyTorch, if small |
| moments without gradients, linearize | Triton, else PyTorch by parts | Triton | PyTorch by parts |
| moments with gradients | PyTorch by parts | PyTorch by parts | PyTorch by parts |
| ssim, l1, adam | PyTorch | PyTorch | PyTorch |

Triton draws float32 only. gsplat differs from the reference in what it fixes in its source: alpha
stops at 0.999, not at `ALPHA_MAX`; the splat that would finish a pixel is left out, not blended
(less than `TRANSMITTANCE_MIN` of the light); extents are whole pixels. Its sums use atomics, so the
last bits of gradients change from run to run.
"""

import functools
import sys
import warnings
from importlib import import_module
from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from lumigraph.kernels import composed, linear, reference
from lumigraph.kernels.backend import Backend, Linearization
from lumigraph.kernels.checks import check_moments
from lumigraph.kernels.reference import adam, l1
from lumigraph.kernels.types import (
    BLUR,
    Filter,
    Footprints,
    Parameters,
    Raster,
    RasterMoments,
    View,
)

__all__ = [
    "adam",
    "descend",
    "harmonics",
    "l1",
    "linearize",
    "paint",
    "paint_moments",
    "probe",
    "probe_triton",
    "project",
    "rasterize",
    "rasterize_moments",
    "ssim",
]

_TILE = 16
"""Side of a tile in pixels: gsplat gives each a block of 256 threads."""

_PATCH = 64
"""Side in pixels of the parts in which moments are found: a few hundred for a large image."""

_STEP = 8
"""Splats tried at once for a pixel's median: about 400 MB for a million pixels."""

_SMALL_SPLATS, _SMALL_PIXELS = 2_000, 1 << 16
"""Up to here the reference may rasterize: it takes well under a second on any GPU."""


@functools.cache
def probe() -> str | None:
    """Why gsplat does not work here, in a few words, or None if it drew and derived one splat."""
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU"
    try:
        return None if _draws_one_splat("cuda") else "gsplat draws one splat wrongly"
    # A gsplat without its CUDA part imports, and fails when called: None has no such attribute.
    except (ImportError, RuntimeError, OSError, AttributeError, TypeError, AssertionError) as error:
        return f"gsplat fails with {type(error).__name__}: {error}"


@functools.cache
def probe_triton() -> str | None:
    """Why our Triton kernels do not work here, or None if they drew and derived one splat."""
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU"
    try:
        from lumigraph.kernels import triton_blend
    except ImportError as error:
        return f"Triton fails with {type(error).__name__}: {error}"
    return triton_blend.probe()


# Whoever is first to ask may be painting, without gradients.
@torch.inference_mode(False)
@torch.enable_grad()
def _draws_one_splat(device: str) -> bool:
    """Whether a splat of opacity one half is seen in the middle of an image, and derived."""
    at = torch.tensor([[0.0, 0.0, 1.0]], device=device, requires_grad=True)
    view = View((1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), (8, 8), (4, 4), 8, 8, 0.1)
    zero, turn = at.new_zeros(1), at.new_ones(1, 4)
    footprints = _project(at, turn, at.new_zeros(1, 3), zero, view, "classic")
    image, *_ = _rasterize(footprints, at.new_ones(1, 1), 8, 8, None, at.new_zeros(1, 2))
    (gradient,) = torch.autograd.grad(image.square().sum(), at)
    return 0.4 < image.amax().item() <= 0.5 and bool(gradient.isfinite().all())


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
    if len(means) == 0 or _falls_back("project", len(means), view.width * view.height):
        return reference.project(
            means, quaternions, log_scales, opacity_logits, view=view, filter=filter
        )
    return _project(means, quaternions, log_scales, opacity_logits, view, filter)


def _project(
    means: Tensor,
    quaternions: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    view: View,
    filter: Filter,
) -> Footprints:
    matrix = means.new_tensor([*view.world_to_camera, 0, 0, 0, 1]).view(1, 4, 4)
    (fx, fy), (cx, cy) = view.focal, view.center
    intrinsics = means.new_tensor([fx, 0, cx, 0, fy, cy, 0, 0, 1]).view(1, 3, 3)
    opacities = opacity_logits.sigmoid()
    radii, centers, depths, conics, compensations = _gsplat().fully_fused_projection(
        means,
        None,
        quaternions,
        log_scales.exp(),
        matrix,
        intrinsics,
        view.width,
        view.height,
        eps2d=BLUR,
        near_plane=view.near,
        calc_compensations=filter == "antialiased",
        opacities=opacities.detach(),
    )
    radii, centers, depths, conics = radii[0], centers[0], depths[0], conics[0]
    if compensations is not None:
        opacities = opacities * compensations[0]
    # gsplat leaves what it does not see uninitialised, and lets what is not finite through.
    finite = torch.cat([centers, conics, opacities[:, None]], 1).isfinite().all(1)
    seen = (radii > 0).all(1) & finite
    return Footprints(
        means=torch.where(seen[:, None], centers, 0),
        conics=torch.where(seen[:, None], conics, 0),
        opacities=torch.where(seen, opacities, 0),
        depths=torch.where(seen, depths, 0),
        extents=torch.where(seen[:, None], radii, 0).to(means.dtype),
    )


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
    if len(means) == 0 or _falls_back("harmonics", len(means), view.width * view.height):
        return reference.harmonics(means, base, rest, view=view, degree=degree, visible=visible)
    matrix = means.new_tensor(view.world_to_camera).view(3, 4)
    position = -matrix[:, :3].T @ matrix[:, 3]
    coefficients = torch.cat([base[:, None], rest[:, : (degree + 1) ** 2 - 1]], 1)
    colors = _gsplat().spherical_harmonics(degree, means - position, coefficients, masks=visible)
    colors = (colors + 0.5).clamp_min(0)
    return colors if visible is None else torch.where(visible[:, None], colors, 0)


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
    """See `Backend.rasterize`; up to 512 channels."""
    other = None
    if len(features) and probe() is not None and _suits_triton(features):
        from lumigraph.kernels import triton_blend

        other = triton_blend.rasterize
    elif len(features) == 0 or _falls_back("rasterize", len(features), width * height):
        other = reference.rasterize
    if other is not None:
        return other(
            footprints,
            features,
            width=width,
            height=height,
            background=background,
            absolute_gradients=absolute_gradients,
            median=median,
        )
    image, transmittance, tiles = _rasterize(
        footprints, features, width, height, background, absolute_gradients
    )
    none = torch.empty(0, 0, dtype=torch.int32, device=transmittance.device)
    halfway = _median(footprints, transmittance, *tiles) if median else none
    return Raster(image, transmittance, halfway)


def _rasterize(
    footprints: Footprints,
    features: Tensor,
    width: int,
    height: int,
    background: tuple[float, ...] | None,
    absolute_gradients: Tensor | None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The image, what comes through it, and the tile lists as their starts and their order."""
    gsplat = _gsplat()
    means = footprints.means[None].contiguous()
    radii = footprints.extents.detach().ceil().int()[None]
    depths = footprints.depths.detach()[None]
    tiles = -(-width // _TILE), -(-height // _TILE)
    _, keys, order = gsplat.isect_tiles(means.detach(), radii, depths, _TILE, *tiles)
    starts = gsplat.isect_offset_encode(keys, 1, *tiles)
    image, opacity = gsplat.rasterize_to_pixels(
        means,
        footprints.conics[None],
        features[None],
        footprints.opacities[None],
        width,
        height,
        _TILE,
        starts,
        order,
        backgrounds=None if background is None else features.new_tensor([background]),
        absgrad=absolute_gradients is not None,
    )

    def add_absolute(_: Tensor) -> None:
        assert absolute_gradients is not None
        absolute_gradients.add_(means.absgrad[0])  # pyright: ignore[reportAttributeAccessIssue]

    if absolute_gradients is not None and means.requires_grad:
        means.register_hook(add_absolute)
    return image[0], 1 - opacity[0, ..., 0], (starts[0], order)


@torch.no_grad()
def _median(footprints: Footprints, transmittance: Tensor, starts: Tensor, order: Tensor) -> Tensor:
    """`Raster.median`, which gsplat does not give: each pixel walks its tile's list of splats.

    Args:
        footprints: What was blended.
        transmittance: The result. [height, width]
        starts: Where each tile's list begins. [tile rows, tile columns]
        order: The lists, one after the other, each sorted by depth. [intersections]
    """
    width = transmittance.shape[1]
    median = torch.full_like(transmittance, -1, dtype=torch.int32).flatten()
    # Only where half of the light is stopped is there anything to find.
    pixel = torch.nonzero(transmittance.flatten() <= 0.5)[:, 0]
    tile = pixel // width // _TILE * starts.shape[1] + pixel % width // _TILE
    slot, end = (t.long()[tile] for t in (starts.flatten(), starts.flatten().roll(-1)))
    end = torch.where(tile == starts.numel() - 1, len(order), end)
    left = torch.ones_like(pixel, dtype=transmittance.dtype)
    while len(pixel):
        slots = slot[:, None] + torch.arange(_STEP, device=slot.device)
        splat = order[slots.clamp_max(len(order) - 1)].long()
        at = torch.stack([pixel % width, pixel // width], -1) + 0.5
        dx, dy = (at[:, None] - footprints.means[splat]).unbind(-1)
        xx, xy, yy = footprints.conics[splat].unbind(-1)
        power = -0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy
        alpha = footprints.opacities[splat] * power.exp()
        seen = (alpha >= reference.ALPHA_MIN) & (slots < end[:, None])
        after = left[:, None] * torch.where(seen, 1 - alpha, 1).cumprod(1)
        found = after[:, -1] <= 0.5
        first = (after <= 0.5).int().argmax(1, keepdim=True)
        median[pixel[found]] = splat.gather(1, first)[found, 0].int()
        slot, left = slot + _STEP, after[:, -1]
        going = ~found & (slot < end)
        pixel, slot, end, left = (t[going] for t in (pixel, slot, end, left))
    return median.view_as(transmittance)


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
    """See `Backend.rasterize_moments`: by Triton if it needs no gradients.

    Else by the reference, patch by patch, on the splats of each. Either way alpha stops at
    `ALPHA_MAX`, not where gsplat has it.
    """
    check_moments(features, rate, (width, height), background, origin, shares)
    derived = any(t.requires_grad for t in (*footprints[:3], features))
    if _suits_triton(features) and not (derived and torch.is_grad_enabled()):
        from lumigraph.kernels import triton_moments

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
            _, _, part, index = linear.part_of(footprints, (x, y), size)
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


def linearize(
    splats: Parameters,
    *,
    view: View,
    degree: int,
    filter: Filter = "classic",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Linearization:
    """See `Backend.linearize`: the reference, which draws by Triton, or patch by patch.

    Its picture is not gsplat's, and differs from that where `cuda.py` says so.
    """
    rasterize = None
    if _suits_triton(splats.means):
        from lumigraph.kernels import triton_blend

        rasterize = triton_blend.rasterize
    return linear.linearize(
        splats,
        view=view,
        degree=degree,
        filter=filter,
        background=background,
        patch=_PATCH,
        rasterize=rasterize,
    )


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """See `Backend.ssim`."""
    return reference.ssim(image, target, blur=_Blur.apply)


class _Blur(torch.autograd.Function):
    """The window of SSIM in full float32, both ways.

    By default cuDNN convolves in TF32, whose 10 bits leave nothing of a small variance. The window
    is symmetric and the border zero, so the blur is its own adjoint.
    """

    @staticmethod
    def forward(ctx: object, images: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return reference.blur(images)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _Blur.apply(gradient)


def _gsplat() -> ModuleType:
    """Imported late: it compiles itself on the way in, and prints where it cannot."""
    return import_module("gsplat")


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


paint = functools.partial(composed.paint, cast(Backend, sys.modules[__name__]))
"""See `Backend.paint`."""

paint_moments = functools.partial(composed.paint_moments, cast(Backend, sys.modules[__name__]))
"""See `Backend.paint_moments`."""

descend = functools.partial(composed.descend, cast(Backend, sys.modules[__name__]))
"""See `Backend.descend`."""
