"""The derivative of a picture by splats, in plain PyTorch: any float type, any device.

G v is found by forward differentiation of `picture`, and the blocks of G^T diag(w) G by the
formulas of compositing: see `screen_products`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lumigraph.kernels.splats import reference
from lumigraph.kernels.splats.types import (
    ALPHA_MAX,
    ALPHA_MIN,
    GEOMETRY,
    TRANSMITTANCE_MIN,
    Blocks,
    Footprints,
    Look,
    Parameters,
    Raster,
    View,
    Window,
)

_NO_VIEW = View((0.0,) * 12, (1.0, 1.0), (0.0, 0.0), 1, 1, 0.0)


class Setting(NamedTuple):
    """What the products of one picture have in common."""

    look: Look = Look(_NO_VIEW, 0)
    background: tuple[float, ...] = (0.0, 0.0, 0.0)
    window: Window = Window(0, 0, 1, 1)
    """The part of the image that is shown."""
    alpha_max: float = ALPHA_MAX
    patch: int | None = None
    """Side in pixels of the parts of the picture that PyTorch works on one by one, or None."""
    rasterize: Callable[..., Raster] | None = None
    """What draws the picture at once, with derivatives both ways; None: the reference."""
    screen_products: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None
    """What finds `screen_products` at once; None: the function of that name here."""


def picture(splats: Parameters, setting: Setting) -> Tensor:
    """The colours of a window of splats in view. [height, width, 3]"""
    footprints, colors = _look(splats, setting)
    if setting.rasterize is not None:
        whole = part_of(footprints, setting.window)
        return setting.rasterize(
            whole.footprints,
            colors[whole.index],
            width=setting.window.width,
            height=setting.window.height,
            background=setting.background,
            median=False,
            alpha_max=setting.alpha_max,
        ).features
    rows: dict[int, list[Tensor]] = {}
    for part in _parts(footprints, setting):
        raster = reference.rasterize(
            part.footprints,
            colors[part.index],
            width=part.window.width,
            height=part.window.height,
            background=setting.background,
            median=False,
            alpha_max=setting.alpha_max,
        )
        rows.setdefault(part.window.top, []).append(raster.features)
    return torch.cat([torch.cat(row, 1) for row in rows.values()])


def add_blocks(
    splats: Parameters, index: Tensor, weights: Tensor, setting: Setting, out: Blocks
) -> None:
    """Adds the blocks of splats in view to the rows `index` of `out`."""
    footprints, colors = _look(splats, setting)
    products = setting.screen_products or screen_products
    own, mixed, shown = products(footprints, colors, weights, setting)
    lens, tint, base, rest = _screen_derivatives(splats, setting)
    cross = tint.mT @ mixed @ lens
    block = lens.mT @ own @ lens + cross + cross.mT + tint.mT @ (shown[..., None] * tint)
    low, across = torch.tril_indices(GEOMETRY, GEOMETRY)
    out.geometry.index_add_(0, index, block[:, low, across])
    out.base.index_add_(0, index, base.square() * shown)
    out.rest.index_add_(0, index, rest.square() * shown[:, None])


def _look(splats: Parameters, setting: Setting) -> tuple[Footprints, Tensor]:
    """Splats in view as it sees them, and their colours."""
    view, degree, filter = setting.look
    means, *shape, base, rest = splats
    footprints = reference.project(means, *shape, view=view, filter=filter)
    return footprints, reference.harmonics(means, base, rest, view=view, degree=degree)


class Part(NamedTuple):
    """A part of a picture, and the splats that it shows."""

    window: Window
    """In the whole image."""
    footprints: Footprints
    """Measured from the window's corner."""
    index: Tensor
    """Of these splats."""


def _parts(footprints: Footprints, setting: Setting) -> Iterator[Part]:
    left, top, width, height = setting.window
    side = setting.patch or max(width, height)
    for y in range(0, height, side):
        for x in range(0, width, side):
            size = (min(side, width - x), min(side, height - y))
            yield part_of(footprints, Window(left + x, top + y, *size))


def part_of(footprints: Footprints, window: Window) -> Part:
    """The splats that a part of the image shows."""
    index = shown_in(footprints.means, footprints.extents, window)
    part = Footprints(*(tensor[index] for tensor in footprints))
    corner = part.means.new_tensor([window.left, window.top])
    return Part(window, part._replace(means=part.means - corner), index)


@torch.no_grad()
def shown_in(means: Tensor, extents: Tensor, window: Window) -> Tensor:
    """Rows of the splats with a box that meets a window. int64 [shown]"""
    first = means.new_tensor([window.left, window.top])
    end = first + means.new_tensor([window.width, window.height])
    meets = (means + extents > first) & (means - extents < end)
    return torch.nonzero(meets.all(1) & (extents[:, 0] > 0))[:, 0]


