"""A backend for splats made of four functions that PyTorch can differentiate.

`reference.py` has the definitions of the four, and `cuda.py` faster ones. This file makes a backend
of either: records are rows of a tensor, autograd finds gradients by them, forward differentiation
finds G v, and the formulas of `derivative.py` the blocks.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lumigraph.kernels.splats import derivative, reference
from lumigraph.kernels.splats.checks import (
    check_blocks,
    check_direction,
    check_features,
    check_gradient,
    check_has_splats,
    check_moments,
    check_own,
    check_picture_gradient,
    check_seen,
    check_splats,
    check_unchanged,
    check_view,
    check_weights,
    check_window,
    versions_of,
)
from lumigraph.kernels.splats.protocol import Records
from lumigraph.kernels.splats.types import (
    ALPHA_MAX,
    GEOMETRY,
    Adam,
    Blocks,
    ByRecords,
    ByView,
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
    Stopped,
    View,
    Window,
)
from lumigraph.kernels.splats.update import step_rows


@dataclass(frozen=True)
class TensorRecords:
    """`Records` as tensors."""

    seen: Seen
    look: Look
    splats: Parameters | None
    versions: tuple[int, ...]
    """Of the splats' tensors, which count their changes."""

    @property
    def bytes(self) -> int:
        """See `Records.bytes`."""
        return self.seen.rows.nbytes + self.seen.index.nbytes

    def tensors(self) -> Seen:
        """See `Records.tensors`."""
        return self.seen


class _Leaves(NamedTuple):
    """Copies of records to differentiate by, and those of them that a window shows."""

    rows: Tensor
    given: Tensor | None
    place: Tensor
    """Rows that the window shows. int64 [shown]"""
    footprints: Footprints
    """Measured from the window's corner."""
    features: Tensor


@torch.enable_grad()
def _leaves(records: TensorRecords, given: Tensor | None, window: Window) -> _Leaves:
    """The records of a window, with a graph that leads back to all records."""
    rows = records.seen.rows.detach().clone().requires_grad_()
    given = None if given is None else given.detach().clone().requires_grad_()
    seen = Seen(records.seen.index, rows)
    place = derivative.shown_in(seen.means, seen.extents, window)
    means = seen.means[place] - seen.means.new_tensor([window.left, window.top])
    footprints = Footprints(
        means,
        seen.conics[place],
        seen.opacities[place],
        seen.depths[place].detach(),
        seen.extents[place].detach(),
    )
    features = seen.colors if given is None else given
    return _Leaves(rows, given, place, footprints, features[place])


def _by_records(
    records: TensorRecords, leaves: _Leaves, outputs: tuple[Tensor, ...], by: tuple[Tensor, ...]
) -> ByRecords:
    """The gradient by the leaves, from that by what was made of them."""
    inputs = [leaves.rows] if leaves.given is None else [leaves.rows, leaves.given]
    found = [torch.zeros_like(x) for x in inputs]
    if len(leaves.place):
        gradients = torch.autograd.grad(outputs, inputs, by, retain_graph=True, allow_unused=True)
        found = [z if g is None else g for z, g in zip(found, gradients, strict=True)]
    return ByRecords(records.seen.index, found[0], records.look, *found[1:])


class _Drawn(NamedTuple):
    leaves: _Leaves
    raster: Raster
    absolute: Tensor | None
    """Sums of absolute gradients, to which the way back adds. [shown, 2]"""


