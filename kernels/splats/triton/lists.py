"""The parts that the Triton kernels share: tiles, their lists of splats, arithmetic of a splat.

Lists and sums by splat are plain PyTorch, on any device. No sum uses atomics, so results are the
same from run to run.
"""

# `constexpr` parameters get plain numbers, calls from kernel to kernel have no type, and Triton may
# be missing.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lumigraph.kernels.splats.reference import front_to_back
from lumigraph.kernels.splats.types import ALPHA_MIN, TRANSMITTANCE_MIN, Footprints

TILE = 16
"""Side of a tile in pixels: 256 pixels, two for each thread of four warps."""

SHAPE = 6
"""Numbers of a splat's record before the channels: mean 2, conic 3, opacity 1."""

CHANNELS = 4
"""Most channels of a record: a thread's registers hold the channels of two pixels."""

STEP = tl.constexpr(8)
"""Splats between two checks whether all pixels are finished; each check is a barrier."""

_SHAPE = tl.constexpr(SHAPE)
_ALPHA_MIN = tl.constexpr(ALPHA_MIN)
_TRANSMITTANCE_MIN = tl.constexpr(TRANSMITTANCE_MIN)


class TileLists(NamedTuple):
    """The splats that each tile meets, nearest first; tiles run row by row.

    An entry is a pair of a tile and a splat. It has a row in each table that is summed by splat; in
    such a table the rows of one splat follow one another.
    """

    begins: Tensor
    """First entry of each tile, and the number of entries. int32 [tiles + 1]"""
    splats: Tensor
    """Index of each entry's splat. int32 [entries]"""
    rows: Tensor
    """Row of each entry. int32 [entries]"""
    order: Tensor
    """Indices of the splats in view, nearest first. int64 [seen]"""
    counts: Tensor
    """Number of entries of each splat in view. int64 [seen]"""

    def sum_by_splat(self, table: Tensor, splats: int) -> Tensor:
        """Sums the rows of each splat in their order; zeros for splats without rows.

        Args:
            table: A row for each entry. [entries, numbers]
            splats: Number of splats.

        Returns:
            [splats, numbers]
        """
        sums = table.new_zeros(splats, table.shape[1])
        if len(table):
            sums[self.order] = torch.segment_reduce(table, "sum", lengths=self.counts, unsafe=True)
        return sums


