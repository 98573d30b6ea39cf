"""Inner loops: a protocol for each kind of operation, and a backend for each kind of device.

`splats` and `images` each hold a protocol, its definition in plain PyTorch, and a backend for each
kind of device; `native` is their C++, and `backends.py` picks. `tracer` takes the photos of the
built-in scene. This room knows tensors, not scenes.
"""

from lumigraph.kernels.backends import images_for, splats_for
from lumigraph.kernels.images import ImageBackend
from lumigraph.kernels.splats.protocol import MomentsPicture, Picture, Records, SplatBackend
from lumigraph.kernels.splats.types import (
    ALPHA_MAX,
    ALPHA_MIN,
    BLUR,
    GEOMETRY,
    TRANSMITTANCE_MIN,
    Adam,
    Blocks,
    ByRecords,
    ByView,
    Filter,
    Footprints,
    Lens,
    Look,
    Moments,
    Parameters,
    Penalty,
    Pull,
    Raster,
    RasterMoments,
    Rates,
    Seen,
    Stopped,
    Target,
    View,
    Window,
)

__all__ = [
    "ALPHA_MAX",
    "ALPHA_MIN",
    "BLUR",
    "GEOMETRY",
    "TRANSMITTANCE_MIN",
    "Adam",
    "Blocks",
    "ByRecords",
    "ByView",
    "Filter",
    "Footprints",
    "ImageBackend",
    "Lens",
    "Look",
    "Moments",
    "MomentsPicture",
    "Parameters",
    "Penalty",
    "Picture",
    "Pull",
    "Raster",
    "RasterMoments",
    "Rates",
    "Records",
    "Seen",
    "SplatBackend",
    "Stopped",
    "Target",
    "View",
    "Window",
    "images_for",
    "splats_for",
]
