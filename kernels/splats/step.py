"""One step of training, for every backend."""

from lumigraph.kernels.images.protocol import ImageBackend
from lumigraph.kernels.splats.protocol import SplatBackend
from lumigraph.kernels.splats.types import (
    Adam,
    Blocks,
    Filter,
    Moments,
    Parameters,
    Penalty,
    Pull,
    Target,
)


def step(
    kernels: SplatBackend,
    images: ImageBackend,
    splats: Parameters,
    moments: Moments,
    target: Target,
    adam: Adam,
    *,
    degree: int,
    filter: Filter = "classic",
    pull: Pull | None = None,
    curvature: Blocks | None = None,
    penalty: Penalty | None = None,
) -> float:
    """Moves the splats that a photo shows towards it, in place; returns the loss before.

    Anything that can be differentiated may stand between the picture and the loss: its gradient by
    the picture is all that the way back needs.
    """
    records = kernels.project(splats, view=target.view, degree=degree, filter=filter)
    picture = kernels.blend(records, background=target.background)
    loss, gradient = images.loss(picture.features, target.photo, ssim_weight=target.ssim_weight)
    by_records = picture.vjp(gradient, absolute=pull is not None)
    kernels.update(
        splats, moments, by_records, adam, pull=pull, curvature=curvature, penalty=penalty
    )
    return loss.item()
