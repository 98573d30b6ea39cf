"""Which splats are sound: those that renderers and file formats can hold."""

import torch
from torch import Tensor

from lumigraph.render import Splats

LENGTH_MIN, LENGTH_MAX = 1e-15, 1e15
"""Bounds of a quaternion's largest number: beyond them its squared length leaves float32."""


def finite(splats: Splats) -> Tensor:
    """Whether all values of each splat are finite. bool [splats]"""
    found = torch.ones(len(splats), dtype=torch.bool, device=splats.means.device)
    for value in splats.tensors.values():
        found &= value.isfinite().reshape(len(splats), value[:1].numel()).all(1)
    return found


def sound(splats: Splats) -> Tensor:
    """Whether each splat can be drawn: it is finite and has a rotation. bool [splats]"""
    length = splats.quaternions.abs().amax(1)
    return finite(splats) & (length > LENGTH_MIN) & (length < LENGTH_MAX)
