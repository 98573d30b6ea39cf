"""Splats in C++ on the CPU: `SplatBackend` by the kernels of `native/splats`.

Tensors are contiguous float32. Results are bit-identical for any number of threads.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lumigraph.kernels import _native
from lumigraph.kernels.splats.checks import (
    check_blocks,
    check_direction,
    check_gradient,
    check_has_splats,
    check_in_place,
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
    ROW,
    Adam,
    Blocks,
    ByRecords,
    ByView,
    Filter,
    Look,
    Moments,
    Parameters,
    Penalty,
    Pull,
    Seen,
    Stopped,
    View,
    Window,
)

__all__ = [
    "blend",
    "gradients",
    "moments",
    "project",
    "records",
    "update",
    "view_gradient",
]


def _numbers(
    look: Look,
) -> tuple[tuple[float, ...], tuple[int, int], bool, tuple[float, ...], int]:
    """A look as the bindings take it: view, size, filter, place of the camera, and degree."""
    # Plain arithmetic: tensors of three numbers cost more than it does.
    view = look.view
    m = view.world_to_camera
    position = tuple(-(m[i] * m[3] + m[4 + i] * m[7] + m[8 + i] * m[11]) for i in range(3))
    numbers = (*m, *view.focal, *view.center, view.near)
    size, antialiased = (view.width, view.height), look.filter == "antialiased"
    return numbers, size, antialiased, position, look.degree


@dataclass(frozen=True)
class CpuRecords:
    """`Records` in C++: the splats in view, a cache line each, and the list of each tile.

    They take 72 bytes a splat and 24 an entry of a list, and a quarter more to grow.
    """

    native: _native.Records
    look: Look
    splats: Parameters | None
    versions: tuple[int, ...]
    """Of the splats' tensors, which count their changes."""

    @property
    def bytes(self) -> int:
        """See `Records.bytes`."""
        return self.native.bytes

    @cached_property
    def index(self) -> Tensor:
        """The splat of each row. int32 [seen]"""
        index = torch.empty(self.native.rows, dtype=torch.int32)
        self.native.write(None, index)
        return index

    def tensors(self) -> Seen:
        """See `Records.tensors`."""
        seen = Seen(torch.empty_like(self.index), torch.empty(self.native.rows, ROW))
        self.native.write(seen.rows, seen.index)
        return seen