@dataclass(frozen=True)
class TensorPicture:
    """`Picture` by autograd."""

    backend: "TensorBackend"
    records: TensorRecords
    given: Tensor | None
    background: tuple[float, ...] | None
    window: Window
    alpha_max: float
    features: Tensor
    transmittance: Tensor
    median: Tensor
    drawn: _Drawn | None

    @property
    def bytes(self) -> int:
        """See `Picture.bytes`."""
        return self.records.bytes + self.features.nbytes + self.transmittance.nbytes

    def vjp(
        self, gradient: Tensor, transmittance: Tensor | None = None, *, absolute: bool = False
    ) -> ByRecords:
        """See `Picture.vjp`."""
        check_picture_gradient(gradient, transmittance, self.features, absolute)
        check_unchanged(self.records.splats, self.records.versions)
        if transmittance is None:
            transmittance = torch.zeros_like(self.transmittance)
        drawn = self.drawn or self.backend.draw(self, absolute=absolute)
        if drawn.absolute is not None:
            drawn.absolute.zero_()
        by = _by_records(
            self.records,
            drawn.leaves,
            drawn.raster[:2],
            (gradient.detach(), transmittance.detach()),
        )
        if absolute and drawn.absolute is not None:
            by.absolute.index_copy_(0, drawn.leaves.place, drawn.absolute)
        return by

    @torch.no_grad()
    def jvp(self, direction: Parameters) -> Tensor:
        """See `Picture.jvp`."""
        check_direction(direction, self._splats())
        index = self.records.seen.index.long()
        with warnings.catch_warnings(), forward_ad.dual_level():
            # On its first use PyTorch compiles formulas, and warns of its own compiler.
            warnings.simplefilter("ignore", DeprecationWarning)
            pairs = zip(_rows(self._splats(), index), _rows(direction, index), strict=True)
            moving = Parameters(*(forward_ad.make_dual(x, v.contiguous()) for x, v in pairs))
            _, tangent = forward_ad.unpack_dual(derivative.picture(moving, self._setting()))
        return torch.zeros_like(self.features) if tangent is None else tangent

    @torch.no_grad()
    def blocks(self, weights: Tensor, out: Blocks | None = None) -> Blocks:
        """See `Picture.blocks`."""
        *_, base, rest = splats = self._splats()
        check_weights(weights, self.features)
        if out is None:
            geometry = base.new_zeros(len(base), GEOMETRY * (GEOMETRY + 1) // 2)
            out = Blocks(geometry, torch.zeros_like(base), torch.zeros_like(rest))
        check_blocks(out, splats)
        index = self.records.seen.index.long()
        derivative.add_blocks(_rows(splats, index), index, weights, self._setting(), out)
        return out

    def _setting(self) -> derivative.Setting:
        return self.backend.setting(self.features)._replace(
            look=self.records.look,
            background=self.background or (0.0, 0.0, 0.0),
            window=self.window,
            alpha_max=self.alpha_max,
        )

    def _splats(self) -> Parameters:
        """The splats that were projected, after a check that they are there and unchanged."""
        check_unchanged(self.records.splats, self.records.versions)
        return check_has_splats(self.records.splats, self.given)


@dataclass(frozen=True)
class TensorMoments:
    """`MomentsPicture` by autograd."""

    backend: "TensorBackend"
    records: TensorRecords
    given: Tensor | None
    window: Window
    options: dict[str, Any]
    """Of `TensorBackend.rasterize_moments`."""
    mean: Tensor
    variance: Tensor
    transmittance: Tensor

    @torch.enable_grad()
    def vjp(self, mean: Tensor, variance: Tensor, transmittance: Tensor) -> ByRecords:
        """See `MomentsPicture.vjp`."""
        leaves = _leaves(self.records, self.given, self.window)
        outputs = self.backend.rasterize_moments(leaves.footprints, leaves.features, **self.options)
        by = (mean.detach(), variance.detach(), transmittance.detach())
        return _by_records(self.records, leaves, outputs, by)


@dataclass(frozen=True)
class TensorBackend:
    """`SplatBackend` by functions with the arguments of those in `reference.py`."""

    footprints: Callable[..., Footprints]
    harmonics: Callable[..., Tensor]
    rasterize: Callable[..., Raster]
    rasterize_moments: Callable[..., RasterMoments]
    setting: Callable[[Tensor], derivative.Setting]
    """What finds G v and the blocks of splats like a tensor."""

    @torch.no_grad()
    def project(
        self,
        splats: Parameters,
        *,
        view: View,
        degree: int,
        filter: Filter = "classic",
        stop: Tensor | None = None,
    ) -> TensorRecords:
        """See `SplatBackend.project`."""
        look = Look(view, degree, filter)
        check_splats(splats, degree)
        check_view(view)
        _heed(stop)
        splats = Parameters(*(x.detach() for x in splats))
        footprints, colors = self._look(splats, look)
        # A colour that is not finite would spread to all that is blended with it.
        used = splats.rest[:, : (degree + 1) ** 2 - 1]
        coefficients = torch.cat([splats.base[:, None], used], 1)
        finite = colors.isfinite().all(1) & coefficients.isfinite().flatten(1).all(1)
        seen = (footprints.extents[:, 0] > 0) & finite
        index = torch.nonzero(seen)[:, 0]
        rows = _numbers(footprints, colors)[index]
        return TensorRecords(Seen(index.int(), rows), look, splats, versions_of(splats))

    def records(self, seen: Seen, look: Look) -> TensorRecords:
        """See `SplatBackend.records`."""
        check_seen(seen)
        return TensorRecords(Seen(seen.index, seen.rows.detach()), look, None, ())

    def blend(
        self,
        records: Records,
        *,
        features: Tensor | None = None,
        background: tuple[float, ...] | None = None,
        window: Window | None = None,
        alpha_max: float = ALPHA_MAX,
        median: bool = False,
        stop: Tensor | None = None,
    ) -> TensorPicture:
        """See `SplatBackend.blend`; where gradients are enabled the graph is kept for `vjp`."""
        _heed(stop)
        records = check_own(records, TensorRecords)
        window = _window(records, window)
        check_features(features, background, records.seen)
        none = records.seen.rows.new_empty(0)
        picture = TensorPicture(
            self, records, features, background, window, alpha_max, none, none, none, None
        )
        drawn = self.draw(picture, median=median, absolute=True)
        image, left, halfway = (x.detach() for x in drawn.raster)
        if median and len(drawn.leaves.place):
            splat = records.seen.index[drawn.leaves.place[halfway.clamp_min(0).long()]]
            halfway = torch.where(halfway >= 0, splat, halfway)
        kept = drawn if torch.is_grad_enabled() else None
        return TensorPicture(
            self, records, features, background, window, alpha_max, image, left, halfway, kept
        )

    @torch.enable_grad()
    def draw(
        self, picture: TensorPicture, *, median: bool = False, absolute: bool = False
    ) -> _Drawn:
        """A picture with a graph."""
        leaves = _leaves(picture.records, picture.given, picture.window)
        few = absolute and leaves.features.shape[1] <= 4
        sums = torch.zeros_like(leaves.footprints.means).detach() if few else None
        raster = self.rasterize(
            leaves.footprints,
            leaves.features,
            width=picture.window.width,
            height=picture.window.height,
            background=picture.background,
            absolute_gradients=sums,
            median=median,
            alpha_max=picture.alpha_max,
        )
        return _Drawn(leaves, raster, sums)

    @torch.no_grad()
    def moments(
        self,
        records: Records,
        *,
        rate: float,
        features: Tensor | None = None,
        background: tuple[float, ...] | None = None,
        origin: Tensor | None = None,
        shares: Tensor | None = None,
        window: Window | None = None,
        stop: Tensor | None = None,
    ) -> TensorMoments:
        """See `SplatBackend.moments`."""
        _heed(stop)
        records = check_own(records, TensorRecords)
        window = _window(records, window)
        leaves = _leaves(records, features, window)
        size, index = (window.width, window.height), records.seen.index.long()
        splats = len(records.splats.means) if records.splats is not None else None
        if shares is not None and splats is None and len(index):
            splats = max(len(shares), int(index.max()) + 1)
        channels = leaves.features.shape[1]
        check_features(features, background, records.seen)
        check_moments(channels, rate, size, background, origin, shares, splats, leaves.rows)
        options = {
            "rate": rate,
            "width": window.width,
            "height": window.height,
            "background": background,
            "origin": origin,
        }
        parts = None if shares is None else shares.new_zeros(len(leaves.place))
        found = self.rasterize_moments(leaves.footprints, leaves.features, shares=parts, **options)
        if shares is not None and parts is not None:
            shares.index_add_(0, index[leaves.place], parts)
        outputs = (x.detach() for x in found)
        return TensorMoments(self, records, features, window, options, *outputs)

    @torch.enable_grad()
    def gradients(
        self, splats: Parameters, by_records: ByRecords, out: Parameters | None = None
    ) -> Parameters:
        """See `SplatBackend.gradients`."""
        index, rows, look, _ = by_records
        check_splats(splats, look.degree)
        if out is None:
            out = Parameters(*(torch.zeros_like(x.detach()) for x in splats))
        check_gradient(out, splats)
        if not len(index):
            return out
        leaves = Parameters(*(x.requires_grad_() for x in _rows(splats, index.long())))
        found = torch.autograd.grad(
            _numbers(*self._look(leaves, look))[:, :10], leaves, rows[:, :10], allow_unused=True
        )
        with torch.no_grad():
            for sums, gradient in zip(out, found, strict=True):
                if gradient is not None:
                    sums.index_add_(0, index.long(), gradient)
        return out

    @torch.enable_grad()
    def view_gradient(self, splats: Parameters, by_records: ByRecords) -> ByView:
        """See `SplatBackend.view_gradient`, by the reference."""
        index, rows, look, _ = by_records
        view, like = look.view, splats.means
        numbers = [*view.world_to_camera, *view.focal, *view.center]
        leaf = torch.tensor(numbers, dtype=torch.float64, device=like.device, requires_grad=True)
        # Kept as tensors in the view's places, so that the graph leads back to them.
        free = view._replace(world_to_camera=leaf[:12], focal=leaf[12:14], center=leaf[14:])  # type: ignore[arg-type]
        part = Parameters(*(x.double() for x in _rows(splats, index.long())))
        means, *shape, base, rest = part
        footprints = reference.project(means, *shape, view=free, filter=look.filter)
        colors = reference.harmonics(means, base, rest, view=free, degree=look.degree)
        outputs = _numbers(footprints, colors)[:, :10]
        found = torch.zeros_like(leaf)
        if len(index):
            (found,) = torch.autograd.grad(outputs, leaf, rows[:, :10].double())
        return ByView(found[:12].view(3, 4), found[12:14], found[14:])

    def update(
        self,
        splats: Parameters,
        moments: Moments,
        by_records: ByRecords,
        adam: Adam,
        *,
        pull: Pull | None = None,
        curvature: Blocks | None = None,
        penalty: Penalty | None = None,
    ) -> None:
        """See `SplatBackend.update`."""
        gradient = self.gradients(splats, by_records)
        step_rows(splats, gradient, moments, by_records, adam, pull, curvature, penalty)

    def _look(self, splats: Parameters, look: Look) -> tuple[Footprints, Tensor]:
        """The splats as the view sees them, and their colours."""
        means, *shape, base, rest = splats
        footprints = self.footprints(means, *shape, view=look.view, filter=look.filter)
        seen = footprints.extents[:, 0] > 0
        colors = self.harmonics(means, base, rest, view=look.view, degree=look.degree, visible=seen)
        return footprints, colors


def _numbers(footprints: Footprints, colors: Tensor) -> Tensor:
    """Rows of what blending reads. [splats, ROW]"""
    means, conics, opacities, depths, extents = footprints
    columns = [means, conics, opacities[:, None], colors, depths[:, None], extents]
    return torch.cat(columns, 1)


def _rows(splats: Parameters, index: Tensor) -> Parameters:
    return Parameters(*(x.detach()[index] for x in splats))


def _window(records: TensorRecords, window: Window | None) -> Window:
    view = records.look.view
    if window is None:
        return Window(0, 0, view.width, view.height)
    check_window(window, view)
    return window


def _heed(stop: Tensor | None) -> None:
    if stop is not None and stop.any():
        raise Stopped


REFERENCE = TensorBackend(
    reference.project,
    reference.harmonics,
    reference.rasterize,
    reference.rasterize_moments,
    lambda _: derivative.Setting(),
)
"""The definition, which all other backends are held to."""
