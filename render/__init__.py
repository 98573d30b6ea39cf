"""What can be seen: cameras, scenes, their renderings, camera paths and image metrics."""

from lumigraph.render.camera import Camera, Similarity
from lumigraph.render.render import render
from lumigraph.render.rendering import Rendering
from lumigraph.render.splats import Splats

__all__ = ["Camera", "Rendering", "Similarity", "Splats", "render"]
