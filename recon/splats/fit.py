"""Fitting Gaussian splats to a capture (3DGS, arXiv 2308.04079, algorithm 1)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lumigraph.datasets import Capture
from lumigraph.kernels import Adam, Moments, Parameters, Pull, Rates, Target, View, backend_for
from lumigraph.recon.optimizers.levenberg import Try
from lumigraph.recon.optimizers.lm import FIRST_VIEWS, BlockState, Descent
from lumigraph.recon.optimizers.lm_batch import Shot
from lumigraph.recon.optimizers.lm_published import LmState, lm_step, start_lm
from lumigraph.recon.optimizers.residuals import photo_loss
from lumigraph.recon.splats.density import no_pull, refine, reset_opacities
from lumigraph.recon.splats.plan import Plan, checked_changes
from lumigraph.recon.splats.resolution import Photos, downscale_at, size_levels
from lumigraph.recon.splats.start import splats_from_capture
from lumigraph.render import Camera, Similarity, Splats

COOL = 0.1
"""What rates fall to in the last steps: where a fit stirs no more, and still moves."""


@dataclass
class SplatFit:
    """The whole state of a fit: going on from a copy of it gives the same scene to the bit.

    Attributes:
        plan: What the fit was told.
        step: Steps done.
        splats: The scene now, in the frame that `similarity` leads to.
        first: Adam's running means of the gradients, named as in `Splats.tensors`.
        second: Adam's running means of their squares.
        last: The step that last moved each splat. int32 [splats]
        pull: What density control has seen since it last acted.
        similarity: From the capture's frame to the fit's.
        levels: From which step on photos are made how many times smaller. float64 [levels, 2]
        order: Training frames of this epoch that are still to come. int64 [frames left]
        random: State of the random number generator. uint8 [bytes]
        lm: What Levenberg-Marquardt goes on with; None before it begins, and before it begins anew
            with another loss or other harmonics.
    """

    plan: Plan
    step: int
    splats: Splats
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    last: Tensor
    pull: Pull
    similarity: Similarity
    levels: Tensor
    order: Tensor
    random: Tensor
    lm: BlockState | LmState | None = None

    def scene(self) -> Splats:
        """A copy of the scene in the fit's frame, where float32 loses nothing.

        `scene.moved(similarity.inverse())` is it in the capture's frame, and
        `similarity.camera(camera)` a camera of the capture that looks at it.
        """
        return self.splats[torch.arange(len(self.splats))]


@dataclass(frozen=True)
class Step:
    """What one step of a fit did.

    Attributes:
        step: Steps done, this one included.
        steps: Steps in all.
        loss: Of this step's view.
        splats: Splats there are now.
        degree: Of the harmonics in use.
        fit: The live state; it does not change until the next step is asked for.
        tried: What the iteration of Levenberg-Marquardt came to that this step was, or ended.
        note: A sentence for whoever looks on, if there is something to say.
    """

    step: int
    steps: int
    loss: float
    splats: int
    degree: int
    fit: SplatFit = field(repr=False)
    tried: Try | None = None
    note: str | None = None


def start_fit(
    capture: Capture, plan: Plan, *, seed: int = 0, device: torch.device | str = "cpu"
) -> SplatFit:
    """The state before the first step."""
    if not capture.train:
        raise ValueError(f"{capture.name} has no training photos: choose fewer test photos")
    generator = torch.Generator().manual_seed(seed)
    splats = splats_from_capture(capture, plan, generator).to(device)
    tensors = splats.tensors
    return SplatFit(
        plan=plan,
        step=0,
        splats=splats,
        first={name: torch.zeros_like(value) for name, value in tensors.items()},
        second={name: torch.zeros_like(value) for name, value in tensors.items()},
        last=torch.zeros(len(splats), dtype=torch.int32, device=device),
        pull=no_pull(len(splats), device),
        similarity=capture.similarity,
        levels=size_levels(capture, plan),
        order=torch.empty(0, dtype=torch.int64),
        random=generator.get_state(),
    )


def fit_splats(capture: Capture, fit: SplatFit) -> Iterator[Step]:
    """Takes the steps of the plan that are left, one at a time, and tells of each.

    Raises:
        ValueError: A photo whose turn it is is not in the capture.
    """
    if len(fit.order) and not 0 <= int(fit.order.min()) <= int(fit.order.max()) < len(
        capture.train
    ):
        raise ValueError(
            f"{capture.name} has {len(capture.train)} photos to learn from, but the fit was begun "
            f"with at least {int(fit.order.max()) + 1}: go on with the capture it was begun with"
        )
    generator = torch.Generator()
    generator.set_state(fit.random)
    photos = Photos(capture.train, fit.similarity)
    while fit.step < fit.plan.adam_steps:
        index = _next_frame(capture, fit, generator)
        camera, photo = photos.at(index, downscale_at(fit.levels, fit.step))
        loss = _optimize(fit, camera, photo, capture.background)
        fit.step += 1
        _control_density(fit, generator)
        if fit.step % fit.plan.degree_interval == 0:
            _grow_harmonics(fit)
        fit.random = generator.get_state()
        yield Step(fit.step, fit.plan.steps, loss, len(fit.splats), fit.splats.degree, fit)
    while fit.step < fit.plan.steps:
        if fit.plan.optimizer == "lm":
            yield _descend(fit, capture, photos, generator)
        else:
            yield _levenberg_marquardt(fit, _Shots(photos), generator, capture.background)


def _descend(fit: SplatFit, capture: Capture, photos: Photos, generator: torch.Generator) -> Step:
    """One step of "lm"; the first one, too, finds the curvature it begins with."""
    splats = fit.splats

    def target(index: int) -> Target:
        camera, photo = photos.at(index, downscale_at(fit.levels, fit.step))
        photo = photo.to(splats.means.device)
        return Target(camera.view, photo, capture.background, fit.plan.ssim_weight)

    descent = Descent(
        Parameters(**splats.tensors),
        Moments(Parameters(**fit.first), Parameters(**fit.second), fit.last),
        splats.degree,
        splats.filter,
    )
    if not isinstance(fit.lm, BlockState):
        count, every = min(FIRST_VIEWS, len(photos.frames)), len(photos.frames)
        fit.lm = descent.start([target(i * every // count) for i in range(count)])
    index = _next_frame(capture, fit, generator)
    rates = learning_rates(fit.plan, fit.step)
    last = fit.step + 1 == fit.plan.steps
    loss, tried = descent.step(fit.lm, target(index), rates, fit.step + 1, last=last)
    fit.step += 1
    if fit.step % fit.plan.degree_interval == 0:
        _grow_harmonics(fit)
    fit.random = generator.get_state()
    return Step(fit.step, fit.plan.steps, loss, len(splats), fit.splats.degree, fit, tried=tried)


class _Shots(Sequence[Shot]):
    """Cameras in the fit's frame and their photos at full size, read when they are asked for."""

    def __init__(self, photos: Photos) -> None:
        self._photos = photos

    def __len__(self) -> int:
        return len(self._photos.frames)

    def __getitem__(self, index: int) -> Shot:  # type: ignore[override]  # no slices
        camera, photo = self._photos.at(index, 1.0)
        return camera.view, photo


