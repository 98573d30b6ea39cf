"""Fitting Gaussian splats to a capture (3DGS, arXiv 2308.04079, algorithm 1)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from lumigraph.datasets import Capture
from lumigraph.kernels import Footprints, Parameters, Pull, Rates, backend_for
from lumigraph.recon.density import EXPECTED, Statistics, refine, reset_opacities
from lumigraph.recon.errors import Shown, shown
from lumigraph.recon.initial import splats_from_capture
from lumigraph.recon.morton import morton_order
from lumigraph.recon.plan import Plan
from lumigraph.recon.resolution import Photos, downscale_at, size_levels
from lumigraph.recon.schedule import Move, move_at, rebased
from lumigraph.recon.trust import confine, largest_moves
from lumigraph.render import Camera, Similarity, Splats
from lumigraph.render.render import project_splats

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it leave the most even gaps in [0, 1)."""


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
        statistics: What density control has seen since it last acted.
        similarity: From the capture's frame to the fit's.
        levels: From which step on photos are made how many times smaller. float64 [levels, 2]
        start_splats: How many splats there were at first.
        expected_splats: How many a growth by resolution expects to need in the end.
        order: Training frames of this epoch that are still to come. int64 [frames left]
        random: State of the random number generator. uint8 [bytes]
    """

    plan: Plan
    step: int
    splats: Splats
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    last: Tensor
    statistics: Statistics
    similarity: Similarity
    levels: Tensor
    start_splats: int
    expected_splats: float
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
        last=torch.zeros(len(splats), dtype=torch.int32, device=device),
        statistics=Statistics.empty(len(splats), device),
        similarity=capture.similarity,
        levels=size_levels(capture, plan),
        start_splats=len(splats),
        expected_splats=EXPECTED * len(splats),
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
    photos = Photos(capture.train, fit.similarity)
    while fit.step < fit.plan.steps:
        index = _next_frame(capture, fit, generator)
        camera, photo = photos.at(index, downscale_at(fit.levels, fit.step))
        loss = _optimize(fit, camera, photo, capture.background, move_at(fit.plan, fit.step))
        fit.step += 1
        _control_density(fit, photos, capture.background, generator)
        if fit.step % fit.plan.degree_interval == 0:
            _grow_harmonics(fit)
        fit.random = generator.get_state()
        yield Step(fit.step, fit.plan.steps, loss, len(fit.splats), fit.splats.degree, fit)


def _next_frame(capture: Capture, fit: SplatFit, generator: torch.Generator) -> int:
    """Every training frame once, in an order drawn anew, and again."""
    if not len(fit.order):
        fit.order = _epoch(capture, fit.plan, generator)
    index, fit.order = int(fit.order[0]), fit.order[1:]
    return index


def _epoch(capture: Capture, plan: Plan, generator: torch.Generator) -> Tensor:
    """The order of an epoch. int64 [frames]"""
    count = len(capture.train)
    if plan.view_order == "shuffled":
        return torch.randperm(count, generator=generator)
    # Jumps of the golden ratio along a curve through the cameras: any few views in a row are
    # spread over all of the scene, and no photo is left for long.
    positions = torch.stack([frame.camera.position for frame in capture.train])
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    places = (start + torch.arange(count, dtype=torch.float64) * GOLDEN) % 1
    return morton_order(positions)[places.argsort(stable=True).argsort()]


def _optimize(
    fit: SplatFit,
    camera: Camera,
    photo: Tensor,
    background: tuple[float, float, float],
    move: Move,
) -> float:
    """One gradient step towards one photo; returns the loss. photo: uint8 [height, width, 3]"""
    photo = photo.to(fit.splats.means.device)
    if move.rows == "all" or move.trust_region > 0:
        return _compose(fit, camera, photo, background, move)
    rates = rebased(move, fit.step + 1)
    return backend_for(photo.device).descend(
        Parameters(**fit.splats.tensors),
        Parameters(**fit.first),
        Parameters(**fit.second),
        view=camera.view,
        photo=photo,
        degree=fit.splats.degree,
        rates=Rates(**{name: rates.get(name, 0.0) for name in Rates._fields}),
        step=fit.step + 1,
        filter=fit.splats.filter,
        background=background,
        ssim_weight=fit.plan.ssim_weight,
        last=fit.last if move.rows == "lazy" else None,
        pull=Pull(fit.statistics.gradient, fit.statistics.views) if _is_watching(fit) else None,
    )


def _compose(
    fit: SplatFit,
    camera: Camera,
    photo: Tensor,
    background: tuple[float, float, float],
    move: Move,
) -> float:
    """The step from single operations: for what the backend's step as a whole cannot do."""
    plan, splats = fit.plan, fit.splats
    backend = backend_for(splats.means.device)
    for value in splats.tensors.values():
        value.requires_grad_()
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
    target = photo.float().div_(255)
    loss = (1 - plan.ssim_weight) * backend.l1(raster.features, target)
    loss = loss + plan.ssim_weight * (1 - backend.ssim(raster.features, target))
    loss.backward()

    if absolute is not None:
        fit.statistics.add(absolute, footprints.extents, camera.width, camera.height)
    _adam(fit, footprints, move)
    return loss.item()


def _adam(fit: SplatFit, footprints: Footprints, move: Move) -> None:
    """Moves the parameters along their gradients and forgets the gradients."""
    backend = backend_for(footprints.means.device)
    gradients: dict[str, Tensor] = {}
    for name, parameter in fit.splats.tensors.items():
        assert parameter.grad is not None
        gradients[name], parameter.grad = parameter.grad, None
        parameter.requires_grad_(False)
    most = largest_moves(fit.splats, move.trust_region) if move.trust_region > 0 else {}
    before = {name: fit.splats.tensors[name].clone() for name in most}
    rows = footprints.extents[:, 0] > 0 if move.rows == "visible" else None
    for name, rate in move.rates.items():
        backend.adam(
            fit.splats.tensors[name],
            gradients[name],
            fit.first[name],
            fit.second[name],
            step=move.updates[name],
            learning_rate=rate,
            rows=rows,
        )
    for name, bound in most.items():
        confine(fit.splats.tensors[name], before[name], bound)


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


def _control_density(
    fit: SplatFit,
    photos: Photos,
    background: tuple[float, float, float],
    generator: torch.Generator,
) -> None:
    """Grows and prunes splats when the plan says so."""
    plan, step = fit.plan, fit.step
    if step > plan.refine_stop or step == plan.steps:
        return
    if step >= plan.refine_start and step % plan.refine_interval == 0:
        seen = _shown(fit, photos, background, generator) if plan.error_views > 0 else None
        refine(fit, generator, seen)
    if step % plan.opacity_reset_interval == 0 and step < plan.refine_stop:
        reset_opacities(fit)


def _shown(
    fit: SplatFit,
    photos: Photos,
    background: tuple[float, float, float],
    generator: torch.Generator,
) -> Shown:
    """What some photos, drawn at random, show of each splat."""
    drawn = torch.randperm(len(photos.frames), generator=generator)[: fit.plan.error_views]
    downscale = downscale_at(fit.levels, fit.step)
    views = (photos.at(index, downscale) for index in drawn.tolist())
    return shown(fit.splats, views, background, fit.plan.error_level)
