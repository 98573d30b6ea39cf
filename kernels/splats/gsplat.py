"""The adapter of gsplat (Apache-2.0) for the CUDA backend.

Unverified: no line of this has run on a GPU yet. The functions are those of `reference.py`, for at
least one splat. gsplat differs from the reference in three points that its source fixes. Alpha is
held at 0.999, not at `ALPHA_MAX`. The splat that finishes a pixel is not blended; it has less than
`TRANSMITTANCE_MIN` of the light. Extents are whole pixels. Its sums use atomics, so the last bits
of gradients change from run to run.
"""

import functools
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from lumigraph.kernels.splats.types import ALPHA_MIN, BLUR, Filter, Footprints, Raster, View

__all__ = ["harmonics", "probe", "project", "rasterize"]

_TILE = 16
"""Side of a tile in pixels: gsplat uses a block of 256 threads for each tile."""

_STEP = 8
"""Splats evaluated together for a pixel's median: about 400 MB for a million pixels."""


def _gsplat() -> ModuleType:
    """Imports gsplat at its first use: on import it compiles itself, and prints if that fails."""
    return import_module("gsplat")


@functools.cache
def probe() -> str | None:
    """The reason why gsplat does not work here; None if it drew and differentiated one splat."""
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU"
    try:
        return None if _draws_one_splat("cuda") else "gsplat draws one splat wrongly"
    # Without its CUDA part, gsplat can be imported but fails when called, with an AttributeError.
    except (ImportError, RuntimeError, OSError, AttributeError, TypeError, AssertionError) as error:
        return f"gsplat fails with {type(error).__name__}: {error}"


# The first call may come from code that runs without gradients, so they are switched on here.
@torch.inference_mode(False)
@torch.enable_grad()
def _draws_one_splat(device: str) -> bool:
    """Whether a splat of opacity one half is drawn in the middle, with finite gradients."""
    at = torch.tensor([[0.0, 0.0, 1.0]], device=device, requires_grad=True)
    view = View((1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), (8, 8), (4, 4), 8, 8, 0.1)
    zero, turn = at.new_zeros(1), at.new_ones(1, 4)
    footprints = project(at, turn, at.new_zeros(1, 3), zero, view=view)
    image, *_ = _draw(footprints, at.new_ones(1, 1), 8, 8, None, at.new_zeros(1, 2))
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
    """See `reference.project`."""
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
    # gsplat leaves rows of splats out of view uninitialised, and keeps splats that are not finite.
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
    """See `reference.harmonics`."""
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
    """See `reference.rasterize`; up to 512 channels."""
    image, transmittance, tiles = _draw(
        footprints, features, width, height, background, absolute_gradients
    )
    none = torch.empty(0, 0, dtype=torch.int32, device=transmittance.device)
    halfway = _median(footprints, transmittance, *tiles) if median else none
    return Raster(image, transmittance, halfway)


def _draw(
    footprints: Footprints,
    features: Tensor,
    width: int,
    height: int,
    background: tuple[float, ...] | None,
    absolute_gradients: Tensor | None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The image, its transmittance, and the tile lists as their starts and their order."""
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
    """`Raster.median`, which gsplat does not compute: each pixel walks its tile's list of splats.

    Args:
        footprints: The blended splats.
        transmittance: The transmittance of the image. [height, width]
        starts: Index at which each tile's list begins. [tile rows, tile columns]
        order: The lists, one after the other, each sorted by depth. [intersections]
    """
    width = transmittance.shape[1]
    median = torch.full_like(transmittance, -1, dtype=torch.int32).flatten()
    # Only pixels at which half of the light is stopped have a median splat.
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
        seen = (alpha >= ALPHA_MIN) & (slots < end[:, None])
        after = left[:, None] * torch.where(seen, 1 - alpha, 1).cumprod(1)
        found = after[:, -1] <= 0.5
        first = (after <= 0.5).int().argmax(1, keepdim=True)
        median[pixel[found]] = splat.gather(1, first)[found, 0].int()
        slot, left = slot + _STEP, after[:, -1]
        going = ~found & (slot < end)
        pixel, slot, end, left = (t[going] for t in (pixel, slot, end, left))
    return median.view_as(transmittance)
