"""The frame of a run's scene, which is the fit's: the scene lies around zero and has size one.

The capture's frame may have coordinates of millions (metres of a map grid), which the 32-bit
numbers of a scene cannot tell apart. Cameras have 64-bit numbers, so they are moved to the fit's
frame, and only files for other programs are in the capture's frame.
"""

from collections.abc import Sequence
from dataclasses import replace

from lumigraph.datasets import Capture, Frame
from lumigraph.render import Similarity


def moved_frames(frames: Sequence[Frame], similarity: Similarity) -> tuple[Frame, ...]:
    """The frames with their cameras moved by the similarity."""
    return tuple(replace(frame, camera=similarity.camera(frame.camera)) for frame in frames)


def moved_capture(capture: Capture) -> Capture:
    """The capture with its cameras and points in the fit's frame, and no similarity left."""
    similarity = capture.similarity
    return replace(
        capture,
        train=moved_frames(capture.train, similarity),
        test=moved_frames(capture.test, similarity),
        calibration=moved_frames(capture.calibration, similarity),
        points=similarity.points(capture.points),
        similarity=Similarity.identity(),
    )
