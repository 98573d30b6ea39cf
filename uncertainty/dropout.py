"""PH-Dropout: how much a picture changes when splats are left out by chance.

A scene that many photos agree on is redundant: without one splat in fifty it looks the same. A part
that changes rests on few splats, which few photos have confirmed (PH-Dropout, arXiv 2410.05468).
No training is needed. A mask is one random choice of the splats that are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lumigraph.kernels import splats_for
from lumigraph.render import Camera, Splats, render
from lumigraph.render.render import project_splats

Color = tuple[float, float, float]
BLACK: Color = (0.0, 0.0, 0.0)

SEEN = 1e-3
"""Where less of a pixel than this is covered, its depth would be noise and is set to 0."""


@dataclass(frozen=True)
class Spread:
    """Expectation and standard deviation of a picture over all masks, or over a sample of them.

    Attributes:
        mean: Expected colours. [height, width, 3]
        std: Standard deviation of each channel. [height, width, 3]
        opacity: Expected opacity. [height, width]
        opacity_std: Standard deviation of the opacity. [height, width]
        depth: Expected depth along the camera's axis; 0 where nothing is seen. [height, width]
        depth_std: Standard deviation of the depth. [height, width]
    """

    mean: Tensor
    std: Tensor
    opacity: Tensor
    opacity_std: Tensor
    depth: Tensor
    depth_std: Tensor


def check_rate(rate: float) -> None:
    """Raises ValueError unless the rate is in [0, 1)."""
    if not 0 <= rate < 1:
        raise ValueError(
            f"A drop rate is at least 0 and less than 1, but this is {rate}: give the share of the "
            "splats to leave out"
        )


def thin(scene: Splats, rate: float, generator: torch.Generator) -> Splats:
    """The scene without a share `rate` of its splats, each left out independently.

    Opacities are not scaled up in return (PH-Dropout's own choice). From one state of the generator
    a higher rate leaves out all that a lower one does, and more, so rates can be compared with
    nested masks. The numbers are drawn on the CPU, so all devices leave out the same splats.
    """
    check_rate(rate)
    kept = torch.rand(len(scene), generator=generator) >= rate
    return scene[kept.to(scene.means.device)]


def sampled(
    scene: Splats,
    camera: Camera,
    rate: float,
    *,
    trials: int,
    generator: torch.Generator,
    background: Color = BLACK,
) -> Spread:
    """PH-Dropout as published: mean and standard deviation of `trials` thinned pictures.

    The standard deviation is the root of the unbiased variance.

    Raises ValueError if the rate is out of range, or for fewer than two trials.
    """
    check_rate(rate)
    if trials < 2:
        raise ValueError(f"A standard deviation takes at least 2 trials, but trials is {trials}")
    mean = squares = None
    for trial in range(1, trials + 1):
        seen = render(thin(scene, rate, generator), camera, background=background)
        picture = torch.cat([seen.color, seen.opacity[..., None], seen.depth[..., None]], dim=-1)
        if mean is None or squares is None:
            mean, squares = torch.zeros_like(picture), torch.zeros_like(picture)
        step = picture - mean
        mean = mean + step / trial
        squares = squares + step * (picture - mean)
    assert mean is not None
    assert squares is not None
    std = (squares / (trials - 1)).sqrt()
    return Spread(mean[..., :3], std[..., :3], mean[..., 3], std[..., 3], mean[..., 4], std[..., 4])


def exact(
    scene: Splats,
    camera: Camera,
    rate: float,
    *,
    background: Color = BLACK,
    shares: Tensor | None = None,
) -> Spread:
    """The limit of `sampled` for more and more trials, in closed form and in one pass.

    Colours and opacity are exact. Depth is a quotient D / A of two sums: its expectation is taken
    as E[D] / E[A], and its variance as that of D - (E[D] / E[A]) A over E[A]^2 (delta method).

    Args:
        scene: The splats.
        camera: The camera.
        rate: The share of the splats that is left out.
        background: The colour behind the splats.
        shares: If given, each splat's share of the colours' variance is added to it, summed over
            pixels and channels. float32 [splats]
    """
    check_rate(rate)
    kernels, records = splats_for(scene.means.device), project_splats(scene, camera)
    color = kernels.moments(records, rate=rate, background=background, shares=shares)
    depths = records.tensors().depths[:, None]
    opacity = kernels.moments(records, rate=rate, features=torch.ones_like(depths))
    depth_sum = kernels.moments(records, rate=rate, features=depths).mean[..., 0]
    covered = opacity.mean[..., 0]
    depth = torch.where(covered > SEEN, depth_sum / covered.clamp_min(SEEN), 0)
    around = kernels.moments(records, rate=rate, features=depths, origin=depth[..., None])
    depth_std = around.variance[..., 0].sqrt() / covered.clamp_min(SEEN)
    return Spread(
        color.mean,
        color.variance.sqrt(),
        covered,
        opacity.variance[..., 0].sqrt(),
        depth,
        torch.where(covered > SEEN, depth_std, 0),
    )


def exact_color(
    scene: Splats,
    camera: Camera,
    rate: float,
    *,
    background: Color = BLACK,
    shares: Tensor | None = None,
    stop: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the colours as `exact` has them, without depth: faster.

    Args:
        scene: The splats.
        camera: The camera.
        rate: The share of the splats that is left out.
        background: The colour behind the splats.
        shares: As in `exact`.
        stop: As in `render_color`.

    Returns:
        Both [height, width, 3], without gradients.
    """
    check_rate(rate)
    records = project_splats(scene, camera, stop=stop)
    moments = splats_for(scene.means.device).moments(
        records, rate=rate, background=background, shares=shares, stop=stop
    )
    return moments.mean, moments.variance.sqrt_()


def confidence(
    scene: Splats, cameras: Sequence[Camera], rate: float, *, background: Color = BLACK
) -> Tensor:
    """How far each splat can be trusted, from 0 to 1, by how much its absence changes the views.

    v is a splat's share of the variance in all views, over the root of the light that it sends into
    them. (By the share alone large splats would be trusted least, and by the share per unit of
    light faint ones.) The confidence is 1 / (1 + v / median v): 0.5 is usual in the scene, and a
    splat that no view sees has 0. Splats that float before the cameras have the lowest.

    Args:
        scene: The splats.
        cameras: The cameras of the training photos.
        rate: The share of the splats that is left out; not 0.
        background: The colour behind the splats.

    Returns:
        float32 [splats]
    """
    check_rate(rate)
    if rate == 0:
        raise ValueError("At a drop rate of 0 nothing varies: give a rate above 0")
    shares = torch.zeros(len(scene), dtype=torch.float32, device=scene.means.device)
    light = torch.zeros_like(shares)
    for camera in cameras:
        exact_color(scene, camera, rate, background=background, shares=shares)
        light += light_of(scene, camera)
    seen = light > 0
    variance = shares / light.clamp_min(torch.finfo(light.dtype).tiny).sqrt()
    if not seen.any():
        return torch.zeros_like(variance)
    usual = variance[seen].median().clamp_min(torch.finfo(light.dtype).tiny)
    return torch.where(seen, 1 / (1 + variance / usual), 0)


def light_of(scene: Splats, camera: Camera) -> Tensor:
    """The sum of each splat's blending weights over the picture, in pixels. [splats]"""
    records = project_splats(scene, camera)
    index = records.tensors().index.long()
    ones = torch.ones(len(index), 1, device=index.device)
    picture = splats_for(ones.device).blend(records, features=ones)
    by_records = picture.vjp(torch.ones_like(picture.features))
    assert by_records.features is not None
    return ones.new_zeros(len(scene)).index_copy(0, index, by_records.features[:, 0])