@torch.no_grad()
def tile_lists(footprints: Footprints, width: int, height: int) -> TileLists:
    """The lists of an image's tiles: each has the splats with a box that meets the tile.

    The box of a splat has its extents. Splats of equal depth stay in the order of their index.

    Args:
        footprints: From `reference.project`, or gsplat's.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Raises:
        ValueError: There are 2^31 entries or more.
    """
    order = front_to_back(footprints)
    means, extents = footprints.means[order], footprints.extents[order]
    grid = torch.tensor([-(-width // TILE), -(-height // TILE)], device=means.device)
    # Clamped as floats: the box of a large splat may exceed all integers.
    first = ((means - extents) / TILE).floor().clamp_min(0).minimum(grid).long()
    end = (((means + extents) / TILE).floor() + 1).clamp_min(0).minimum(grid).long()
    columns, rows = (end - first).clamp_min(0).unbind(1)
    counts = columns * rows
    splat = torch.repeat_interleave(counts)
    entries = len(splat)
    if entries >= 2**31:
        raise ValueError(
            f"{len(order)} splats meet {entries} tiles, but fewer than 2^31 are possible: draw the "
            "image in parts, or at a lower resolution"
        )
    # The place of each entry among the entries of its splat gives its tile.
    place = torch.arange(entries, device=means.device) - (counts.cumsum(0) - counts)[splat]
    across = columns[splat]
    x = first[splat, 0] + place % across
    y = first[splat, 1] + torch.div(place, across, rounding_mode="floor")
    tiles, by_tile = torch.sort((y * grid[0] + x).int(), stable=True)
    edges = torch.arange(int(grid.prod()) + 1, dtype=torch.int32, device=means.device)
    return TileLists(
        torch.searchsorted(tiles, edges, out_int32=True),
        order[splat[by_tile]].int(),
        by_tile.int(),
        order,
        counts,
    )


def tiles_of(size: tuple[int, int]) -> tuple[int]:
    """The number of programs that draw an image of this width and height."""
    return (-(-size[0] // TILE) * -(-size[1] // TILE),)


def arguments_of(size: tuple[int, int]) -> tuple[int, int, int]:
    """Width, height, and number of tiles in a row."""
    return *size, -(-size[0] // TILE)


def device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Makes the tensor's device PyTorch's current one, on which Triton launches kernels."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def check_float(footprints: Footprints, features: Tensor) -> None:
    """Raises ValueError unless all tensors are float32."""
    for name, tensor in (*footprints._asdict().items(), ("features", features)):
        if tensor.dtype != torch.float32:
            raise ValueError(
                f"{name} must be float32 but is {tensor.dtype}: pass {name}.float(), or use "
                "lumigraph.kernels.splats.reference"
            )


@triton.jit
def pixels_of_tile(width, height, columns, TILE: tl.constexpr):
    """Centres of the tile's pixels, whether they are in the image, and their index. [pixels]"""
    tile = tl.program_id(0)
    lane = tl.arange(0, TILE * TILE)
    x = tile % columns * TILE + lane % TILE
    y = tile // columns * TILE + lane // TILE
    return x + 0.5, y + 0.5, (x < width) & (y < height), y.to(tl.int64) * width + x


@triton.jit
def places_of(pixel, width, height, PADDED: tl.constexpr):
    """Index of each channel of the pixels in an image [channels, height, width]."""
    channel = tl.arange(0, PADDED).to(tl.int64)
    return channel[:, None] * height * width + pixel[None, :]


@triton.jit
def form_of(record, x, y):
    """Offsets of pixels from a splat's centre, and its conic."""
    dx, dy = x - tl.load(record), y - tl.load(record + 1)
    return dx, dy, tl.load(record + 2), tl.load(record + 3), tl.load(record + 4)


@triton.jit
def gaussian_at(dx, dy, xx, xy, yy):
    """A splat's Gaussian at offsets from its centre: 1 at the centre."""
    form = -0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy
    # The form is never positive, but rounding can make that of a long needle positive.
    return tl.exp(tl.minimum(form, 0.0))


@triton.jit
def bounded(raw, alpha_max):
    """Alpha held at `alpha_max`, or zero below `ALPHA_MIN`."""
    return tl.where(raw >= _ALPHA_MIN, tl.minimum(raw, alpha_max), 0.0)


@triton.jit
def alpha_of(record, x, y, listed, alpha_max):
    """The alpha of one splat at the tile's pixels; zero past the end of the list."""
    opacity = tl.load(record + 5, mask=listed, other=0.0)
    dx, dy, xx, xy, yy = form_of(record, x, y)
    return bounded(opacity * gaussian_at(dx, dy, xx, xy, yy), alpha_max)


@triton.jit
def batch_at(i, listed, splats, records, x, y, CHANNELS: tl.constexpr):
    """Evaluates the splats of entries at the tile's pixels, [batch, pixels].

    Each thread has the whole batch for its pixels, so scans along the batch need no other thread.
    Returns the records of the splats, the pixels' offsets from their centres, their conics, their
    Gaussians, and these times the opacity.
    """
    splat = tl.load(splats + i, mask=listed, other=0).to(tl.int64)
    record = records + splat * (_SHAPE + CHANNELS)
    dx, dy, xx, xy, yy = form_of(record[:, None], x[None, :], y[None, :])
    gaussian = gaussian_at(dx, dy, xx, xy, yy)
    raw = tl.load(record + 5)[:, None] * gaussian
    return record, dx, dy, xx, xy, yy, gaussian, raw


@triton.jit
def store_by_shape(row, listed, by_log, by_opacity, dx, dy, xx, xy, yy):
    """Writes the gradients of entries by mean, conic and opacity to the start of their rows.

    `by_log` and `by_opacity` are the gradients by log(alpha) and by opacity. [entries, pixels]
    """
    tl.store(row, tl.sum(by_log * (xx * dx + xy * dy), 1), mask=listed)
    tl.store(row + 1, tl.sum(by_log * (xy * dx + yy * dy), 1), mask=listed)
    tl.store(row + 2, -0.5 * tl.sum(by_log * dx * dx, 1), mask=listed)
    tl.store(row + 3, -tl.sum(by_log * dx * dy, 1), mask=listed)
    tl.store(row + 4, -0.5 * tl.sum(by_log * dy * dy, 1), mask=listed)
    tl.store(row + 5, tl.sum(by_opacity, 1), mask=listed)


@triton.jit
def spread_and_factor(alpha, keep, drop):
    """The factors of d^2 and of the variance in the recursion of `SplatBackend.moments`.

    The second is 1 - 2 p alpha + p alpha^2, written without a difference of similar numbers.
    """
    kept = keep * alpha
    spread = kept * (alpha * drop)
    return spread, (1 - kept) * (1 - kept) + spread


@triton.jit
def walk(
    begin,
    end,
    splats,
    records,
    x,
    y,
    inside,
    keep,
    drop,
    CHANNELS: tl.constexpr,
    FACTORS: tl.constexpr,
    ALPHA_MAX: tl.constexpr,
):
    """Walks a tile's list until all its pixels are finished; chance keeps each splat or drops it.

    Returns the entry at which it stops, and for each pixel: the first entry that does not count,
    the expected transmittance, and with FACTORS the product of the variance's factors.
    """
    left = tl.where(inside, 1.0, 0.0)
    front = tl.full(left.shape, 1.0, tl.float32)
    last = tl.full(left.shape, 0, tl.int32) + begin
    n = begin
    while (n < end) & (tl.max(left, 0) > _TRANSMITTANCE_MIN):
        for i in range(STEP):
            listed = n + i < end
            splat = tl.load(splats + n + i, mask=listed, other=0)
            record = records + splat.to(tl.int64) * (_SHAPE + CHANNELS)
            alpha = tl.where(
                left > _TRANSMITTANCE_MIN, alpha_of(record, x, y, listed, ALPHA_MAX), 0.0
            )
            last = tl.where(left > _TRANSMITTANCE_MIN, n + i + 1, last)
            if FACTORS:
                _, factor = spread_and_factor(alpha, keep, drop)
                front *= factor
            left *= 1 - keep * alpha
        n += STEP
    return tl.minimum(n, end), last, left, front
