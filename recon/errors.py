"""Which splats show what is wrong: a few photos compared with the scene, splat by splat.

The idea is that of FastGS (arXiv 2511.04283): a splat that several views blame deserves
more splats, or none. There a splat is blamed for the wrong pixels its footprint holds; here for
the part it has in each of them, its blend weight, which backward gives exactly.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lumigraph.kernels import backend_for
from lumigraph.render import Camera, Splats
from lumigraph.render.render import project_splats


@dataclass(frozen=True)
class Shown:
    """What some views show of each splat, in pixels: its blend weights summed.

    Attributes:
        pixels: Over all pixels of all views. [splats]
        wrong: Over the pixels whose error is high. [splats]
        most: Over the pixels of the one view that shows most of it. [splats]
        views: Views that the splat is in. [splats]
    """

    pixels: Tensor
    wrong: Tensor
    most: Tensor
    views: Tensor


def shown(
    splats: Splats,
    views: Iterable[tuple[Camera, Tensor]],
    background: tuple[float, float, float],
    level: float,
) -> Shown:
    """What the views show of each splat, and how much of that is wrong.

    Args:
        splats: The scene.
        views: Cameras in its frame, with photos. uint8 [height, width, 3]
        background: Behind the scene.
        level: A pixel is wrong where its error is so many times the mean of its view.
    """
    pixels, wrong, most, seen = (torch.zeros_like(splats.opacity_logits) for _ in range(4))
    for camera, photo in views:
        weights, marked, extents = _one_view(splats, camera, photo, background, level)
        pixels += weights
        wrong += marked
        most = torch.maximum(most, weights)
        seen += extents[:, 0] > 0
    return Shown(pixels, wrong, most, seen)


def _one_view(
    splats: Splats,
    camera: Camera,
    photo: Tensor,
    background: tuple[float, float, float],
    level: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Blend weights summed over all pixels and over the wrong ones, and extents. [splats]

    The image is linear in the colours, so their gradient is the weights times the gradient of the
    image: ones in one channel and the mask of wrong pixels in another give both sums at once.
    """
    backend = backend_for(splats.means.device)
    with torch.no_grad():
        footprints, colors = project_splats(splats, camera)
    with torch.enable_grad():
        image = backend.rasterize(
            footprints,
            colors.requires_grad_(),
            width=camera.width,
            height=camera.height,
            background=background,
            median=False,
        ).features
    target = photo.to(image.device).float().div_(255)
    # Not torch's mean, whose last bits depend on the number of threads.
    mean = float(backend.l1(image.detach(), target))
    red, green, blue = (image.detach() - target).abs_().unbind(-1)
    high = (red + green + blue) > 3 * level * mean
    ones = torch.ones_like(red)
    (sums,) = torch.autograd.grad(
        image, colors, torch.stack([ones, high.to(ones.dtype), torch.zeros_like(ones)], -1)
    )
    return sums[:, 0], sums[:, 1], footprints.extents
