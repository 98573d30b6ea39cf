"""Rasterisation in Triton for NVIDIA GPUs, which needs no nvcc.

Unverified: no line of this has run on a GPU yet. The tests compare it with the reference in
Triton's interpreter, which runs the kernels on the CPU one program after the other.

One program draws one tile, and walks the tile's list from the nearest splat on. A splat is a record
of mean (2 numbers), conic (3), opacity (1) and up to four channels. A gradient and a direction by
the records have the same shape. Images have their channels outermost here, so that neighbouring
threads read neighbouring pixels.
"""

# `constexpr` parameters get plain numbers, and calls from kernel to kernel have no type.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from lumigraph.kernels.splats.triton.lists import (
    CHANNELS,
    SHAPE,
    STEP,
    TILE,
    TileLists,
    alpha_of,
    arguments_of,
    batch_at,
    bounded,
    check_float,
    device_of,
    form_of,
    gaussian_at,
    pixels_of_tile,
    places_of,
    store_by_shape,
    tile_lists,
    tiles_of,
)
from lumigraph.kernels.splats.types import ALPHA_MAX, TRANSMITTANCE_MIN, Footprints, Raster

__all__ = ["probe", "rasterize"]

_BATCH = 4
"""Splats with gradients summed over a tile together, so that they share the barriers."""

_TRANSMITTANCE_MIN = tl.constexpr(TRANSMITTANCE_MIN)
_SHAPE = tl.constexpr(SHAPE)


@triton.jit
def _blend(
    begins,
    splats,
    records,
    background,
    image,
    transmittance,
    median,
    width,
    height,
    columns,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    MEDIAN: tl.constexpr,
    ALPHA_MAX: tl.constexpr,
    TILE: tl.constexpr,
):
    """Draws one tile. Past the end of its list, splat 0 is blended with an opacity of zero."""
    x, y, inside, pixel = pixels_of_tile(width, height, columns, TILE)
    channel = tl.arange(0, PADDED)
    left = tl.where(inside, 1.0, 0.0)
    sums = tl.zeros([PADDED, TILE * TILE], tl.float32)
    half = tl.full([TILE * TILE], -1, tl.int32)
    # Blend the list front to back, until all pixels are finished.
    n = tl.load(begins + tl.program_id(0))
    end = tl.load(begins + tl.program_id(0) + 1)
    while (n < end) & (tl.max(left, 0) > _TRANSMITTANCE_MIN):
        for i in range(STEP):
            listed = n + i < end
            splat = tl.load(splats + n + i, mask=listed, other=0)
            record = records + splat.to(tl.int64) * (_SHAPE + CHANNELS)
            alpha = tl.where(
                left > _TRANSMITTANCE_MIN, alpha_of(record, x, y, listed, ALPHA_MAX), 0.0
            )
            feature = tl.load(record + _SHAPE + channel, mask=channel < CHANNELS, other=0.0)
            sums += feature[:, None] * (alpha * left)[None, :]
            after = left * (1 - alpha)
            if MEDIAN:
                half = tl.where((left > 0.5) & (after <= 0.5), splat, half)
            left = after
        n += STEP

    # Add the background, and write the pixels of the image.
    behind = tl.load(background + channel, mask=channel < CHANNELS, other=0.0)
    kept = (channel < CHANNELS)[:, None] & inside[None, :]
    sums += behind[:, None] * left[None, :]
    tl.store(image + places_of(pixel, width, height, PADDED), sums, mask=kept)
    tl.store(transmittance + pixel, left, mask=inside)
    if MEDIAN:
        tl.store(median + pixel, half, mask=inside)


