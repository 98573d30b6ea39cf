"""What a camera sees of a scene."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rendering:
    """An image of a scene, and how far away what it shows is.

    Attributes:
        color: In [0, 1] for a scene of valid colours; not clamped. [height, width, 3]
        opacity: How much of the background is hidden. [height, width]
        depth: Expected distance along the camera's axis of what is seen, in the scene's units;
            0 where nothing is. [height, width]
        median_depth: Distance at which half of the light is stopped; 0 where it never is.
            [height, width]
    """

    color: Tensor
    opacity: Tensor
    depth: Tensor
    median_depth: Tensor