def _levenberg_marquardt(
    fit: SplatFit,
    shots: _Shots,
    generator: torch.Generator,
    background: tuple[float, float, float],
) -> Step:
    """One iteration of 3DGS-LM; the last one, too, if there is nothing more to gain by others."""
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
    return Step(
        step=fit.step,
        steps=fit.plan.steps,
        loss=_loss(fit, *shots[index], background),
        splats=len(fit.splats),
        degree=fit.splats.degree,
        fit=fit,
        tried=tried,
        note=notes[0] if notes else None,
    )


def _loss(
    fit: SplatFit, view: View, photo: Tensor, background: tuple[float, float, float]
) -> float:
    """What a step of Adam would tell of a view."""
    backend = backend_for(fit.splats.means.device)
    options = {"degree": fit.splats.degree, "filter": fit.splats.filter, "background": background}
    image, _ = backend.paint(Parameters(**fit.splats.tensors), view=view, **options)
    return photo_loss(backend, image, photo, fit.plan.ssim_weight)


def change_plan(fit: SplatFit, **values: Any) -> None:
    """Changes what the fit has yet to do, between two of its steps.

    A lower `splat_limit` than there are splats only ends their growth. Harmonics beyond a lower
    `degree` are gone at once, with their moments; to a higher one they grow at their interval.

    Args:
        fit: Is changed.
        values: Of `LIVE`.

    Raises:
        ValueError: As `checked_changes` does; nothing is changed then.
    """
    before, fit.plan = fit.plan, replace(fit.plan, **checked_changes(values))
    if fit.plan.ssim_weight != before.ssim_weight:
        _forget_curvature(fit)
    kept = (fit.plan.degree + 1) ** 2 - 1
    if fit.splats.rest.shape[1] > kept:
        fit.splats = replace(fit.splats, rest=fit.splats.rest[:, :kept].clone())
        for moments in (fit.first, fit.second):
            moments["rest"] = moments["rest"][:, :kept].clone()
        _forget_curvature(fit)


