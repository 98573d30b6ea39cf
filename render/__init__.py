"""Cameras, scenes, renderings of them, camera paths and image metrics."""

from lumigraph.render.camera import Camera, Similarity
from lumigraph.render.images import quantize, to_bytes
from lumigraph.render.metrics import psnr, ssim
from lumigraph.render.paths import focus_of, interpolate, look_at, orbit
from lumigraph.render.render import render, render_color
from lumigraph.render.rendering import Rendering
from lumigraph.render.splats import Splats

__all__ = [
    "Camera",
    "Rendering",
    "Similarity",
    "Splats",
    "focus_of",
    "interpolate",
    "look_at",
    "orbit",
    "psnr",
    "quantize",
    "render",
    "render_color",
    "ssim",
    "to_bytes",
]
