"""Sums for the blocks of G^T diag(w) G of each splat, in Triton for NVIDIA GPUs.

Unverified: no line of this has run on a GPU yet. The tests compare it with
`derivative.screen_products` in Triton's interpreter.

One program walks the list of one tile forward, to find the last entry of each pixel, and then
backward, so that the colour behind a splat is a sum. The derivative of a pixel's colour by
log(alpha) is a number for each channel. The derivatives of log(alpha) by mean, conic and opacity
are polynomials in the pixel's offset from the splat's centre. So sums of monomials over the pixels
are all that a splat's block needs.

The monomials are those of X = dx + xy / xx dy and Y = dy, in which the quadratic form has no mixed
term. In dx and dy the sums of a long splat would be large, and its block a small difference of
them.
"""

# `constexpr` parameters get plain numbers, and calls from kernel to kernel have no type.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from lumigraph.kernels.splats.derivative import Setting
from lumigraph.kernels.splats.triton.lists import (
    SHAPE,
    TILE,
    arguments_of,
    batch_at,
    bounded,
    check_float,
    device_of,
    pixels_of_tile,
    places_of,
    tile_lists,
    tiles_of,
    walk,
)
from lumigraph.kernels.splats.types import ALPHA_MIN, Footprints

__all__ = ["screen_products"]

_BATCH = 2
"""Splats with sums found together, so that they share barriers; four would take 168 registers of a
thread."""

_QUADRATIC = [(i, j) for j in range(3) for i in range(3 - j)]
"""Exponents of X and Y in the monomials up to degree 2: 1, X, X^2, Y, XY, Y^2."""

_QUARTIC = [(i, j) for j in range(5) for i in range(5 - j)]
"""Exponents of X and Y in the monomials up to degree 4, the products of those of degree 2."""

_NUMBERS = len(_QUARTIC) + 3 * len(_QUADRATIC) + 3
"""Sums of an entry: quartic monomials, quadratic monomials by channel, squared light by channel."""

_SHAPE = tl.constexpr(SHAPE)


@triton.jit
def _curve(
    begins,
    splats,
    rows,
    records,
    background,
    weights,
    table,
    width,
    height,
    columns,
    NUMBERS: tl.constexpr,
    BATCH: tl.constexpr,
    ALPHA_MAX: tl.constexpr,
    TILE: tl.constexpr,
):
    """Walks one tile's list, and writes each entry's sums over the tile to its row of the table."""
    x, y, inside, pixel = pixels_of_tile(width, height, columns, TILE)
    channel = tl.arange(0, 4)  # three channels, padded to a power of two
    kept = (channel < 3)[:, None] & inside[None, :]
    at = places_of(pixel, width, height, 4)
    weight = tl.load(weights + at, mask=kept, other=0.0)[None, :, :]
    begin = tl.load(begins + tl.program_id(0))
    end = tl.load(begins + tl.program_id(0) + 1)
    n, last, left, _front = walk(
        begin, end, splats, records, x, y, inside, 1.0, 0.0, 3, False, ALPHA_MAX
    )
    # The light that comes from behind the current splat: at first that of the background.
    ground = tl.load(background + channel, mask=channel < 3, other=0.0)
    behind = ground[:, None] * left[None, :]
    while n > begin:
        # Evaluate a batch of splats, [batch, pixels], as in `_blend_backward`, the last splat
        # first.
        i = n - 1 - tl.arange(0, BATCH)
        listed = i >= begin
        record, dx, dy, xx, xy, _yy, _gaussian, raw = batch_at(i, listed, splats, records, x, y, 3)
        counts = listed[:, None] & (i[:, None] < last[None, :])
        alpha = tl.where(counts, bounded(raw, ALPHA_MAX), 0.0)
        before = left[None, :] / tl.cumprod(1 - alpha, 0)
        light = alpha * before
        # Derivatives of the colour by log(alpha), [batch, channels, pixels]. An alpha held at its
        # bound does not change with the splat.
        known = listed[:, None] & (channel < 3)[None, :]
        shows = record[:, None] + _SHAPE + channel[None, :]
        part = tl.load(shows, mask=known, other=0.0)[:, :, None] * light[:, None, :]
        later = behind[None, :, :] + tl.cumsum(part, 0) - part
        moves = (alpha > 0) & (raw <= ALPHA_MAX)
        odds = alpha / (1 - alpha)
        q = tl.where(moves[:, None, :], part - odds[:, None, :] * later, 0.0)
        pull = weight * q

        # Sum the quartic monomials over the tile's pixels, one power of Y after the other.
        across = dx + tl.where(xx > 0, xy / xx, 0.0) * dy
        row = table + tl.load(rows + i, mask=listed, other=0).to(tl.int64) * NUMBERS
        by_y = tl.sum(pull * q, 1)
        for j in tl.static_range(5):
            by_x = by_y
            for k in tl.static_range(5 - j):
                tl.store(row + k, tl.sum(by_x, 1), mask=listed)
                by_x *= across
            row += 5 - j
            by_y *= dy
        # Sum the quadratic monomials for each channel, and the squared light.
        columns_of = row[:, None] + channel[None, :]
        mixed_y = pull * light[:, None, :]
        for j in tl.static_range(3):
            mixed_x = mixed_y
            for k in tl.static_range(3 - j):
                tl.store(columns_of + 3 * k, tl.sum(mixed_x, 2), mask=known)
                mixed_x *= across[:, None, :]
            columns_of += 3 * (3 - j)
            mixed_y *= dy[:, None, :]
        tl.store(columns_of, tl.sum(weight * (light * light)[:, None, :], 2), mask=known)
        behind += tl.sum(part, 0)
        # Transmittance only rises towards the front, so the largest one is that of the nearest
        # splat.
        left = tl.max(before, 0)
        n -= BATCH


