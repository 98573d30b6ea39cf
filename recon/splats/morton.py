"""Neighbours in space next to each other in memory."""

import torch
from torch import Tensor

BITS = 21
"""Of each axis: three of them fill an int64, and a cell is smaller than what float32 can tell."""


FAR = 1e4
"""Points that are farther from the origin, in sizes of the scene, count as this far away: otherwise
a single stray point would put all others into one cell."""


def morton_order(points: Tensor) -> Tensor:
    """Indices that sort the points along a z-order curve (Morton 1966), equal ones in their order.

    Splats that share a tile of an image then lie close together in memory (Faster-GS). Points that
    are not finite come last.

    Args:
        points: [points, 3]

    Returns:
        int64 [points]
    """
    if not len(points):
        return torch.empty(0, dtype=torch.int64, device=points.device)
    sound = points.isfinite().all(1, keepdim=True)
    near = points.clamp(-FAR, FAR)
    offsets = near - near.where(sound, torch.inf).amin(0)
    side = offsets.where(sound, 0).amax().double().clamp_min(1e-30)
    last = 2**BITS - 1
    cells = (offsets.double() / side * last).where(sound, last).long()
    x, y, z = (_spread_bits(cells[:, axis]) for axis in range(3))
    return (x | y << 1 | z << 2).argsort(stable=True)


def _spread_bits(cells: Tensor) -> Tensor:
    """Two zero bits behind each of the lower 21 bits. int64 [points]"""
    for shift, mask in (
        (32, 0x001F00000000FFFF),
        (16, 0x001F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        cells = (cells | cells << shift) & mask
    return cells