@dataclass(frozen=True)
class CpuPicture:
    """`Picture` in C++.

    While a product is found it takes 64 bytes a splat (`jvp`), 48 an entry of a list (`vjp`), or
    128 and 32 a splat (`blocks`; 96 and none without harmonics) from memory that all share.
    """

    records: CpuRecords
    native: _native.Records
    """Of the window that is shown."""
    given: Tensor | None
    background: tuple[float, ...]
    features: Tensor
    transmittance: Tensor
    median: Tensor

    @property
    def bytes(self) -> int:
        """See `Picture.bytes`."""
        return self.native.bytes + self.features.nbytes + self.transmittance.nbytes

    def vjp(
        self, gradient: Tensor, transmittance: Tensor | None = None, *, absolute: bool = False
    ) -> ByRecords:
        """See `Picture.vjp`."""
        check_picture_gradient(gradient, transmittance, self.features, absolute)
        check_unchanged(self.records.splats, self.records.versions)
        # A window knows only some of the rows; of the whole they are written along the way.
        whole = self.native is self.records.native
        count = self.native.rows
        index = torch.empty(count, dtype=torch.int32) if whole else self.records.index
        rows = torch.empty(count, ROW)
        by_features = None if self.given is None else torch.empty_like(self.given)
        self.native.backward(
            self.given,
            self.features,
            self.transmittance,
            gradient.detach().contiguous(),
            None if transmittance is None else transmittance.detach().contiguous(),
            absolute,
            rows,
            by_features,
            index if whole else None,
        )
        return ByRecords(index, rows, self.records.look, by_features)

    def jvp(self, direction: Parameters) -> Tensor:
        """See `Picture.jvp`."""
        check_direction(direction, self._splats())
        image = torch.empty_like(self.features)
        moving = tuple(x.detach().contiguous() for x in direction)
        self.native.jvp(moving, self.background, image)
        return image

    def blocks(self, weights: Tensor, out: Blocks | None = None) -> Blocks:
        """See `Picture.blocks`."""
        *_, base, rest = splats = self._splats()
        check_weights(weights, self.features)
        if out is None:
            geometry = torch.zeros(len(base), GEOMETRY * (GEOMETRY + 1) // 2)
            out = Blocks(geometry, torch.zeros(base.shape), torch.zeros(rest.shape))
        check_blocks(out, splats)
        self.native.blocks(self.features, weights.detach().contiguous(), tuple(out))
        torch.autograd.graph.increment_version(out)
        return out

    def _splats(self) -> Parameters:
        """The splats that were projected, after a check that they are there and unchanged."""
        check_unchanged(self.records.splats, self.records.versions)
        return check_has_splats(self.records.splats, self.given)


@dataclass(frozen=True)
class CpuMoments:
    """`MomentsPicture` in C++."""

    records: CpuRecords
    native: _native.Records
    given: Tensor | None
    background: tuple[float, ...]
    chances: tuple[float, float]
    origin: Tensor | None
    mean: Tensor
    variance: Tensor
    transmittance: Tensor

    def vjp(self, mean: Tensor, variance: Tensor, transmittance: Tensor) -> ByRecords:
        """See `MomentsPicture.vjp`."""
        index = self.records.index
        rows = torch.empty(len(index), ROW)
        by_features = None if self.given is None else torch.empty_like(self.given)
        incoming = tuple(x.detach().contiguous() for x in (mean, variance, transmittance))
        self.native.moments_backward(
            self.given, self.background, self.chances, self.origin, incoming, rows, by_features
        )
        return ByRecords(index, rows, self.records.look, by_features)


def project(
    splats: Parameters,
    *,
    view: View,
    degree: int,
    filter: Filter = "classic",
    stop: Tensor | None = None,
) -> CpuRecords:
    """See `SplatBackend.project`."""
    look = Look(view, degree, filter)
    check_view(view)
    splats = Parameters(*(x.detach() for x in splats))
    read = tuple(x.contiguous() for x in splats)
    native = _native.project(read, *_numbers(look), stop, torch.get_num_threads())
    if native is None:
        raise Stopped
    return CpuRecords(native, look, splats, versions_of(splats))


def records(seen: Seen, look: Look) -> CpuRecords:
    """See `SplatBackend.records`."""
    check_seen(seen)
    index, rows = seen.index.contiguous(), seen.rows.detach().contiguous()
    size = (look.view.width, look.view.height)
    return CpuRecords(_native.records(rows, index, size, torch.get_num_threads()), look, None, ())


def blend(
    records: Records,
    *,
    features: Tensor | None = None,
    background: tuple[float, ...] | None = None,
    window: Window | None = None,
    alpha_max: float = ALPHA_MAX,
    median: bool = False,
    stop: Tensor | None = None,
) -> CpuPicture:
    """See `SplatBackend.blend`."""
    records = check_own(records, CpuRecords)
    native, (width, height) = _part(records, window, alpha_max)
    given = None if features is None else features.detach().contiguous()
    channels = 3 if given is None else given.shape[1]
    image = torch.empty(height, width, channels)
    transmittance = torch.empty(height, width)
    halfway = torch.empty((height, width) if median else (0, 0), dtype=torch.int32)
    behind = background or ()
    if not native.blend(given, behind, image, transmittance, halfway if median else None, stop):
        raise Stopped
    return CpuPicture(records, native, given, behind, image, transmittance, halfway)


def moments(
    records: Records,
    *,
    rate: float,
    features: Tensor | None = None,
    background: tuple[float, ...] | None = None,
    origin: Tensor | None = None,
    shares: Tensor | None = None,
    window: Window | None = None,
    stop: Tensor | None = None,
) -> CpuMoments:
    """See `SplatBackend.moments`."""
    records = check_own(records, CpuRecords)
    native, (width, height) = _part(records, window)
    given = None if features is None else features.detach().contiguous()
    channels = 3 if given is None else given.shape[1]
    splats = None if records.splats is None else len(records.splats.means)
    if shares is not None and splats is None and len(records.index):
        splats = max(len(shares), int(records.index.max()) + 1)
    check_moments(channels, rate, (width, height), background, origin, shares, splats)
    origin = None if origin is None else origin.detach().contiguous()
    mean, variance = (torch.empty(height, width, channels) for _ in range(2))
    transmittance = torch.empty(height, width)
    chances, behind = (1 - rate, rate), background or ()
    if not native.moments(
        given, behind, chances, origin, mean, variance, transmittance, shares, stop
    ):
        raise Stopped
    if shares is not None:
        torch.autograd.graph.increment_version(shares)
    return CpuMoments(
        records, native, given, behind, chances, origin, mean, variance, transmittance
    )


def gradients(
    splats: Parameters, by_records: ByRecords, out: Parameters | None = None
) -> Parameters:
    """See `SplatBackend.gradients`."""
    check_splats(splats, by_records.look.degree)
    if out is None:
        out = Parameters(*(torch.zeros(x.shape) for x in splats))
    check_gradient(out, splats)
    _native.add_gradient(
        tuple(x.detach().contiguous() for x in splats),
        *_numbers(by_records.look),
        by_records.rows.contiguous(),
        by_records.index.contiguous(),
        tuple(out),
        torch.get_num_threads(),
    )
    torch.autograd.graph.increment_version(out)
    return out


def view_gradient(splats: Parameters, by_records: ByRecords) -> ByView:
    """See `SplatBackend.view_gradient`."""
    check_splats(splats, by_records.look.degree)
    numbers = _native.view_gradient(
        tuple(x.detach().contiguous() for x in splats),
        *_numbers(by_records.look),
        by_records.rows.contiguous(),
        by_records.index.contiguous(),
        torch.get_num_threads(),
    )
    found = torch.tensor(numbers, dtype=torch.float64)
    return ByView(found[:12].view(3, 4), found[12:14], found[14:])


def update(
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
    check_in_place({"splats": splats, "first": moments.first, "second": moments.second})
    rates, step, betas, epsilon = adam
    correction = 1 - betas[0] ** step
    _native.update(
        tuple(value.detach() for value in splats),
        tuple(moments.first),
        tuple(moments.second),
        *_numbers(by_records.look),
        by_records.rows.contiguous(),
        by_records.index.contiguous(),
        tuple(rate / correction for rate in rates),
        (*betas, epsilon),
        (1 - betas[1] ** step) ** -0.5,
        step,
        moments.last,
        None if pull is None else tuple(pull),
        None if curvature is None else tuple(value.contiguous() for value in curvature),
        tuple(penalty or Penalty()),
        torch.get_num_threads(),
    )
    # Autograd would else take gradients at values that are gone.
    torch.autograd.graph.increment_version((*splats, *moments.first, *moments.second))


def _part(
    records: CpuRecords, window: Window | None, alpha_max: float = ALPHA_MAX
) -> tuple[_native.Records, tuple[int, int]]:
    """The records of a window, and its size. Only the whole image shares its lists."""
    view = records.look.view
    if window is None:
        window = Window(0, 0, view.width, view.height)
        if alpha_max == ALPHA_MAX:
            return records.native, (view.width, view.height)
    check_window(window, view)
    return records.native.part(window, alpha_max), (window.width, window.height)
