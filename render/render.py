"""Scenes seen by cameras."""

import torch
from torch import Tensor

from lumigraph.kernels import Look, Parameters, Records, splats_for
from lumigraph.kernels.splats.autograd import draw
from lumigraph.render.camera import Camera
from lumigraph.render.rendering import Rendering
from lumigraph.render.splats import Splats


def render(
    scene: Splats, camera: Camera, *, background: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Rendering:
    """What `camera` sees of `scene`, differentiable to every parameter but through median depth."""
    look = Look(camera.view, scene.degree, scene.filter)
    kernels = splats_for(scene.means.device)
    features, light, median = draw(kernels, Parameters(**scene.tensors), look, background)
    opacity = 1 - light
    # Where almost nothing is seen the quotient would be noise: it becomes 0 there instead.
    depth = torch.where(opacity > 1e-3, features[..., 3] / opacity.clamp_min(1e-3), 0)
    return Rendering(features[..., :3], opacity, depth, median)


@torch.no_grad()
def render_color(
    scene: Splats,
    camera: Camera,
    *,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    stop: Tensor | None = None,
) -> Tensor:
    """The colours of `render` alone, without gradients: the fastest way to a picture.

    Another thread may set `stop`, a uint8 tensor of one element on the CPU, to 1 to have the
    picture given up: then this raises `kernels.Stopped`, unless the picture is finished anyway.

    Returns:
        Colours in [0, 1], or above where splats are brighter. [height, width, 3]
    """
    kernels = splats_for(scene.means.device)
    records = project_splats(scene, camera, stop=stop)
    return kernels.blend(records, background=background, stop=stop).features


@torch.no_grad()
def project_splats(scene: Splats, camera: Camera, *, stop: Tensor | None = None) -> Records:
    """The splats that the camera sees, prepared for blending; `stop` as for `render_color`."""
    return splats_for(scene.means.device).project(
        Parameters(**scene.tensors),
        view=camera.view,
        degree=scene.degree,
        filter=scene.filter,
        stop=stop,
    )
