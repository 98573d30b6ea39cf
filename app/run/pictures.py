"""Pictures as files: PNG in and out, depth and errors as colours."""

import io
import re
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lumigraph.app.run.files import explained
from lumigraph.datasets.images import decode_rgb, image_header, save_png

# Anchors of a map from dark violet over teal to yellow, whose lightness rises evenly, so that it
# reads the same in grey and to the colour-blind.
_RAMP = ((68, 1, 84), (62, 74, 137), (38, 130, 142), (53, 183, 121), (181, 222, 43), (253, 231, 37))


def picture_name(index: int, name: str) -> str:
    """The file name for the picture of a frame: its number, and what is harmless of its name."""
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{index:04d}_{re.sub(r'[^A-Za-z0-9-]+', '_', stem)[:60]}.png"


def write_picture(path: Path, pixels: Tensor) -> None:
    """Writes uint8 pixels [height, width, 3] as a PNG, atomically; OSError names the file."""
    with explained(path):
        save_png(pixels.numpy(), path)


def read_picture(path: Path, width: int, height: int) -> Tensor:
    """The pixels of a picture in a run folder. uint8 [height, width, 3]

    Raises ValueError if it cannot be decoded or has another size, which is checked before it is
    decoded.
    """
    try:
        found = image_header(path)[:2]
        if found == (width, height):
            return torch.from_numpy(decode_rgb(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{error}: restore the run folder from a copy") from None
    raise ValueError(
        f"{path} is {found[0]}x{found[1]} but its camera says {width}x{height}: restore the run "
        "folder from a copy"
    )


def colored(values: Tensor) -> Tensor:
    """Values in [0, 1] as colours from dark violet to yellow. uint8 [..., 3]"""
    ramp = torch.tensor(_RAMP, dtype=torch.float32)
    place = values.detach().float().cpu().clamp(0, 1) * (len(ramp) - 1)
    low = place.floor().long().clamp(max=len(ramp) - 2)
    part = (place - low)[..., None]
    return (ramp[low] * (1 - part) + ramp[low + 1] * part).round().to(torch.uint8)


def depth_colors(depth: Tensor, near: float, far: float) -> Tensor:
    """Depths as colours, near ones bright; black where nothing is. uint8 [height, width, 3]

    What is shown is disparity (1 / depth) between those of `far` and `near`: steps close to the
    camera matter as much as long ways behind.
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
