"""The state of a fit of splats, what each of its steps reports, and changes to it between steps."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lumigraph.kernels import Pull
from lumigraph.recon.optimizers.levenberg import Try
from lumigraph.recon.optimizers.lm import BlockState
from lumigraph.recon.optimizers.lm_published import LmState
from lumigraph.recon.splats.plan import Plan, checked_changes
from lumigraph.recon.splats.sound import sound
from lumigraph.render import Similarity, Splats


@dataclass
class SplatFit:
    """The whole state of a fit: continuing from a copy gives the same scene bit for bit.

    Attributes:
        plan: The numbers that control the fit.
        step: Steps done.
        splats: The scene now, in the fit's frame.
        first: Adam's running means of the gradients, named as in `Splats.tensors`.
        second: Adam's running means of the squared gradients.
        last: The step that last moved each splat. int32 [splats]
        pull: Image gradients that density control has gathered since it last acted.
        similarity: Maps the capture's frame to the fit's.
        levels: Rows of (step, downscale): from that step on photos are made so much smaller.
            float64 [levels, 2]
        order: Training photos of this epoch that are still to come. int64 [photos left]
        random: State of the random number generator. uint8 [bytes]
        lm: State of Levenberg-Marquardt; None until it begins. A change of the loss or of the
            harmonics makes it begin again.
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
        """A copy of the splats that are sound, in the fit's frame, where float32 is precise enough.

        `scene.moved(similarity.inverse())` moves it to the capture's frame, and
        `similarity.camera(camera)` moves a camera of the capture to the fit's frame.
        """
        return self.splats[sound(self.splats)]


@dataclass(frozen=True)
class Step:
    """The report of one step of a fit.

    Attributes:
        step: Steps done, this one included.
        steps: Steps of the whole fit.
        loss: The loss of this step's photo, before the step.
        splats: The number of splats after the step.
        degree: The degree of the harmonics in use.
        fit: The live state; it does not change until the next step is asked for.
        tried: The outcome of the iteration of Levenberg-Marquardt that ended with this step.
        note: A sentence for the user, if something needs attention.
    """

    step: int
    steps: int
    loss: float
    splats: int
    degree: int
    fit: SplatFit = field(repr=False)
    tried: Try | None = None
    note: str | None = None


def report(fit: SplatFit, loss: float, tried: Try | None = None, note: str | None = None) -> Step:
    """The report of the step that the fit has just done."""
    plan, splats = fit.plan, fit.splats
    return Step(fit.step, plan.steps, loss, len(splats), splats.degree, fit, tried, note)


def no_pull(count: int, device: torch.device | str = "cpu") -> Pull:
    """Zero image gradients for `count` splats."""
    return Pull(torch.zeros(count, device=device), torch.zeros(count, device=device))


def next_photo(fit: SplatFit, photos: int, generator: torch.Generator) -> int:
    """The index of the next training photo: each photo once per epoch, in random order."""
    if not len(fit.order):
        fit.order = torch.randperm(photos, generator=generator)
    index, fit.order = int(fit.order[0]), fit.order[1:]
    return index


def change_plan(fit: SplatFit, **values: Any) -> None:
    """Changes the plan for the steps that are left; call it between two steps.

    A `splat_limit` below the number of splats stops their growth and removes none. A lower `degree`
    removes the higher harmonics and their moments at once; a higher one lets the harmonics grow at
    the plan's interval.

    Args:
        fit: Is changed.
        values: New values of the names in `LIVE`.

    Raises:
        ValueError: As from `checked_changes`; nothing is changed then.
    """
    before, fit.plan = fit.plan, replace(fit.plan, **checked_changes(values))
    if fit.plan.ssim_weight != before.ssim_weight:
        forget_curvature(fit)
    kept = (fit.plan.degree + 1) ** 2 - 1
    if fit.splats.rest.shape[1] > kept:
        fit.splats = replace(fit.splats, rest=fit.splats.rest[:, :kept].clone())
        for moments in (fit.first, fit.second):
            moments["rest"] = moments["rest"][:, :kept].clone()
        forget_curvature(fit)


def grow_harmonics(fit: SplatFit) -> None:
    """Raises the degree of the harmonics by one, up to the plan's."""
    degree = fit.splats.degree + 1
    if degree > fit.plan.degree:
        return

    def grown(rest: Tensor) -> Tensor:
        return functional.pad(rest, (0, 0, 0, (degree + 1) ** 2 - 1 - rest.shape[1]))

    fit.splats = replace(fit.splats, rest=grown(fit.splats.rest))
    for moments in (fit.first, fit.second):
        moments["rest"] = grown(moments["rest"])
    forget_curvature(fit)


def forget_curvature(fit: SplatFit) -> None:
    """Drops the curvature of "lm", which belongs to the loss, harmonics and splats of before."""
    if isinstance(fit.lm, BlockState):
        fit.lm = None
