"""What was photographed: frames with cameras, and the points that are known of the scene."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lumigraph.render import Camera, Similarity


@dataclass(frozen=True)
class Frame:
    """One photo, without lens distortion, and the camera that took it.

    Attributes:
        name: Unique in its capture: the path of the image relative to the capture's image folder.
        camera: In the capture's own frame and scale, for the image at its true size.
        image: The photo, decoded on demand and cached. () -> uint8 [height, width, 3]
        mask: What to keep of it, if there is a mask. () -> bool [height, width]
        path: Of the file that the photo comes from, if it comes from one.
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
        name: Of the folder it came from.
        train: Frames to learn from, sorted by name.
        test: Frames held out, sorted by name; disjoint from `train`.
        points: Known points of the scene in the capture's frame; may be empty. float64 [points, 3]
        colors: Their colours. uint8 [points, 3]
        up: Direction away from the ground, if the format tells it. float64 [3]
        similarity: From the capture's frame to one in which the scene is of size one about zero.
        notes: What loading found that the user should know, one sentence each.
        background: What lies behind the scene, a colour in [0, 1]: white where photos with
            transparency were laid over white.
        calibration: Frames set aside from those to learn from, sorted by name, to calibrate
            intervals on: neither learned from nor reported on.
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
        """All of them, those to learn from first."""
        return (*self.train, *self.test, *self.calibration)
