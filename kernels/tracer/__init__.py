"""The ray tracer that takes the photos of the built-in scene, with exact depth and normals."""

from lumigraph.kernels.tracer.trace import (
    KINDS,
    PATTERNS,
    Surfaces,
    TracedScene,
    trace_picture,
    trace_surfaces,
)

__all__ = ["KINDS", "PATTERNS", "Surfaces", "TracedScene", "trace_picture", "trace_surfaces"]
