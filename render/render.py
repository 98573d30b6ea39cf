"""Scenes seen by cameras."""

import torch
from torch import Tensor

from lumigraph.kernels import Footprints, Parameters, backend_for
from lumigraph.render.camera import Camera
from lumigraph.render.rendering import Rendering
from lumigraph.render.splats import Splats


def render(
    scene: Splats, camera: Camera, *, background: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Rendering:
    """What `camera` sees of `scene`, differentiable to every parameter but through median depth."""
    footprints, colors = project_splats(scene, camera)
    raster = backend_for(scene.means.device).rasterize(
        footprints,
        torch.cat([colors, footprints.depths[:, None]], dim=1),
        width=camera.width,
        height=camera.height,
        background=(*background, 0.0),
    )
    opacity = 1 - raster.transmittance
    # Where almost nothing is seen the quotient would be noise: it becomes 0 there instead.
    depth = torch.where(opacity > 1e-3, raster.features[..., 3] / opacity.clamp_min(1e-3), 0)
    index = raster.median.long()
    median = (
        torch.where(index >= 0, footprints.depths[index.clamp_min(0)], 0) if len(scene) else depth
    )
    return Rendering(raster.features[..., :3], opacity, depth, median.detach())


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
    color, _ = backend_for(scene.means.device).paint(
        Parameters(**scene.tensors),
        view=camera.view,
        degree=scene.degree,
        filter=scene.filter,
        background=background,
        stop=stop,
    )
    return color


def project_splats(scene: Splats, camera: Camera) -> tuple[Footprints, Tensor]:
    """The splats on the camera's image, and the colours they show to it. [splats, 3]

    Differentiable to every parameter.
    """
    backend = backend_for(scene.means.device)
    footprints = backend.project(
        scene.means,
        scene.quaternions,
        scene.log_scales,
        scene.opacity_logits,
        view=camera.view,
        filter=scene.filter,
    )
    colors = backend.harmonics(
        scene.means,
        scene.base,
        scene.rest,
        view=camera.view,
        degree=scene.degree,
        visible=footprints.extents[:, 0] > 0,
    )
    return footprints, colors
