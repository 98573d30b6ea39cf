"""The ray tracer that takes the built-in scene's photos."""