def _next_frame(capture: Capture, fit: SplatFit, generator: torch.Generator) -> int:
    """Every training frame once, in an order drawn anew, and again."""
    if not len(fit.order):
        fit.order = torch.randperm(len(capture.train), generator=generator)
    index, fit.order = int(fit.order[0]), fit.order[1:]
    return index


def _optimize(
    fit: SplatFit, camera: Camera, photo: Tensor, background: tuple[float, float, float]
) -> float:
    """One gradient step towards one photo; returns the loss. photo: uint8 [height, width, 3]"""
    plan, splats = fit.plan, fit.splats
    return backend_for(splats.means.device).descend(
        Parameters(**splats.tensors),
        Moments(Parameters(**fit.first), Parameters(**fit.second), fit.last),
        Target(camera.view, photo.to(splats.means.device), background, plan.ssim_weight),
        Adam(learning_rates(plan, fit.step), fit.step + 1, (0.9, plan.second_decay)),
        degree=splats.degree,
        filter=splats.filter,
        pull=fit.pull if fit.step < plan.refine_stop else None,
    )


def learning_rates(plan: Plan, step: int) -> Rates:
    """Adam's rate for each parameter; that of the means falls all the way, the others at last."""
    steps = plan.photo_steps
    fall = (plan.means_rate_final / plan.means_rate) ** (step / steps)
    cool = 1.0
    if plan.cooldown_steps:
        cool = COOL ** max(0.0, 1 - (steps - step) / plan.cooldown_steps)
    return Rates(
        means=plan.means_rate * fall,
        quaternions=plan.rotation_rate * cool,
        log_scales=plan.scale_rate * cool,
        opacity_logits=plan.opacity_rate * cool,
        base=plan.base_rate * cool,
        rest=plan.rest_rate * cool,
    )


def _grow_harmonics(fit: SplatFit) -> None:
    """Adds a degree to the harmonics, until they have the plan's: colours first, then shine."""
    degree = fit.splats.degree + 1
    if degree > fit.plan.degree:
        return

    def grown(rest: Tensor) -> Tensor:
        return functional.pad(rest, (0, 0, 0, (degree + 1) ** 2 - 1 - rest.shape[1]))

    fit.splats = replace(fit.splats, rest=grown(fit.splats.rest))
    for moments in (fit.first, fit.second):
        moments["rest"] = grown(moments["rest"])
    _forget_curvature(fit)


def _forget_curvature(fit: SplatFit) -> None:
    """It is that of the loss or the harmonics there were."""
    if isinstance(fit.lm, BlockState):
        fit.lm = None


def _control_density(fit: SplatFit, generator: torch.Generator) -> None:
    """Grows and prunes splats when the plan says so."""
    plan, step = fit.plan, fit.step
    # What is new in the end would stay as it was born.
    if step > plan.refine_stop or step == plan.photo_steps:
        return
    if step >= plan.refine_start and step % plan.refine_interval == 0:
        refine(fit, generator)
    if step % plan.opacity_reset_interval == 0 and step < plan.refine_stop:
        reset_opacities(fit)
