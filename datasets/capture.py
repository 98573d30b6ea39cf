"""Photos with cameras, and the known points of the scene they show."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lumigraph.render import Camera, Similarity


@dataclass(frozen=True)
class Frame:
    """One photo, without lens distortion, and the camera that took it.

    Attributes:
        name: The path of the image relative to the capture's image folder, unique in its capture.
        camera: The camera in the capture's own frame and scale, for the image at its full size.
        image: Returns the photo, which is decoded when needed and cached. uint8 [height, width, 3]
        mask: Returns the pixels to use, or is None if all are used. bool [height, width]
        path: The file that the photo comes from, or None if there is no file.
    """

    name: str
    camera: Camera
    image: Callable[[], Tensor] = field(repr=False)
    mask: Callable[[], Tensor] | None = field(default=None, repr=False)
    path: Path | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Capture:
    """Photos with known cameras.

    Attributes:
        name: The name of the capture's folder, without characters that cannot be shown.
        train: Training views, sorted by name.
        test: Test views, sorted by name; none of them is a training view.
        points: Known points of the scene in the capture's frame; may be empty. float64 [points, 3]
        colors: The colours of the points. uint8 [points, 3]
        up: Direction away from the ground, or None if the format does not tell. float64 [3]
        similarity: From the capture's frame to one with the scene's centre at zero and size one.
        notes: Sentences that tell the user what loading found.
        background: The colour behind the scene, in [0, 1]: white if photos with transparency
            were laid over white.
        calibration: Views to calibrate intervals on, sorted by name; neither training nor test
            views.
    """

    name: str
    train: tuple[Frame, ...]
    test: tuple[Frame, ...]
    points: Tensor
    colors: Tensor
    similarity: Similarity
    up: Tensor | None = None
    notes: tuple[str, ...] = ()
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    calibration: tuple[Frame, ...] = ()

    @property
    def frames(self) -> tuple[Frame, ...]:
        """All views: training views, then test views, then calibration views."""
        return (*self.train, *self.test, *self.calibration)
