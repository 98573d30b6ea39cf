"""Fitting Gaussian splats to a capture (3DGS, arXiv 2308.04079, algorithm 1)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lumigraph.datasets import Capture
from lumigraph.kernels import Adam, Moments, Parameters, Target, images_for, splats_for
from lumigraph.kernels.splats.step import step
from lumigraph.recon.splats.density import control_density
from lumigraph.recon.splats.resolution import Photos, downscale_at
from lumigraph.recon.splats.second_order import lm_iteration, lm_photo_step
from lumigraph.recon.splats.state import SplatFit, Step, grow_harmonics, next_photo, report
from lumigraph.render import Camera


def fit_splats(capture: Capture, fit: SplatFit) -> Iterator[Step]:
    """Takes the remaining steps of the plan one at a time, and reports each.

    Raises:
        ValueError: The capture has fewer photos than the fit was started with.
    """
    _check_order(capture, fit)
    generator = torch.Generator()
    generator.set_state(fit.random)
    photos = Photos(capture.train, fit.similarity)
    while fit.step < fit.plan.adam_steps:
        index = next_photo(fit, len(capture.train), generator)
        camera, photo = photos.at(index, downscale_at(fit.levels, fit.step))
        loss = _optimize(fit, camera, photo, capture.background)
        fit.step += 1
        note = control_density(fit, loss, generator)
        if fit.step % fit.plan.degree_interval == 0:
            grow_harmonics(fit)
        fit.random = generator.get_state()
        yield report(fit, loss, note=note)
    lm_step = lm_photo_step if fit.plan.optimizer == "lm" else lm_iteration
    while fit.step < fit.plan.steps:
        yield lm_step(fit, photos, capture.background, generator)


def _check_order(capture: Capture, fit: SplatFit) -> None:
    """Refuses a fit that waits for photos which the capture does not have."""
    frames = len(capture.train)
    if len(fit.order) and not 0 <= int(fit.order.min()) <= int(fit.order.max()) < frames:
        raise ValueError(
            f"{capture.name} has {frames} training photos, but the fit was started with at least "
            f"{int(fit.order.max()) + 1}: resume it with the capture it was started with"
        )


def _optimize(
    fit: SplatFit, camera: Camera, photo: Tensor, background: tuple[float, float, float]
) -> float:
    """One gradient step towards one photo; returns the loss. photo: uint8 [height, width, 3]"""
    plan, splats = fit.plan, fit.splats
    device = splats.means.device
    return step(
        splats_for(device),
        images_for(device),
        Parameters(**splats.tensors),
        Moments(Parameters(**fit.first), Parameters(**fit.second), fit.last),
        Target(camera.view, photo.to(device), background, plan.ssim_weight),
        Adam(plan.rates(fit.step), fit.step + 1, (0.9, plan.second_decay)),
        degree=splats.degree,
        filter=splats.filter,
        pull=fit.pull if fit.step < plan.refine_stop else None,
    )