@torch.no_grad()
def screen_products(
    footprints: Footprints, colors: Tensor, weights: Tensor, setting: Setting
) -> tuple[Tensor, Tensor, Tensor]:
    """See `derivative.screen_products`.

    Raises:
        ValueError: A tensor is not float32.
    """
    check_float(footprints, colors)
    (height, width), count = weights.shape[:2], len(colors)
    size, corner = (width, height), colors.new_tensor(setting.window[:2])
    footprints = footprints._replace(means=footprints.means - corner)
    lists = tile_lists(footprints, *size)
    means, conics, opacities, *_ = footprints
    records = torch.cat([means, conics, opacities[:, None], colors], 1)
    # Entries behind finished pixels are not written, so the table starts with zeros.
    table = records.new_zeros(len(lists.splats), _NUMBERS)
    with device_of(records):
        _curve[tiles_of(size)](
            lists.begins,
            lists.splats,
            lists.rows,
            records,
            colors.new_tensor(setting.background),
            weights.permute(2, 0, 1).contiguous(),
            table,
            *arguments_of(size),
            NUMBERS=_NUMBERS,
            BATCH=_BATCH,
            ALPHA_MAX=setting.alpha_max,
            TILE=TILE,
        )
    sums = lists.sum_by_splat(table, count)
    own, mixed, shown = sums.split([len(_QUARTIC), 3 * len(_QUADRATIC), 3], 1)
    products = [[_QUARTIC.index((i + k, j + l)) for k, l in _QUADRATIC] for i, j in _QUADRATIC]
    form, mixed = _form(conics, opacities), mixed.view(count, len(_QUADRATIC), 3).mT
    return form @ own[:, products] @ form.mT, mixed @ form.mT, shown


def _form(conics: Tensor, opacities: Tensor) -> Tensor:
    """Derivatives of log(alpha) by mean, conic and opacity as sums of monomials up to degree 2.

    Returns:
        [splats, 6, monomials]
    """
    xx, xy, yy = conics.unbind(1)
    lean = torch.where(xx > 0, xy / xx, 0)
    # A splat fainter than ALPHA_MIN is not drawn, so any finite opacity serves.
    opacity = opacities.clamp_min(ALPHA_MIN)
    none, half = torch.zeros_like(xx), torch.full_like(xx, 0.5)
    rows = [
        [none, xx, none, none, none, none],
        [none, xy, none, yy - lean * xy, none, none],
        [none, none, -half, none, lean, -half * lean * lean],
        [none, none, none, none, -2 * half, lean],
        [none, none, none, none, none, -half],
        [1 / opacity, none, none, none, none, none],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
