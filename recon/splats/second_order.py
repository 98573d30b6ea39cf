"""The last part of a fit by Levenberg-Marquardt: "lm" photo by photo, or 3DGS-LM in batches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lumigraph.kernels import Moments, Parameters, Target, View, splats_for
from lumigraph.recon.optimizers.lm import FIRST_VIEWS, BlockState, Descent
from lumigraph.recon.optimizers.lm_batch import Shot
from lumigraph.recon.optimizers.lm_published import LmState, lm_step, start_lm
from lumigraph.recon.optimizers.residuals import photo_loss
from lumigraph.recon.splats.density import remove_unsound
from lumigraph.recon.splats.resolution import Photos, downscale_at
from lumigraph.recon.splats.state import SplatFit, Step, grow_harmonics, next_photo, report

Color = tuple[float, float, float]


def lm_photo_step(
    fit: SplatFit, photos: Photos, background: Color, generator: torch.Generator
) -> Step:
    """One step of "lm" towards one photo; the first one also finds the curvature."""
    splats = fit.splats

    def target(index: int) -> Target:
        camera, photo = photos.at(index, downscale_at(fit.levels, fit.step))
        photo = photo.to(splats.means.device)
        return Target(camera.view, photo, background, fit.plan.ssim_weight)

    descent = Descent(
        Parameters(**splats.tensors),
        Moments(Parameters(**fit.first), Parameters(**fit.second), fit.last),
        splats.degree,
        splats.filter,
    )
    count = len(photos.frames)
    if not isinstance(fit.lm, BlockState):
        views = min(FIRST_VIEWS, count)
        fit.lm = descent.start([target(i * count // views) for i in range(views)])
    index = next_photo(fit, count, generator)
    rates = fit.plan.rates(fit.step)
    last = fit.step + 1 == fit.plan.steps
    loss, tried = descent.step(fit.lm, target(index), rates, fit.step + 1, last=last)
    fit.step += 1
    if fit.step % fit.plan.degree_interval == 0:
        grow_harmonics(fit)
    fit.random = generator.get_state()
    note = remove_unsound(fit) if last else None
    return report(fit, loss, tried, note)


def lm_iteration(
    fit: SplatFit, photos: Photos, background: Color, generator: torch.Generator
) -> Step:
    """One iteration of 3DGS-LM; it is also the last one if more would gain nothing."""
    shots = _Shots(photos)
    if not isinstance(fit.lm, LmState):
        fit.lm = start_lm(seed=int(torch.randint(1 << 31, (1,), generator=generator)))
    notes: list[str] = []
    tried = lm_step(
        Parameters(**fit.splats.tensors),
        fit.lm,
        shots,
        degree=fit.splats.degree,
        filter=fit.splats.filter,
        background=background,
        told=notes.append,
    )
    fit.step = fit.plan.steps if fit.lm.ended else fit.step + 1
    fit.random = generator.get_state()
    index = int(torch.randint(len(shots), (1,), generator=torch.Generator().manual_seed(fit.step)))
    loss = _loss(fit, *shots[index], background)
    if fit.step == fit.plan.steps and (removed := remove_unsound(fit)):
        notes.append(removed)
    return report(fit, loss, tried, ". ".join(notes) or None)


class _Shots(Sequence[Shot]):
    """Cameras in the fit's frame and their photos at full size, read when they are asked for."""

    def __init__(self, photos: Photos) -> None:
        self._photos = photos

    def __len__(self) -> int:
        return len(self._photos.frames)

    def __getitem__(self, index: int) -> Shot:  # type: ignore[override]  # no slices
        camera, photo = self._photos.at(index, 1.0)
        return camera.view, photo


def _loss(fit: SplatFit, view: View, photo: Tensor, background: Color) -> float:
    """The loss of a photo, as a step of Adam would report it."""
    kernels, splats = splats_for(fit.splats.means.device), Parameters(**fit.splats.tensors)
    records = kernels.project(splats, view=view, degree=fit.splats.degree, filter=fit.splats.filter)
    picture = kernels.blend(records, background=background)
    return photo_loss(picture.features, photo, fit.plan.ssim_weight)
