"""Fitting Gaussian splats to a capture (3DGS, arXiv 2308.04079, algorithm 1)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from lumigraph.datasets import Capture, Frame
from lumigraph.kernels import Footprints, backend_for
from lumigraph.recon.density import Statistics, refine, reset_opacities
from lumigraph.recon.initial import splats_from_capture
from lumigraph.recon.plan import Plan
from lumigraph.render import Similarity, Splats
from lumigraph.render.render import project_splats


@dataclass
class SplatFit:
    """The whole state of a fit: going on from a copy of it gives the same scene to the bit.

    Attributes:
        plan: What the fit was told.
        step: Steps done.
        splats: The scene now, in the frame that `similarity` leads to.
        first: Adam's running means of the gradients, named as in `Splats.tensors`.
        second: Adam's running means of their squares.
        statistics: What density control has seen since it last acted.
        similarity: From the capture's frame to the fit's.
        order: Training frames of this epoch that are still to come. int64 [frames left]
        random: State of the random number generator. uint8 [bytes]
    """

    plan: Plan
    step: int
    splats: Splats
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    statistics: Statistics
    similarity: Similarity
    order: Tensor
    random: Tensor

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
    """

    step: int
    steps: int
    loss: float
    splats: int
    degree: int
    fit: SplatFit = field(repr=False)


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
        statistics=Statistics.empty(len(splats), device),
        similarity=capture.similarity,
        order=torch.empty(0, dtype=torch.int64),
        random=generator.get_state(),
    )


def fit_splats(capture: Capture, fit: SplatFit) -> Iterator[Step]:
    """Takes the steps of the plan that are left, one at a time, and tells of each.

    Raises:
        ValueError: The fit was begun with another capture.
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
    while fit.step < fit.plan.steps:
        frame = _next_frame(capture, fit, generator)
        loss = _optimize(fit, frame, capture.background)
        fit.step += 1
        _control_density(fit, generator)
        if fit.step % fit.plan.degree_interval == 0:
            _grow_harmonics(fit)
        fit.random = generator.get_state()
        yield Step(fit.step, fit.plan.steps, loss, len(fit.splats), fit.splats.degree, fit)


def _next_frame(capture: Capture, fit: SplatFit, generator: torch.Generator) -> Frame:
    """Every training frame once in random order, and again."""
    if not len(fit.order):
        fit.order = torch.randperm(len(capture.train), generator=generator)
    index, fit.order = int(fit.order[0]), fit.order[1:]
    return capture.train[index]


def _optimize(fit: SplatFit, frame: Frame, background: tuple[float, float, float]) -> float:
    """One gradient step towards one photo; returns the loss."""
    plan, splats = fit.plan, fit.splats
    camera = fit.similarity.camera(frame.camera)
    backend = backend_for(splats.means.device)
    parameters = {name: value.requires_grad_() for name, value in splats.tensors.items()}
    absolute = torch.zeros_like(splats.means[:, :2]) if _is_watching(fit) else None

    footprints, colors = project_splats(splats, camera)
    raster = backend.rasterize(
        footprints,
        colors,
        width=camera.width,
        height=camera.height,
        background=background,
        absolute_gradients=absolute,
        median=False,
    )
    photo = frame.image().to(splats.means.device).float().div_(255)
    loss = (1 - plan.ssim_weight) * backend.l1(raster.features, photo)
    loss = loss + plan.ssim_weight * (1 - backend.ssim(raster.features, photo))
    loss.backward()

    if absolute is not None:
        fit.statistics.add(absolute, footprints.extents, camera.width, camera.height)
    _adam(fit, parameters, footprints)
    return loss.item()


def _adam(fit: SplatFit, parameters: dict[str, Tensor], footprints: Footprints) -> None:
    """Moves every parameter along its gradient and forgets the gradient."""
    backend = backend_for(footprints.means.device)
    for name, rate in learning_rates(fit.plan, fit.step).items():
        parameter = parameters[name].requires_grad_(False)
        assert parameter.grad is not None
        backend.adam(
            parameter,
            parameter.grad,
            fit.first[name],
            fit.second[name],
            step=fit.step + 1,
            learning_rate=rate,
        )
        parameter.grad = None


def learning_rates(plan: Plan, step: int) -> dict[str, float]:
    """Adam's rate for each parameter; that of the means falls exponentially."""
    ratio = plan.means_rate_final / plan.means_rate
    return {
        "means": plan.means_rate * ratio ** (step / plan.steps),
        "quaternions": plan.rotation_rate,
        "log_scales": plan.scale_rate,
        "opacity_logits": plan.opacity_rate,
        "base": plan.base_rate,
        "rest": plan.rest_rate,
    }


def _is_watching(fit: SplatFit) -> bool:
    return fit.step < fit.plan.refine_stop


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


def _control_density(fit: SplatFit, generator: torch.Generator) -> None:
    """Grows and prunes splats when the plan says so."""
    plan, step = fit.plan, fit.step
    if step > plan.refine_stop or step == plan.steps:
        return
    if step >= plan.refine_start and step % plan.refine_interval == 0:
        refine(fit, generator)
    if step % plan.opacity_reset_interval == 0 and step < plan.refine_stop:
        reset_opacities(fit)
