"""Moments of blended features where chance drops splats, in Triton for NVIDIA GPUs.

Unverified: no line of this has run on a GPU yet. The tests compare it with the reference in
Triton's interpreter.

One program draws one tile. It walks the tile's list forward, to find the last entry of each pixel,
and then backward, by the recursion of `SplatBackend.moments`. That recursion only adds positive
numbers, so it is exact for a small variance too. The gradients come from a walk forward, which
subtracts the splats from the result one after the other.
"""

# `constexpr` parameters get plain numbers, and calls from kernel to kernel have no type.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from lumigraph.kernels.splats.checks import check_moments
from lumigraph.kernels.splats.triton.lists import (
    CHANNELS,
    SHAPE,
    TILE,
    TileLists,
    alpha_of,
    arguments_of,
    batch_at,
    bounded,
    check_float,
    device_of,
    pixels_of_tile,
    places_of,
    spread_and_factor,
    store_by_shape,
    tile_lists,
    tiles_of,
    walk,
)
from lumigraph.kernels.splats.types import ALPHA_MAX, TRANSMITTANCE_MIN, Footprints, RasterMoments

__all__ = ["rasterize_moments"]

_BATCH = 2
"""Splats with gradients summed over a tile together, so that they share barriers."""

_ALPHA_MAX = tl.constexpr(ALPHA_MAX)
_TRANSMITTANCE_MIN = tl.constexpr(TRANSMITTANCE_MIN)
_SHAPE = tl.constexpr(SHAPE)


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

    # Walk forward: the last entry and the transmittance of each pixel.
    n, last, left, front = walk(
        begin, end, splats, records, x, y, inside, keep, drop, CHANNELS, SHARES, _ALPHA_MAX
    )

    # Walk backward from the background: mean and variance, measured from the origin.
    start = tl.zeros([PADDED, TILE * TILE], tl.float32)
    if ORIGIN:
        start += tl.load(origin + at, mask=kept, other=0.0)
    behind = tl.load(background + channel, mask=channel < CHANNELS, other=0.0)
    mean = behind[:, None] - start
    variance = tl.zeros([PADDED, TILE * TILE], tl.float32)
    i = n - 1
    while i >= begin:
        splat = tl.load(splats + i)
        record = records + splat.to(tl.int64) * (_SHAPE + CHANNELS)
        alpha = tl.where(i < last, alpha_of(record, x, y, True, _ALPHA_MAX), 0.0)
        spread, factor = spread_and_factor(alpha, keep, drop)
        feature = tl.load(record + _SHAPE + channel, mask=channel < CHANNELS, other=0.0)
        d = feature[:, None] - start - mean
        variance = factor[None, :] * variance + spread[None, :] * (d * d)
        mean += (keep * alpha)[None, :] * d
        if SHARES:
            # Every counted splat lets light through, so the product of the factors is not near
            # zero.
            front /= factor
            squares = tl.sum(tl.where(kept, d * d, 0.0), 0)
            row = table + tl.load(rows + i).to(tl.int64)
            tl.store(row, tl.sum(front * spread * squares, 0))
        i -= 1
    tl.store(mean_image + at, mean, mask=kept)
    tl.store(variance_image + at, variance, mask=kept)
    tl.store(transmittance + pixel, left, mask=inside)


