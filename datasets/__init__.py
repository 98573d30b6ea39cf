"""Captures: photos with cameras, read from every common format, and the built-in scene.

`load` finds the format, and `colmap` and `transforms` read it into a `listing`. `images` opens
image files, `photos` undistorts and shrinks them, and `files` writes files of all kinds.
"""

from lumigraph.datasets.capture import Capture, Frame
from lumigraph.datasets.extent import random_points, similarity_for
from lumigraph.datasets.images import ImageCache, available_memory
from lumigraph.datasets.load import load_capture

__all__ = [
    "Capture",
    "Frame",
    "ImageCache",
    "available_memory",
    "load_capture",
    "random_points",
    "similarity_for",
]