def screen_products(
    footprints: Footprints, colors: Tensor, weights: Tensor, setting: Setting
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over pixels of w g g^T, where g is by what each splat is on the image plane.

    With T the transmittance before a splat and B what is seen behind it, the derivative of a
    pixel's colour by log(alpha) is q = alpha (T color - B / (1 - alpha)), and by the colour
    alpha T; the derivatives of log(alpha) are those of its quadratic form.

    Returns:
        Sums of products by mean 2, conic 3 and opacity 1 [splats, 6, 6], of those by colours and
        by these [splats, 3, 6], and of squares by colours [splats, 3].
    """
    count, behind = len(colors), colors.new_tensor(setting.background)
    own, mixed = colors.new_zeros(count, 6, 6), colors.new_zeros(count, 3, 6)
    shown = torch.zeros_like(colors)
    for part in _parts(footprints, setting):
        order = reference.front_to_back(part.footprints)
        index, (left, top, width, height) = part.index[order], part.window
        x, y = left - setting.window.left, top - setting.window.top
        means, conics, opacities = (tensor[order] for tensor in part.footprints[:3])
        pixels = reference.pixel_centers(width, height, colors)
        portion = weights[y : y + height, x : x + width].reshape(-1, 3)
        size = reference.block_size(20 * len(order))
        for at, w in zip(pixels.split(size), portion.split(size), strict=True):
            light, q, by = _screen_derivative(
                at, means, conics, opacities, colors[index], behind, setting.alpha_max
            )
            pull = w[:, None] * q
            own.index_add_(0, index, torch.einsum("pn,pni,pnj->nij", (pull * q).sum(-1), by, by))
            mixed.index_add_(0, index, torch.einsum("pnc,pn,pni->nci", pull, light, by))
            shown.index_add_(0, index, torch.einsum("pc,pn->nc", w, light.square()))
    return own, mixed, shown


def _screen_derivative(
    pixels: Tensor,
    means: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    background: Tensor,
    alpha_max: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of some pixels' colours by the splats, nearest first.

    Returns:
        alpha T [pixels, splats], that by log(alpha) [pixels, splats, 3], and that of log(alpha)
        [pixels, splats, 6].
    """
    offsets = pixels[:, None] - means
    alpha = reference.alphas(offsets, conics, opacities, ALPHA_MIN, alpha_max)
    log_through = torch.log1p(-alpha)
    before = torch.exp(log_through.cumsum(1) - log_through)
    alpha = torch.where(before > TRANSMITTANCE_MIN, alpha, 0)
    light = before * alpha
    left = torch.exp(torch.log1p(-alpha).sum(1))
    parts = light[..., None] * colors
    ends = (left[:, None] * background)[:, None]
    behind = torch.cat([parts[:, 1:], ends], 1).flip(1).cumsum(1).flip(1)[:, : len(colors)]
    moves = (alpha < alpha_max)[..., None]
    q = torch.where(moves, parts - (alpha / (1 - alpha))[..., None] * behind, 0)
    (dx, dy), (xx, xy, yy) = offsets.unbind(-1), conics.unbind(-1)
    by = [xx * dx + xy * dy, xy * dx + yy * dy, -dx * dx / 2, -dx * dy, -dy * dy / 2]
    # A splat fainter than ALPHA_MIN is seen nowhere: any finite number does.
    by.append((1 / opacities.clamp_min(ALPHA_MIN)).expand_as(dx))
    return light, q, torch.stack(by, -1)


@torch.enable_grad()
def _screen_derivatives(splats: Parameters, setting: Setting) -> tuple[Tensor, ...]:
    """Derivatives of splats' footprints and colours by their parameters.

    Returns:
        Of mean, conic and opacity [splats, 6, 11] and of the colours [splats, 3, 11] by the
        geometry, and of each colour by its own harmonics [splats, 3] and [splats, K, 3].
    """
    leaves = Parameters(*(x.detach().requires_grad_() for x in splats))
    footprints, colors = _look(leaves, setting)
    means, conics, opacities, *_ = footprints
    columns = [*means.unbind(1), *conics.unbind(1), opacities, *colors.unbind(1)]
    count = len(colors)

    def by_geometry(column: Tensor) -> Tensor:
        gradients = _gradients(column, leaves[:4])
        return torch.cat(
            [gradient.view(count, *gradient.shape[1:2] or (1,)) for gradient in gradients], 1
        )

    rows = torch.stack([by_geometry(column) for column in columns], 1)
    base, rest = _gradients(colors, leaves[4:])
    return rows[:, :6], rows[:, 6:], base, rest


def _gradients(of: Tensor, by: tuple[Tensor, ...]) -> list[Tensor]:
    """The gradient of a sum by parameters; zeros by those that it does not depend on."""
    found = torch.autograd.grad(of.sum(), by, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(by, found, strict=True)]
