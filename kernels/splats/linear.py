"""The definition of `Backend.linearize`, in plain PyTorch: any float type, any device.

G v is found by forward differentiation, G^T u by backward, and the blocks by the formulas of
compositing: see `screen_products`.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lumigraph.kernels.splats import reference
from lumigraph.kernels.splats.checks import (
    check_blocks,
    check_direction,
    check_gradient,
    check_splats,
    check_unchanged,
    check_weights,
    versions_of,
)
from lumigraph.kernels.splats.types import (
    ALPHA_MAX,
    ALPHA_MIN,
    GEOMETRY,
    TRANSMITTANCE_MIN,
    Blocks,
    Filter,
    Footprints,
    Parameters,
    Raster,
    View,
)


class Settings(NamedTuple):
    """Of one view: what all the products have in common."""

    view: View
    degree: int
    filter: Filter
    background: tuple[float, float, float]
    patch: int | None
    """Side in pixels of the parts of the picture that PyTorch works on one by one, or None."""
    rasterize: Callable[..., Raster] | None = None
    """What draws the picture, as a whole, with derivatives both ways; None: the reference."""
    screen_products: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None
    """What finds `screen_products`, as a whole; None: the function of that name here."""


@dataclass(frozen=True)
class Products:
    """A `Linearization` by automatic differentiation of the reference."""

    color: Tensor
    splats: Parameters
    seen: Tensor
    """Indices of the splats in view: what is not seen may hold anything, and has no derivative."""
    settings: Settings
    versions: tuple[int, ...]
    """Of the splats' tensors, which count their changes."""

    @property
    def bytes(self) -> int:
        """See `Linearization.bytes`."""
        return self.color.nbytes + self.seen.nbytes

    @torch.no_grad()
    def jvp(self, direction: Parameters) -> Tensor:
        """See `Linearization.jvp`."""
        check_direction(direction, self.splats)
        check_unchanged(self.splats, self.versions)
        with warnings.catch_warnings(), forward_ad.dual_level():
            # On its first use PyTorch compiles formulas, and warns of its own compiler.
            warnings.simplefilter("ignore", DeprecationWarning)
            pairs = zip(_rows(self.splats, self.seen), _rows(direction, self.seen), strict=True)
            moving = Parameters(*(forward_ad.make_dual(x, v.contiguous()) for x, v in pairs))
            _, tangent = forward_ad.unpack_dual(_picture(moving, self.settings))
        return torch.zeros_like(self.color) if tangent is None else tangent

    @torch.enable_grad()
    def vjp(self, weights: Tensor, out: Parameters | None = None) -> Parameters:
        """See `Linearization.vjp`."""
        check_weights(weights, self.color)
        check_unchanged(self.splats, self.versions)
        if out is None:
            out = Parameters(*(torch.zeros_like(x) for x in self.splats))
        check_gradient(out, self.splats)
        rows = Parameters(*(x.requires_grad_() for x in _rows(self.splats, self.seen)))
        if not len(self.seen):
            return out
        gradients = torch.autograd.grad(
            _picture(rows, self.settings), rows, weights.detach(), allow_unused=True
        )
        for sums, gradient in zip(out, gradients, strict=True):
            if gradient is not None:
                sums.index_add_(0, self.seen, gradient)
        return out

    @torch.no_grad()
    def blocks(self, weights: Tensor, out: Blocks | None = None) -> Blocks:
        """See `Linearization.blocks`."""
        check_weights(weights, self.color)
        check_unchanged(self.splats, self.versions)
        *_, base, rest = self.splats
        if out is None:
            geometry = base.new_zeros(len(base), GEOMETRY * (GEOMETRY + 1) // 2)
            out = Blocks(geometry, torch.zeros_like(base), torch.zeros_like(rest))
        check_blocks(out, self.splats)
        rows = _rows(self.splats, self.seen)
        footprints, colors = _look(rows, self.settings)
        products = self.settings.screen_products or screen_products
        own, mixed, shown = products(footprints, colors, weights, self.settings)
        lens, tint, base, rest = _screen_derivatives(rows, self.settings)
        cross = tint.mT @ mixed @ lens
        block = lens.mT @ own @ lens + cross + cross.mT + tint.mT @ (shown[..., None] * tint)
        low, across = torch.tril_indices(GEOMETRY, GEOMETRY)
        out.geometry.index_add_(0, self.seen, block[:, low, across])
        out.base.index_add_(0, self.seen, base.square() * shown)
        out.rest.index_add_(0, self.seen, rest.square() * shown[:, None])
        return out


@torch.no_grad()
def linearize(
    splats: Parameters,
    *,
    view: View,
    degree: int,
    filter: Filter = "classic",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    patch: int | None = None,
    rasterize: Callable[..., Raster] | None = None,
    screen_products: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Products:
    """See `Backend.linearize`; what else there is to give is as `Settings` has it."""
    check_splats(splats, degree)
    splats = Parameters(*(x.detach() for x in splats))
    means, *shape, _, _ = splats
    footprints = reference.project(means, *shape, view=view, filter=filter)
    seen = torch.nonzero(footprints.extents[:, 0] > 0)[:, 0]
    settings = Settings(view, degree, filter, background, patch, rasterize, screen_products)
    color = _picture(_rows(splats, seen), settings)
    return Products(color, splats, seen, settings, versions_of(splats))


def _rows(splats: Parameters, index: Tensor) -> Parameters:
    return Parameters(*(x.detach()[index] for x in splats))


def _look(splats: Parameters, settings: Settings) -> tuple[Footprints, Tensor]:
    """Splats in view as it sees them, and their colours."""
    view, degree, filter, *_ = settings
    means, *shape, base, rest = splats
    footprints = reference.project(means, *shape, view=view, filter=filter)
    return footprints, reference.harmonics(means, base, rest, view=view, degree=degree)


def _picture(splats: Parameters, settings: Settings) -> Tensor:
    footprints, colors = _look(splats, settings)
    view, background = settings.view, settings.background
    if settings.rasterize is not None:
        return settings.rasterize(
            footprints,
            colors,
            width=view.width,
            height=view.height,
            background=background,
            median=False,
        ).features
    rows: dict[int, list[Tensor]] = {}
    for part in _parts(footprints, settings):
        width, height = part.size
        raster = reference.rasterize(
            part.footprints,
            colors[part.index],
            width=width,
            height=height,
            background=background,
            median=False,
        )
        rows.setdefault(part.corner[1], []).append(raster.features)
    picture = torch.cat([torch.cat(row, 1) for row in rows.values()])
    return picture.view(view.height, view.width, 3)


class Part(NamedTuple):
    """A part of a picture, and the splats that it shows."""

    corner: tuple[int, int]
    size: tuple[int, int]
    footprints: Footprints
    """Measured from the corner."""
    index: Tensor
    """Of these splats."""


def _parts(footprints: Footprints, settings: Settings) -> Iterator[Part]:
    (width, height), side = (settings.view.width, settings.view.height), settings.patch
    if side is None:
        every = torch.arange(len(footprints.means), device=footprints.means.device)
        yield Part((0, 0), (width, height), footprints, every)
        return
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield part_of(footprints, (x, y), (min(side, width - x), min(side, height - y)))


def part_of(footprints: Footprints, corner: tuple[int, int], size: tuple[int, int]) -> Part:
    """The splats that a part of the image shows."""
    means, extents = footprints.means.detach(), footprints.extents
    first = means.new_tensor(corner)
    meets = (means + extents > first) & (means - extents < first + means.new_tensor(size))
    index = torch.nonzero(meets.all(1) & (extents[:, 0] > 0))[:, 0]
    part = Footprints(*(tensor[index] for tensor in footprints))
    return Part(corner, size, part._replace(means=part.means - first), index)


def screen_products(
    footprints: Footprints, colors: Tensor, weights: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over pixels of w g g^T, where g is by what each splat is on the image plane.

    With T the transmittance before a splat and B what is seen behind it, the derivative of a
    pixel's colour by log(alpha) is q = alpha (T color - B / (1 - alpha)), and by the colour
    alpha T; the derivatives of log(alpha) are those of its quadratic form.

    Returns:
        Sums of products by mean 2, conic 3 and opacity 1 [splats, 6, 6], of those by colours and
        by these [splats, 3, 6], and of squares by colours [splats, 3].
    """
    count, behind = len(colors), colors.new_tensor(settings.background)
    own, mixed = colors.new_zeros(count, 6, 6), colors.new_zeros(count, 3, 6)
    shown = torch.zeros_like(colors)
    for part in _parts(footprints, settings):
        order = reference.front_to_back(part.footprints)
        index, (width, height), (x, y) = part.index[order], part.size, part.corner
        means, conics, opacities = (tensor[order] for tensor in part.footprints[:3])
        pixels = reference.pixel_centers(width, height, colors)
        portion = weights[y : y + height, x : x + width].reshape(-1, 3)
        size = reference.block_size(20 * len(order))
        for at, w in zip(pixels.split(size), portion.split(size), strict=True):
            light, q, by = _screen_derivative(at, means, conics, opacities, colors[index], behind)
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of some pixels' colours by the splats, nearest first.

    Returns:
        alpha T [pixels, splats], that by log(alpha) [pixels, splats, 3], and that of log(alpha)
        [pixels, splats, 6].
    """
    offsets = pixels[:, None] - means
    alpha = reference.alphas(offsets, conics, opacities, ALPHA_MIN, ALPHA_MAX)
    log_through = torch.log1p(-alpha)
    before = torch.exp(log_through.cumsum(1) - log_through)
    alpha = torch.where(before > TRANSMITTANCE_MIN, alpha, 0)
    light = before * alpha
    left = torch.exp(torch.log1p(-alpha).sum(1))
    parts = light[..., None] * colors
    ends = (left[:, None] * background)[:, None]
    behind = torch.cat([parts[:, 1:], ends], 1).flip(1).cumsum(1).flip(1)[:, : len(colors)]
    moves = (alpha < ALPHA_MAX)[..., None]
    q = torch.where(moves, parts - (alpha / (1 - alpha))[..., None] * behind, 0)
    (dx, dy), (xx, xy, yy) = offsets.unbind(-1), conics.unbind(-1)
    by = [xx * dx + xy * dy, xy * dx + yy * dy, -dx * dx / 2, -dx * dy, -dy * dy / 2]
    # What is fainter than ALPHA_MIN is nowhere seen: any finite number does.
    by.append((1 / opacities.clamp_min(ALPHA_MIN)).expand_as(dx))
    return light, q, torch.stack(by, -1)


@torch.enable_grad()
def _screen_derivatives(splats: Parameters, settings: Settings) -> tuple[Tensor, ...]:
    """Derivatives of splats' footprints and colours by their parameters.

    Returns:
        Of mean, conic and opacity [splats, 6, 11] and of the colours [splats, 3, 11] by the
        geometry, and of each colour by its own harmonics [splats, 3] and [splats, K, 3].
    """
    leaves = Parameters(*(x.detach().requires_grad_() for x in splats))
    footprints, colors = _look(leaves, settings)
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
    """Of a sum, whose terms have no parameter in common; zeros by what none depends on."""
    found = torch.autograd.grad(of.sum(), by, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(by, found, strict=True)]
