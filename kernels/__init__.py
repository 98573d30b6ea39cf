"""Inner loops: one interface to the machine, and a backend for each kind of device.

`splats` and `images` each hold a protocol, its definition in plain PyTorch, and a backend for each
kind of device; `native` is their C++, and `backends.py` picks. `tracer` takes the photos of the
built-in scene. This room knows tensors, not scenes.
"""

from lumigraph.kernels.backends import images_for
from lumigraph.kernels.images import ImageBackend
from lumigraph.kernels.splats.protocol import Backend, Linearization, backend_for
from lumigraph.kernels.splats.types import (
    ALPHA_MAX,
    ALPHA_MIN,
    BLUR,
    GEOMETRY,
    TRANSMITTANCE_MIN,
    Adam,
    Blocks,
    Filter,
    Footprints,
    Moments,
    Parameters,
    Pull,
    Raster,
    RasterMoments,
    Rates,
    Stopped,
    Target,
    View,
)

__all__ = [
    "ALPHA_MAX",
    "ALPHA_MIN",
    "BLUR",
    "GEOMETRY",
    "TRANSMITTANCE_MIN",
    "Adam",
    "Backend",
    "Blocks",
    "Filter",
    "Footprints",
    "ImageBackend",
    "Linearization",
    "Moments",
    "Parameters",
    "Pull",
    "Raster",
    "RasterMoments",
    "Rates",
    "Stopped",
    "Target",
    "View",
    "backend_for",
    "images_for",
]
