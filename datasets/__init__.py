"""What was seen: photos with cameras, from every common format, and the built-in scene."""

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
