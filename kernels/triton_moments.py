"""Moments of blended features where chance drops splats, in Triton for NVIDIA GPUs.

Unverified: no line of this has run on a GPU yet. The tests hold it to the reference in Triton's
interpreter.

One program draws one tile. It walks the tile's list forth, to find where each pixel is finished,
and then back, by the recursion of `Backend.rasterize_moments`: that adds what is never negative,
and so loses no small variance.
"""

# The annotation `constexpr` stands for plain numbers, and calls from kernel to kernel have no type.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from lumigraph.kernels.checks import check_moments
from lumigraph.kernels.triton_lists import (
    CHANNELS,
    SHAPE,
    STEP,
    TILE,
    TileLists,
    alpha_of,
    arguments_of,
    check_float,
    device_of,
    pixels_of_tile,
    places_of,
    tile_lists,
    tiles_of,
)
from lumigraph.kernels.types import TRANSMITTANCE_MIN, Footprints, RasterMoments

__all__ = ["rasterize_moments"]

_TRANSMITTANCE_MIN = tl.constexpr(TRANSMITTANCE_MIN)
_SHAPE = tl.constexpr(SHAPE)


@triton.jit
def spread_and_factor(alpha, keep, drop):
    """How much of d^2 one splat adds to the variance, and how much it leaves of that behind it.

    The factor is 1 - 2 p alpha + p alpha^2, without a difference of what may be alike.
    """
    kept = keep * alpha
    spread = kept * (alpha * drop)
    return spread, (1 - kept) * (1 - kept) + spread


@triton.jit
def _moments(
    begins,
    splats,
    rows,
    records,
    origin,
    background,
    keep,
    drop,
    mean_image,
    variance_image,
    transmittance,
    table,
    width,
    height,
    columns,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ORIGIN: tl.constexpr,
    SHARES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Draws the moments of one tile, and writes each entry's share to its row of the table."""
    x, y, inside, pixel = pixels_of_tile(width, height, columns, TILE)
    channel = tl.arange(0, PADDED)
    kept = (channel < CHANNELS)[:, None] & inside[None, :]
    at = places_of(pixel, width, height, PADDED)
    begin = tl.load(begins + tl.program_id(0))
    end = tl.load(begins + tl.program_id(0) + 1)

    left = tl.where(inside, 1.0, 0.0)
    front = tl.full([TILE * TILE], 1.0, tl.float32)
    # The first entry that a pixel does not count any more.
    last = tl.zeros([TILE * TILE], tl.int32) + begin
    n = begin
    while (n < end) & (tl.max(left, 0) > _TRANSMITTANCE_MIN):
        for i in range(STEP):
            listed = n + i < end
            splat = tl.load(splats + n + i, mask=listed, other=0)
            record = records + splat.to(tl.int64) * (_SHAPE + CHANNELS)
            alpha = tl.where(left > _TRANSMITTANCE_MIN, alpha_of(record, x, y, listed), 0.0)
            last = tl.where(left > _TRANSMITTANCE_MIN, n + i + 1, last)
            if SHARES:
                spread, factor = spread_and_factor(alpha, keep, drop)
                front *= factor
            left *= 1 - keep * alpha
        n += STEP

    start = tl.zeros([PADDED, TILE * TILE], tl.float32)
    if ORIGIN:
        start += tl.load(origin + at, mask=kept, other=0.0)
    behind = tl.load(background + channel, mask=channel < CHANNELS, other=0.0)
    mean = behind[:, None] - start
    variance = tl.zeros([PADDED, TILE * TILE], tl.float32)
    i = tl.minimum(n, end) - 1
    while i >= begin:
        splat = tl.load(splats + i)
        record = records + splat.to(tl.int64) * (_SHAPE + CHANNELS)
        alpha = tl.where(i < last, alpha_of(record, x, y, True), 0.0)
        spread, factor = spread_and_factor(alpha, keep, drop)
        feature = tl.load(record + _SHAPE + channel, mask=channel < CHANNELS, other=0.0)
        d = feature[:, None] - start - mean
        variance = factor[None, :] * variance + spread[None, :] * (d * d)
        mean += (keep * alpha)[None, :] * d
        if SHARES:
            # Counted splats leave light, so that the product of their factors is far from zero.
            front /= factor
            squares = tl.sum(tl.where(kept, d * d, 0.0), 0)
            row = table + tl.load(rows + i).to(tl.int64)
            tl.store(row, tl.sum(front * spread * squares, 0))
        i -= 1
    tl.store(mean_image + at, mean, mask=kept)
    tl.store(variance_image + at, variance, mask=kept)
    tl.store(transmittance + pixel, left, mask=inside)


@torch.no_grad()
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
    """See `Backend.rasterize_moments`, but not differentiable.

    Raises:
        ValueError: As there, or a tensor is not float32.
    """
    size, channels = (width, height), features.shape[1]
    check_moments(features, rate, size, background, origin, shares)
    check_float(footprints, features)
    lists = tile_lists(footprints, width, height)
    means, conics, opacities, *_ = footprints
    end = features.new_tensor(background or [0.0] * channels)
    groups = []
    for at in range(0, channels, CHANNELS):
        group = slice(at, at + CHANNELS)
        records = torch.cat([means, conics, opacities[:, None], features[:, group]], 1)
        part = None if origin is None else origin[..., group].permute(2, 0, 1).contiguous()
        groups.append(_moments_of(lists, records, part, end[group], rate, size, shares))
    mean, variance, transmittance = zip(*groups, strict=True)
    mean, variance = (
        torch.cat(planes).permute(1, 2, 0).contiguous() for planes in (mean, variance)
    )
    return RasterMoments(mean, variance, transmittance[0])


def _moments_of(
    lists: TileLists,
    records: Tensor,
    origin: Tensor | None,
    background: Tensor,
    rate: float,
    size: tuple[int, int],
    shares: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance [channels, height, width] and transmittance; adds to the shares."""
    (width, height), channels = size, records.shape[1] - SHAPE
    mean, variance = records.new_empty(2, channels, height, width)
    transmittance = records.new_empty(height, width)
    # Entries behind finished pixels are never written.
    table = records.new_zeros(0 if shares is None else len(lists.splats))
    with device_of(records):
        _moments[tiles_of(size)](
            lists.begins,
            lists.splats,
            lists.rows,
            records,
            records if origin is None else origin,
            background,
            1.0 - rate,
            float(rate),
            mean,
            variance,
            transmittance,
            table,
            *arguments_of(size),
            CHANNELS=channels,
            PADDED=triton.next_power_of_2(channels),
            ORIGIN=origin is not None,
            SHARES=shares is not None,
            TILE=TILE,
        )
    if shares is not None:
        shares.add_(lists.sum_by_splat(table[:, None], len(records))[:, 0])
    return mean, variance, transmittance
