"""What was seen: photos with cameras, from every common format, and the built-in scene."""

from lumigraph.datasets.capture import Capture, Frame

__all__ = ["Capture", "Frame"]
