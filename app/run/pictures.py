"""Pictures: PNG files, and depth and errors as colours."""

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lumigraph.datasets.images import save_png

# Anchors of a colour map from dark violet over teal to yellow. Its lightness rises evenly, so that
# it reads the same in grey and for the colour-blind.
_RAMP = ((68, 1, 84), (62, 74, 137), (38, 130, 142), (53, 183, 121), (181, 222, 43), (253, 231, 37))


def write_picture(path: Path, pixels: Tensor) -> None:
    """Writes uint8 pixels [height, width, 3] as a PNG, atomically; OSError names the file."""
    save_png(pixels.numpy(), path)


def colored(values: Tensor) -> Tensor:
    """Values in [0, 1] as colours from dark violet to yellow. uint8 [..., 3]"""
    ramp = torch.tensor(_RAMP, dtype=torch.float32)
    place = values.detach().float().cpu().clamp(0, 1) * (len(ramp) - 1)
    low = place.floor().long().clamp(max=len(ramp) - 2)
    part = (place - low)[..., None]
    return (ramp[low] * (1 - part) + ramp[low + 1] * part).round().to(torch.uint8)


def depth_colors(depth: Tensor, near: float, far: float) -> Tensor:
    """Depths as colours: near is bright, no depth is black. uint8 [height, width, 3]

    The colour shows the disparity (1 / depth), from that of `far` to that of `near`, so that small
    distances close to the camera show as well as large ones far away.
    """
    seen = depth > 0
    disparity = torch.where(seen, 1 / depth.clamp_min(1e-12), 0.0)
    share = (disparity - 1 / far) / max(1 / near - 1 / far, 1e-12)
    return colored(share) * seen[..., None].to(torch.uint8)


def thumbnail(pixels: Tensor, width: int) -> bytes:
    """The picture at most `width` pixels wide, as a JPEG."""
    image = Image.fromarray(pixels.numpy())
    if image.width > width:
        height = max(1, round(image.height * width / image.width))
        image = image.resize((width, height), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