@triton.jit
def _blend_backward(
    begins,
    splats,
    rows,
    records,
    image,
    transmittance,
    image_gradient,
    transmittance_gradient,
    table,
    width,
    height,
    columns,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ABSOLUTE: tl.constexpr,
    NUMBERS: tl.constexpr,
    BATCH: tl.constexpr,
    ALPHA_MAX: tl.constexpr,
    TILE: tl.constexpr,
):
    """Walks one tile's list again, and writes each entry's gradient to its row of the table."""
    x, y, inside, pixel = pixels_of_tile(width, height, columns, TILE)
    channel = tl.arange(0, PADDED)
    kept = (channel < CHANNELS)[:, None] & inside[None, :]
    at = places_of(pixel, width, height, PADDED)
    pull = tl.load(image_gradient + at, mask=kept, other=0.0)
    # The contribution of this and all later splats to the loss: one number for each pixel.
    behind = tl.sum(pull * tl.load(image + at, mask=kept, other=0.0), 0)
    through = tl.load(transmittance + pixel, mask=inside, other=0.0)
    behind += through * tl.load(transmittance_gradient + pixel, mask=inside, other=0.0)
    left = tl.where(inside, 1.0, 0.0)
    n = tl.load(begins + tl.program_id(0))
    end = tl.load(begins + tl.program_id(0) + 1)
    while (n < end) & (tl.max(left, 0) > _TRANSMITTANCE_MIN):
        # Evaluate a batch of splats, [batch, pixels].
        i = n + tl.arange(0, BATCH)
        listed = i < end
        record, dx, dy, xx, xy, yy, gaussian, raw = batch_at(
            i, listed, splats, records, x, y, CHANNELS
        )
        alpha = tl.where(listed[:, None], bounded(raw, ALPHA_MAX), 0.0)
        after = left[None, :] * tl.cumprod(1 - alpha, 0)
        before = after / (1 - alpha)
        counts = before > _TRANSMITTANCE_MIN
        alpha = tl.where(counts, alpha, 0.0)
        weight = alpha * before
        known = listed[:, None] & (channel < CHANNELS)[None, :]
        shows = record[:, None] + _SHAPE + channel[None, :]
        feature = tl.load(shows, mask=known, other=0.0)
        product = tl.sum(feature[:, :, None] * pull[None, :, :], 1)
        passed = weight * product
        later = behind[None, :] - tl.cumsum(passed, 0)
        # The derivative by alpha. An alpha held at its bound does not change with the splat.
        moves = (alpha > 0) & (raw <= ALPHA_MAX)
        slope = tl.where(moves, before * product - later / (1 - alpha), 0.0)

        # Sum the gradients over the tile's pixels: by shape, by feature, and in absolute value.
        q = slope * raw
        row = table + tl.load(rows + i, mask=listed, other=0).to(tl.int64) * NUMBERS
        store_by_shape(row, listed, q, slope * gaussian, dx, dy, xx, xy, yy)
        shown = tl.sum(weight[:, None, :] * pull[None, :, :], 2)
        tl.store(row[:, None] + _SHAPE + channel[None, :], shown, mask=known)
        if ABSOLUTE:
            by_x, by_y = tl.abs(q * (xx * dx + xy * dy)), tl.abs(q * (xy * dx + yy * dy))
            tl.store(row + _SHAPE + CHANNELS, tl.sum(by_x, 1), mask=listed)
            tl.store(row + _SHAPE + CHANNELS + 1, tl.sum(by_y, 1), mask=listed)
        behind -= tl.sum(passed, 0)
        # Transmittance only falls, so the least of the counted ones is the one after the batch.
        left = tl.min(tl.where(counts, after, left[None, :]), 0)
        n += BATCH


