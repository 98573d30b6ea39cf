"""Inner loops: one interface to the machine, and a backend for each kind of device.

`backend.py` is the interface, `reference.py` its definition in plain PyTorch, `cpu.py` the C++
of `native/`, `cuda.py` gsplat's kernels and ours in Triton. This room knows tensors, not scenes.
"""

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
]
