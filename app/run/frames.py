"""The frame of a run's scene: the fit's, in which the scene is of size one about zero.

Cameras come in the capture's frame, whose coordinates may be millions (metres of a map grid), more
than the 32 bits of a scene's numbers can tell apart. So the cameras, which have 64, move to the
scene, and only files for other programs are in the capture's frame.
"""

from collections.abc import Sequence
from dataclasses import replace

from lumigraph.datasets import Capture, Frame
from lumigraph.render import Similarity


def moved_frames(frames: Sequence[Frame], similarity: Similarity) -> tuple[Frame, ...]:
    """The frames with their cameras moved along."""
    return tuple(replace(frame, camera=similarity.camera(frame.camera)) for frame in frames)


def moved_capture(capture: Capture) -> Capture:
    """The capture in its fit's frame: cameras and points moved, and no similarity left to do."""
    similarity = capture.similarity
    return replace(
        capture,
        train=moved_frames(capture.train, similarity),
        test=moved_frames(capture.test, similarity),
        calibration=moved_frames(capture.calibration, similarity),
        points=similarity.points(capture.points),
        similarity=Similarity.identity(),
    )