@triton.jit
def _blend_forward_mode(
    begins,
    splats,
    records,
    directions,
    background,
    image_tangent,
    transmittance_tangent,
    width,
    height,
    columns,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ALPHA_MAX: tl.constexpr,
    TILE: tl.constexpr,
):
    """The derivative of the image of `_blend`, along a direction of the records."""
    x, y, inside, pixel = pixels_of_tile(width, height, columns, TILE)
    channel = tl.arange(0, PADDED)
    left = tl.where(inside, 1.0, 0.0)
    # The derivative of -log(transmittance).
    fall = tl.zeros([TILE * TILE], tl.float32)
    sums = tl.zeros([PADDED, TILE * TILE], tl.float32)
    n = tl.load(begins + tl.program_id(0))
    end = tl.load(begins + tl.program_id(0) + 1)
    while (n < end) & (tl.max(left, 0) > _TRANSMITTANCE_MIN):
        for i in range(STEP):
            listed = n + i < end
            splat = tl.load(splats + n + i, mask=listed, other=0)
            at = splat.to(tl.int64) * (_SHAPE + CHANNELS)
            record, move = records + at, directions + at
            dx, dy, xx, xy, yy = form_of(record, x, y)
            gaussian = gaussian_at(dx, dy, xx, xy, yy)
            raw = tl.load(record + 5, mask=listed, other=0.0) * gaussian
            alpha = tl.where(left > _TRANSMITTANCE_MIN, bounded(raw, ALPHA_MAX), 0.0)
            # The derivative of log(gaussian) along the direction.
            rate = (xx * dx + xy * dy) * tl.load(move)
            rate += (xy * dx + yy * dy) * tl.load(move + 1)
            rate -= 0.5 * (tl.load(move + 2) * dx * dx + tl.load(move + 4) * dy * dy)
            rate -= tl.load(move + 3) * dx * dy
            moves = (alpha > 0) & (raw <= ALPHA_MAX)
            alpha_moves = tl.where(moves, gaussian * tl.load(move + 5) + raw * rate, 0.0)
            feature = tl.load(record + _SHAPE + channel, mask=channel < CHANNELS, other=0.0)
            change = tl.load(move + _SHAPE + channel, mask=channel < CHANNELS, other=0.0)
            sums += feature[:, None] * (left * (alpha_moves - alpha * fall))[None, :]
            sums += change[:, None] * (left * alpha)[None, :]
            fall += alpha_moves / (1 - alpha)
            left *= 1 - alpha
        n += STEP
    behind = tl.load(background + channel, mask=channel < CHANNELS, other=0.0)
    kept = (channel < CHANNELS)[:, None] & inside[None, :]
    sums -= behind[:, None] * (left * fall)[None, :]
    tl.store(image_tangent + places_of(pixel, width, height, PADDED), sums, mask=kept)
    tl.store(transmittance_tangent + pixel, -left * fall, mask=inside)


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        lists: TileLists,
        size: tuple[int, int],
        background: Tensor,
        absolute: Tensor | None,
        with_median: bool,
        alpha_max: float,
        records: Tensor,
    ) -> tuple[Tensor, ...]:
        (width, height), channels = size, records.shape[1] - SHAPE
        image = records.new_empty(channels, height, width)
        transmittance = records.new_empty(height, width)
        median = records.new_empty((height, width) if with_median else (0, 0), dtype=torch.int32)
        ctx.alpha_max = alpha_max
        with device_of(records):
            _blend[tiles_of(size)](
                lists.begins,
                lists.splats,
                records,
                background,
                image,
                transmittance,
                median,
                *arguments_of(size),
                CHANNELS=channels,
                PADDED=triton.next_power_of_2(channels),
                MEDIAN=with_median,
                ALPHA_MAX=ctx.alpha_max,
                TILE=TILE,
            )
        ctx.lists, ctx.size, ctx.absolute = lists, size, absolute
        ctx.save_for_backward(records, image, transmittance)
        ctx.save_for_forward(records, background)
        ctx.mark_non_differentiable(median)
        return image, transmittance, median

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        records, image, transmittance = ctx.saved_tensors
        channels, lists = records.shape[1] - SHAPE, ctx.lists
        numbers = records.shape[1] + (0 if ctx.absolute is None else 2)
        # Entries behind finished pixels are not written, so the table starts with zeros.
        table = records.new_zeros(len(lists.splats), numbers)
        with device_of(records):
            _blend_backward[tiles_of(ctx.size)](
                lists.begins,
                lists.splats,
                lists.rows,
                records,
                image,
                transmittance,
                gradients[0].contiguous(),
                gradients[1].contiguous(),
                table,
                *arguments_of(ctx.size),
                CHANNELS=channels,
                PADDED=triton.next_power_of_2(channels),
                ABSOLUTE=ctx.absolute is not None,
                NUMBERS=numbers,
                BATCH=_BATCH,
                ALPHA_MAX=ctx.alpha_max,
                TILE=TILE,
            )
        sums = lists.sum_by_splat(table, len(records))
        if ctx.absolute is not None:
            ctx.absolute.add_(sums[:, -2:])
        return None, None, None, None, None, None, sums[:, : records.shape[1]]

    @staticmethod
    def jvp(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        records, background = ctx.saved_tensors
        (width, height), channels = ctx.size, records.shape[1] - SHAPE
        image = records.new_empty(channels, height, width)
        transmittance = records.new_empty(height, width)
        direction = directions[-1]
        assert direction is not None
        with device_of(records):
            _blend_forward_mode[tiles_of(ctx.size)](
                ctx.lists.begins,
                ctx.lists.splats,
                records,
                direction.contiguous(),
                background,
                image,
                transmittance,
                *arguments_of(ctx.size),
                CHANNELS=channels,
                PADDED=triton.next_power_of_2(channels),
                ALPHA_MAX=ctx.alpha_max,
                TILE=TILE,
            )
        return image, transmittance, None


def rasterize(
    footprints: Footprints,
    features: Tensor,
    *,
    width: int,
    height: int,
    background: tuple[float, ...] | None = None,
    absolute_gradients: Tensor | None = None,
    median: bool = True,
    alpha_max: float = ALPHA_MAX,
) -> Raster:
    """See `reference.rasterize`; also differentiable in forward mode.

    Raises:
        ValueError: A tensor is not float32, or `absolute_gradients` is given with more than 4
            channels.
    """
    check_float(footprints, features)
    if absolute_gradients is not None:
        _check_absolute(absolute_gradients, footprints.means, features)
    lists = tile_lists(footprints, width, height)
    means, conics, opacities, *_ = footprints
    behind = features.new_tensor(background or [0.0] * features.shape[1])
    groups = []
    for group, end in zip(features.split(CHANNELS, 1), behind.split(CHANNELS), strict=True):
        records = torch.cat([means, conics, opacities[:, None], group], 1)
        wanted = median and not groups
        size = (width, height)
        groups.append(
            _Blend.apply(lists, size, end, absolute_gradients, wanted, alpha_max, records)
        )
    images, transmittances, medians = zip(*groups, strict=True)
    image = images[0] if len(images) == 1 else torch.cat(images)
    return Raster(image.permute(1, 2, 0).contiguous(), transmittances[0], medians[0])


def _check_absolute(absolute: Tensor, means: Tensor, features: Tensor) -> None:
    """Raises ValueError unless backward can add to `absolute` in place, without a copy."""
    if absolute.shape != means.shape or absolute.dtype != means.dtype:
        raise ValueError(
            f"absolute_gradients must be float32 {list(means.shape)} but is "
            f"{absolute.dtype} {list(absolute.shape)}: pass torch.zeros_like(means)"
        )
    if features.shape[1] > CHANNELS:
        raise ValueError(
            f"absolute_gradients needs features of at most 4 channels, not {features.shape[1]}: "
            "rasterize the others in another call"
        )


@functools.cache
def probe() -> str | None:
    """The reason why Triton does not work here; None if it drew and differentiated one splat."""
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU"
    try:
        return None if _draws_one_splat("cuda") else "Triton draws one splat wrongly"
    # On first use Triton compiles a part of itself with the system's C compiler, and raises any
    # error of that compiler.
    except Exception as error:
        return f"Triton fails with {type(error).__name__}: {error}"


@torch.inference_mode(False)
@torch.enable_grad()
def _draws_one_splat(device: str) -> bool:
    """Whether a splat of opacity one half has the right pixel value and gradient."""
    mean = torch.full((1, 2), 4.25, device=device, requires_grad=True)
    one = torch.ones(1, device=device)
    conic = torch.tensor([[1.0, 0.0, 1.0]], device=device)
    footprints = Footprints(mean, conic, one / 2, one, torch.full_like(mean, 3.2).detach())
    image = rasterize(footprints, one[:, None], width=8, height=8).features
    (gradient,) = torch.autograd.grad(image[4, 4].sum(), mean)
    # The closed form: half a Gaussian at a quarter of a pixel along both axes.
    value = 0.5 * torch.exp(-0.0625 * one)
    return torch.allclose(image[4, 4], value) and torch.allclose(gradient, 0.25 * value)
