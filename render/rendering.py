"""The rendering of a scene."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rendering:
    """The colours, opacities and depths of a scene from one camera.

    Attributes:
        color: Colours in [0, 1] for a scene of valid colours; not clamped. [height, width, 3]
        opacity: The hidden part of the background, from 0 to 1. [height, width]
        depth: Expected distance along the camera's axis, in the scene's units; 0 where the opacity
            is almost 0. [height, width]
        median_depth: Distance along the axis at which half of the light is stopped; 0 where less
            than half is. [height, width]
    """

    color: Tensor
    opacity: Tensor
    depth: Tensor
    median_depth: Tensor
