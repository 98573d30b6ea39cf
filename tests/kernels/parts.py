"""A backend's operations as differentiable functions of footprints, which tests can take apart.

`SplatBackend` has no operation on footprints of all splats with a graph. These functions are made
of its operations: what they give, and what flows back through them, is what the backend does.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lumigraph.kernels import (
    Adam,
    Blocks,
    ByRecords,
    Filter,
    Footprints,
    Look,
    Moments,
    Parameters,
    Penalty,
    Pull,
    Raster,
    RasterMoments,
    Seen,
    SplatBackend,
    Target,
    View,
)
from lumigraph.kernels.images.protocol import ImageBackend
from lumigraph.kernels.splats.step import step


def plain_view(width: int, height: int) -> View:
    """A view of an image of this size, of which nothing else matters."""
    return View((1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), (1, 1), (0, 0), width, height, 0.0)


def seen_of(footprints: Footprints, colors: Tensor | None = None) -> Seen:
    """The rows of the splats that are in view."""
    means, conics, opacities, depths, extents = (x.detach() for x in footprints)
    colors = means.new_zeros(len(means), 3) if colors is None else colors.detach()
    index = torch.nonzero(extents[:, 0] > 0)[:, 0]
    columns = [means, conics, opacities[:, None], colors, depths[:, None], extents]
    return Seen(index.int(), torch.cat(columns, 1)[index])


def spread(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Rows for all splats: zeros for those that are not in view."""
    return values.new_zeros(count, *values.shape[1:]).index_copy(0, index.long(), values)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: SplatBackend, look: Look, *splats: Tensor) -> tuple[Tensor, ...]:
        records = kernels.project(Parameters(*splats), **look._asdict())
        seen, count = records.tensors(), len(splats[0])
        ctx.kernels, ctx.look, ctx.seen, ctx.splats = kernels, look, seen, splats
        shown = (seen.means, seen.conics, seen.opacities, seen.depths, seen.extents, seen.colors)
        out = tuple(spread(x, seen.index, count) for x in shown)
        ctx.mark_non_differentiable(out[4])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by: Tensor) -> tuple[Any, ...]:
        means, conics, opacities, depths, extents, colors = by
        columns = [means, conics, opacities[:, None], colors, depths[:, None], 0 * extents]
        rows = torch.cat(columns, 1)[ctx.seen.index.long()]
        gradient = ByRecords(ctx.seen.index, rows, ctx.look)
        return None, None, *ctx.kernels.gradients(Parameters(*ctx.splats), gradient)


def _by_splat(by: ByRecords, count: int) -> tuple[Tensor | None, ...]:
    """The gradient by means, conics, opacities and features of all splats."""
    rows = spread(by.rows, by.index, count)
    assert by.features is not None
    features = spread(by.features, by.index, count)
    return rows[:, :2], rows[:, 2:5], rows[:, 5], None, None, features


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: SplatBackend, absolute: Tensor | None, options: dict, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        *projected, features = inputs
        footprints, options = Footprints(*projected), dict(options)
        seen = seen_of(footprints)
        look = Look(plain_view(options.pop("width"), options.pop("height")), 0)
        picture = kernels.blend(
            kernels.records(seen, look), features=features[seen.index.long()], **options
        )
        ctx.picture, ctx.absolute, ctx.count = picture, absolute, len(features)
        ctx.mark_non_differentiable(picture.median)
        return picture.features, picture.transmittance, picture.median

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by: Tensor) -> tuple[Any, ...]:
        gradient = ctx.picture.vjp(by[0], by[1], absolute=ctx.absolute is not None)
        if ctx.absolute is not None:
            ctx.absolute.add_(spread(gradient.absolute, gradient.index, ctx.count))
        return None, None, None, *_by_splat(gradient, ctx.count)


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: SplatBackend, options: dict, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        *projected, features = inputs
        footprints, options = Footprints(*projected), dict(options)
        seen = seen_of(footprints)
        look = Look(plain_view(options.pop("width"), options.pop("height")), 0)
        found = kernels.moments(
            kernels.records(seen, look), features=features[seen.index.long()], **options
        )
        ctx.found, ctx.count = found, len(features)
        return found.mean, found.variance, found.transmittance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by: Tensor) -> tuple[Any, ...]:
        return None, None, *_by_splat(ctx.found.vjp(*by), ctx.count)