@triton.jit
def _moments_backward(
    begins,
    splats,
    rows,
    records,
    origin,
    keep,
    drop,
    mean_image,
    variance_image,
    transmittance,
    mean_gradient,
    variance_gradient,
    transmittance_gradient,
    table,
    width,
    height,
    columns,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ORIGIN: tl.constexpr,
    BATCH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Walks one tile's list again, and writes each entry's gradient to its row of the table."""
    x, y, inside, pixel = pixels_of_tile(width, height, columns, TILE)
    channel = tl.arange(0, PADDED)
    kept = (channel < CHANNELS)[:, None] & inside[None, :]
    at = places_of(pixel, width, height, PADDED)
    start = tl.zeros([PADDED, TILE * TILE], tl.float32)
    if ORIGIN:
        start += tl.load(origin + at, mask=kept, other=0.0)
    # The contributions of this and all later splats to the image's mean and variance.
    mean = tl.load(mean_image + at, mask=kept, other=0.0)
    variance = tl.load(variance_image + at, mask=kept, other=0.0)
    # The gradients by mean and variance at a splat are these times `left` and `front`.
    by_mean = tl.load(mean_gradient + at, mask=kept, other=0.0)
    by_variance = tl.load(variance_gradient + at, mask=kept, other=0.0)
    by_light = tl.load(transmittance_gradient + pixel, mask=inside, other=0.0)
    by_light *= tl.load(transmittance + pixel, mask=inside, other=0.0)
    left = tl.where(inside, 1.0, 0.0)
    front = tl.full(left.shape, 1.0, tl.float32)
    n = tl.load(begins + tl.program_id(0))
    end = tl.load(begins + tl.program_id(0) + 1)
    while (n < end) & (tl.max(left, 0) > _TRANSMITTANCE_MIN):
        # Evaluate a batch of splats, [batch, pixels].
        i = n + tl.arange(0, BATCH)
        listed = i < end
        record, dx, dy, xx, xy, yy, gaussian, raw = batch_at(
            i, listed, splats, records, x, y, CHANNELS
        )
        alpha = tl.where(listed[:, None], bounded(raw, _ALPHA_MAX), 0.0)
        after = left[None, :] * tl.cumprod(1 - keep * alpha, 0)
        before = after / (1 - keep * alpha)
        counts = before > _TRANSMITTANCE_MIN
        alpha = tl.where(counts, alpha, 0.0)
        spread, factor = spread_and_factor(alpha, keep, drop)
        fronts = front[None, :] * tl.cumprod(factor, 0)
        spread *= fronts / factor

        # The mean behind each splat, and d, the feature's difference from it,
        # [batch, channels, pixels].
        known = listed[:, None] & (channel < CHANNELS)[None, :]
        shows = record[:, None] + _SHAPE + channel[None, :]
        feature = tl.load(shows, mask=known, other=0.0)[:, :, None] - start[None, :, :]
        part = (keep * alpha * before)[:, None, :] * feature
        # Pixels beyond the image have no transmittance, so the divisor is bounded.
        through = tl.maximum(after, 1e-30)[:, None, :]
        d = feature - (mean[None, :, :] - tl.cumsum(part, 0)) / through
        squares = spread[:, None, :] * d * d
        later = variance[None, :, :] - tl.cumsum(squares, 0)
        # The variance also depends on the mean behind each splat, through d.
        by_d = 2 * by_variance[None, :, :] * spread[:, None, :] * d
        falls = by_d / through
        pull = before[:, None, :] * (by_mean[None, :, :] - tl.cumsum(falls, 0) + falls)
        by_d += (keep * alpha)[:, None, :] * pull
        rise = (drop * alpha * fronts / factor)[:, None, :] * d * d
        rise -= ((1 - alpha) / factor)[:, None, :] * later
        slope = tl.sum(pull * d + 2 * by_variance[None, :, :] * rise, 1)
        slope = keep * (slope - by_light[None, :] / (1 - keep * alpha))
        # An alpha held at its bound does not change with the splat.
        slope = tl.where((alpha > 0) & (raw <= _ALPHA_MAX), slope, 0.0)
        row = table + tl.load(rows + i, mask=listed, other=0).to(tl.int64) * (_SHAPE + CHANNELS)
        store_by_shape(row, listed, slope * raw, slope * gaussian, dx, dy, xx, xy, yy)
        tl.store(row[:, None] + _SHAPE + channel[None, :], tl.sum(by_d, 2), mask=known)

        mean -= tl.sum(part, 0)
        variance -= tl.sum(squares, 0)
        by_mean -= tl.sum(falls, 0)
        # Both only fall, so the least of the counted ones is the one after the batch.
        left = tl.min(tl.where(counts, after, left[None, :]), 0)
        front = tl.min(fronts, 0)
        n += BATCH


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        lists: TileLists,
        size: tuple[int, int],
        rate: float,
        background: Tensor,
        origin: Tensor | None,
        shares: Tensor | None,
        records: Tensor,
    ) -> tuple[Tensor, ...]:
        """Mean and variance [channels, height, width] and transmittance; adds to the shares."""
        (width, height), channels = size, records.shape[1] - SHAPE
        mean, variance = (records.new_empty(channels, height, width) for _ in range(2))
        transmittance = records.new_empty(height, width)
        # Entries behind finished pixels are not written, so the table starts with zeros.
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
        ctx.lists, ctx.size, ctx.rate = lists, size, rate
        ctx.save_for_backward(records, origin, mean, variance, transmittance)
        return mean, variance, transmittance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        records, origin, mean, variance, transmittance = ctx.saved_tensors
        by_mean, by_variance, by_light = (gradient.contiguous() for gradient in gradients)
        lists, channels = ctx.lists, records.shape[1] - SHAPE
        table = records.new_zeros(len(lists.splats), records.shape[1])
        with device_of(records):
            _moments_backward[tiles_of(ctx.size)](
                lists.begins,
                lists.splats,
                lists.rows,
                records,
                records if origin is None else origin,
                1.0 - ctx.rate,
                float(ctx.rate),
                mean,
                variance,
                transmittance,
                by_mean,
                by_variance,
                by_light,
                table,
                *arguments_of(ctx.size),
                CHANNELS=channels,
                PADDED=triton.next_power_of_2(channels),
                ORIGIN=origin is not None,
                BATCH=_BATCH,
                TILE=TILE,
            )
        return *[None] * 6, lists.sum_by_splat(table, len(records))


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
    """See `reference.rasterize_moments`.

    Raises:
        ValueError: As in the reference, or a tensor is not float32.
    """
    size, channels = (width, height), features.shape[1]
    check_moments(
        features.shape[1], rate, size, background, origin, shares, len(features), features
    )
    check_float(footprints, features)
    lists = tile_lists(footprints, width, height)
    means, conics, opacities, *_ = footprints
    end = features.new_tensor(background or [0.0] * channels)
    groups = []
    for at in range(0, channels, CHANNELS):
        group = slice(at, at + CHANNELS)
        records = torch.cat([means, conics, opacities[:, None], features[:, group]], 1)
        part = None if origin is None else origin.detach()[..., group].permute(2, 0, 1).contiguous()
        groups.append(_Moments.apply(lists, size, rate, end[group], part, shares, records))
    mean, variance, transmittance = zip(*groups, strict=True)
    mean, variance = (
        torch.cat(planes).permute(1, 2, 0).contiguous() for planes in (mean, variance)
    )
    return RasterMoments(mean, variance, transmittance[0])
