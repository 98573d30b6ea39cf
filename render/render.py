"""Renders scenes as cameras see them."""

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
    """The scene as the camera sees it.

    All but the median depth is differentiable to every parameter of the scene.
    """
    look = Look(camera.view, scene.degree, scene.filter)
    kernels = splats_for(scene.means.device)
    features, light, median = draw(kernels, Parameters(**scene.tensors), look, background)
    opacity = 1 - light
    # Where the opacity is nearly zero, the quotient would be noise, so the depth is 0 there.
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
    """The colours of `render` without gradients: the fastest way to a picture.

    `stop` is a uint8 tensor of one element on the CPU. Another thread may set it to 1 to stop the
    rendering, which then raises `kernels.Stopped` unless the picture is already finished.

    Returns:
        Colours in [0, 1], or above 1 where splats are brighter. [height, width, 3]
    """
    kernels = splats_for(scene.means.device)
    records = project_splats(scene, camera, stop=stop)
    return kernels.blend(records, background=background, stop=stop).features


@torch.no_grad()
def project_splats(scene: Splats, camera: Camera, *, stop: Tensor | None = None) -> Records:
    """The splats in view, prepared for blending; `stop` is that of `render_color`."""
    return splats_for(scene.means.device).project(
        Parameters(**scene.tensors),
        view=camera.view,
        degree=scene.degree,
        filter=scene.filter,
        stop=stop,
    )