@dataclass(frozen=True)
class Parts:
    """The operations of a backend for splats and one for images, taken apart."""

    splats: SplatBackend
    images: ImageBackend

    def project(self, *parameters: Tensor, view: View, filter: Filter = "classic") -> Footprints:
        """Footprints of all splats, zeros for those not in view; differentiable."""
        count = len(parameters[0])
        black = [x.to(parameters[0]) for x in (torch.zeros(count, 3), torch.zeros(count, 0, 3))]
        look = Look(view, 0, filter)
        return Footprints(*_Project.apply(self.splats, look, *parameters, *black)[:5])

    def look(self, splats: Parameters, look: Look) -> tuple[Footprints, Tensor]:
        """Footprints and colours of all splats, zeros for those not in view; differentiable."""
        *footprints, colors = _Project.apply(self.splats, look, *splats)
        return Footprints(*footprints), colors

    def rasterize(
        self,
        footprints: Footprints,
        features: Tensor,
        *,
        absolute_gradients: Tensor | None = None,
        median: bool = True,
        **options: Any,
    ) -> Raster:
        """Footprints blended; differentiable."""
        options = {"median": median, **options}
        return Raster(
            *_Blend.apply(self.splats, absolute_gradients, options, *footprints, features)
        )

    def rasterize_moments(
        self, footprints: Footprints, features: Tensor, **options: Any
    ) -> RasterMoments:
        """Moments of footprints; differentiable."""
        return RasterMoments(*_Moments.apply(self.splats, options, *footprints, features))

    def paint(
        self, splats: Parameters, *, background: tuple[float, ...] | None = None, **look: Any
    ) -> tuple[Tensor, Tensor]:
        """The picture of one view, and its transmittance."""
        records = self.splats.project(splats, **look)
        picture = self.splats.blend(records, background=background, stop=look.get("stop"))
        return picture.features, picture.transmittance

    def paint_moments(
        self,
        splats: Parameters,
        *,
        rate: float,
        background: tuple[float, ...] | None = None,
        shares: Tensor | None = None,
        **look: Any,
    ) -> RasterMoments:
        """The moments of the picture of one view."""
        records = self.splats.project(splats, **look)
        found = self.splats.moments(
            records, rate=rate, background=background, shares=shares, stop=look.get("stop")
        )
        return RasterMoments(found.mean, found.variance, found.transmittance)

    def linearize(
        self, splats: Parameters, *, background: tuple[float, ...] | None = None, **look: Any
    ) -> "Linear":
        """The picture of one view, and products with its derivative by the parameters."""
        records = self.splats.project(splats, **look)
        return Linear(self.splats, splats, self.splats.blend(records, background=background))

    def descend(
        self,
        splats: Parameters,
        moments: Moments,
        target: Target,
        adam: Adam,
        *,
        degree: int,
        filter: Filter = "classic",
        pull: Pull | None = None,
        curvature: Blocks | None = None,
        penalty: Penalty | None = None,
    ) -> float:
        """A step towards a photo."""
        options: dict[str, Any] = {"pull": pull, "curvature": curvature, "penalty": penalty}
        options |= {"degree": degree, "filter": filter}
        return step(self.splats, self.images, splats, moments, target, adam, **options)


@dataclass(frozen=True)
class Linear:
    """Products with the derivative of a picture by the parameters."""

    kernels: SplatBackend
    splats: Parameters
    picture: Any

    @property
    def color(self) -> Tensor:
        """The picture. [height, width, 3]"""
        return self.picture.features

    def jvp(self, direction: Parameters) -> Tensor:
        """G v."""
        return self.picture.jvp(direction)

    def vjp(self, weights: Tensor, out: Parameters | None = None) -> Parameters:
        """G^T u."""
        return self.kernels.gradients(self.splats, self.picture.vjp(weights), out)

    def blocks(self, weights: Tensor, out: Blocks | None = None) -> Blocks:
        """The blocks of G^T diag(w) G."""
        return self.picture.blocks(weights, out)
