"""3DGS-LM as published: Levenberg-Marquardt that finishes a scene (arXiv 2409.12892, ICCV 2025).

This file follows their algorithm 1, so that other methods can be compared with it. Where their code
differs from their paper, this file follows the code, which produced the figures they report:

* the residual of a colour is that of a Huber function, not |e| (`residuals.published`);
* the damping is clamp(diagonal, 1, 1e6) / radius, so it depends on the scale of the residuals,
  which are sums over images, not means. A radius of 1e-3 is a damping of 1000; the paper calls 1e-3
  the damping itself;
* the preconditioner 1 / (diagonal + clamp(diagonal, 1, 1e6)) does not depend on the radius;
* the radius follows the rule of Ceres; the paper halves and doubles it;
* a step is judged on the last batch of images alone.

Three things are our own: memory is bounded, a batch with a solution that is not finite is left out,
and a step that does not change the cost counts as failed.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lumigraph.kernels import Filter, Parameters, splats_for
from lumigraph.recon.optimizers.levenberg import Try, dot, moved, zeros_like
from lumigraph.recon.optimizers.lm_batch import Batch, Published, Shots, Views, gather

TRUST_MIN = 1e-12
"""Added to the weight of a batch's solution: a parameter that no batch sees gets a mean of 0."""


@dataclass
class LmState:
    """The state that is needed, beside the scene, to continue bit for bit.

    Attributes:
        number: Iterations done.
        radius: The radius of the trust region.
        factor: The radius shrinks by this factor at the next failure.
        order: Views of this epoch that are still to come. int64 [views left]
        random: State of the random number generator. uint8 [bytes]
        shrunk: Whether the note was given that memory allows only smaller batches.
        ended: Whether another iteration would gain too little.
    """

    number: int
    radius: float
    factor: float
    order: Tensor
    random: Tensor
    shrunk: bool = False
    ended: bool = False


def start_lm(settings: Published | None = None, *, seed: int = 0) -> LmState:
    """The state before the first iteration."""
    radius = (settings or Published()).radius
    random = torch.Generator().manual_seed(seed).get_state()
    return LmState(0, radius, 2.0, torch.empty(0, dtype=torch.int64), random)


@torch.no_grad()
def lm_step(
    scene: Parameters,
    state: LmState,
    views: Views,
    *,
    degree: int,
    filter: Filter = "classic",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    settings: Published | None = None,
    told: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
) -> Try:
    """One iteration: solves the batches, averages the solutions, searches along the mean, judges.

    Scene and state do not change before the step is judged.

    Args:
        scene: Is changed in place.
        state: Is changed along with it.
        views: The photos to fit the scene to, at least one.
        degree: The degree of the harmonics in use.
        filter: How splats smaller than a pixel are drawn.
        background: The colour behind all splats.
        settings: The published ones if None.
        told: Is called with a sentence, once, if memory allows only smaller batches.
        clock: Gives the time in seconds.

    Raises:
        ValueError: There are no views, a photo does not have its camera's size, or the state was
            started with more views.
    """
    began, settings = clock(), settings or Published()
    _check(state, views)
    kernels = splats_for(scene.means.device)
    shots = Shots(views, kernels, settings, degree, filter, background)
    generator = torch.Generator()
    generator.set_state(state.random)

    found = direction(scene, state, shots, told)
    searched = _drawn(found.used, settings.search_part, generator)
    part = line_search(lambda by: shots.cost(moved(scene, found.step, by), searched), settings)

    before, slope, bend = found.model
    there = moved(scene, found.step, part)
    tried = shots.cost(there, found.judges)
    fall, foretold = before - tried, part * slope - part**2 * bend / 2
    gain = fall / foretold if foretold else math.nan
    radius, factor, ended = trust_region(state, before, fall, gain, settings)
    if fall > 0:
        for old, new in zip(scene, there, strict=True):
            old.copy_(new)

    damping, state.radius, state.factor, state.ended = 1 / state.radius, radius, factor, ended
    state.number, state.order, state.random = state.number + 1, found.order, generator.get_state()
    state.shrunk |= found.shrunk
    return Try(
        number=state.number,
        before=before,
        tried=tried,
        gain=gain,
        accepted=fall > 0,
        damping=damping,
        shortened=part,
        length=part * math.sqrt(dot(found.step, found.step)),
        products=found.products,
        images=len(found.used),
        seconds=clock() - began,
    )


@dataclass(frozen=True)
class Direction:
    """The direction of an iteration, before the line search.

    Attributes:
        step: Is subtracted from the scene.
        model: The linear model of the last batch along the step: see `Batch.along`.
        judges: Views of the last batch.
        used: Views of all batches.
        order: Views still to come.
        products: The number of products of J^T J with a vector.
        shrunk: Whether memory allowed only a smaller batch.
    """

    step: Parameters
    model: tuple[float, float, float]
    judges: list[int]
    used: list[int]
    order: Tensor
    products: int
    shrunk: bool


def direction(
    scene: Parameters, state: LmState, shots: Shots, told: Callable[[str], None]
) -> Direction:
    """The mean of the solutions of all batches, weighted by their diagonals (3DGS-LM, eq. 7).

    Where the diagonal of J^T J is large, the photos of the batch determine the parameter well.
    """
    settings, order, shrunk = shots.settings, state.order, False
    used, products, batch = [], 0, None
    sums, weights = zeros_like(scene), zeros_like(scene)
    for _ in range(settings.batches):
        if len(used) >= len(shots.views):
            break  # All views are in a batch already.
        batch = None  # Frees its memory.
        batch, order, fits = gather(scene, shots, order)
        if not fits and not shrunk and not state.shrunk:
            told(_smaller(batch, settings))
        shrunk |= not fits
        diagonal = batch.diagonal()
        solution, taken = solve(batch, diagonal, state.radius, settings)
        products, used = products + taken, used + batch.index
        if not all(x.isfinite().all() for x in (*solution, *diagonal)):
            continue
        for above, below, x, d in zip(sums, weights, solution, diagonal, strict=True):
            trust = d + TRUST_MIN
            above.addcmul_(trust, x)
            below += trust
    assert batch is not None
    parts = zip(sums, weights, strict=True)
    step = Parameters(*(s / w.clamp_min(TRUST_MIN) for s, w in parts))
    return Direction(step, batch.along(step), batch.index, used, order, products, shrunk)


def solve(
    batch: Batch, diagonal: Parameters, radius: float, settings: Published
) -> tuple[Parameters, int]:
    """Solves (J^T J + clamp(diagonal) / radius) x = J^T r (3DGS-LM, algorithm 1).

    Conjugate gradients begin at the preconditioned right side. A solution with a number above
    `settings.longest` is scaled down to it as a whole.

    Returns:
        x, and the number of products of J^T J with a vector.
    """
    clamped = [d.clamp(settings.diagonal_min, settings.diagonal_max) for d in diagonal]

    def times(vector: Parameters) -> Parameters:
        product = batch.product(vector)
        for sums, c, v in zip(product, clamped, vector, strict=True):
            sums.addcmul_(c, v, value=1 / radius)
        return product

    def precondition(vector: Parameters) -> Parameters:
        parts = zip(vector, diagonal, clamped, strict=True)
        return Parameters(*(v / (d + c) for v, d, c in parts))

    right = batch.right()
    x = precondition(right)
    rest, taken = moved(right, times(x), 1), 1
    enough = settings.tolerance**2 * dot(right, right)
    search = ahead = precondition(rest)
    slope = dot(rest, ahead)
    while taken <= settings.products and dot(rest, rest) > enough:
        whole = times(search)
        taken += 1
        curvature = dot(search, whole)
        if not 0 < curvature < math.inf:
            break
        for point, by, along in ((x, slope, search), (rest, -slope, whole)):
            for numbers, change in zip(point, along, strict=True):
                numbers.add_(change, alpha=by / curvature)
        ahead, last = precondition(rest), slope
        slope = dot(rest, ahead)
        search = moved(ahead, search, -slope / last)
    largest = max((float(part.abs().max()) for part in x if part.numel()), default=0.0)
    scale = min(1.0, settings.longest / max(largest, 1e-30))
    return Parameters(*(part * scale for part in x)), taken


def line_search(cost_at: Callable[[float], float], settings: Published) -> float:
    """The part of a step to take: the step is shortened as long as the cost keeps falling.

    The cost before the step plays no part here; the trust region compares it with the cost after.
    A cost of nan counts as infinite.
    """
    part, cost = 1.0, cost_at(1.0)
    while part > settings.search_least:
        shorter = part * settings.search_factor
        there = cost_at(shorter)
        if math.isfinite(cost) and not there < cost:
            break
        part, cost = shorter, there
    return part


def trust_region(
    state: LmState, before: float, fall: float, gain: float, settings: Published
) -> tuple[float, float, bool]:
    """The next radius, the next factor, and whether the search ends (the rule of Ceres).

    Args:
        state: Has the radius and the factor up to now.
        before: The cost before the iteration.
        fall: The fall of the cost in this iteration.
        gain: The ratio of the fall to the predicted fall.
        settings: Has the limits.
    """
    radius, factor = state.radius, state.factor
    if fall > 0 and gain > settings.gain_min:
        radius /= max(1 / 3, 1 - (2 * min(gain, 1.0) - 1) ** 3)
        radius, factor, ended = min(radius, settings.radius_max), 2.0, False
    else:
        radius /= factor
        factor = factor if fall > 0 else 2 * factor
        ended = radius <= settings.radius_min
    ended |= 0 < fall <= settings.fall_min * before
    return max(radius, settings.radius_min), factor, ended


def _smaller(batch: Batch, settings: Published) -> str:
    bound, held = settings.bytes >> 20, batch.bytes >> 20
    return (
        f"A batch of {settings.images} photos would take more than the {bound} MB that a batch may "
        f"take: the first one has {len(batch.index)} photos and takes {held} MB. Batches this "
        "small learn less in an iteration: use --downscale for smaller photos"
    )


def _drawn(index: list[int], part: float, generator: torch.Generator) -> list[int]:
    """A random part of the views, at least one."""
    count = max(1, round(part * len(index)))
    return [index[i] for i in torch.randperm(len(index), generator=generator)[:count].tolist()]


def _check(state: LmState, views: Views) -> None:
    if not views:
        raise ValueError("there are no photos to fit the scene to: give at least one")
    if len(state.order) and not 0 <= int(state.order.min()) <= int(state.order.max()) < len(views):
        raise ValueError(
            f"there are {len(views)} photos, but the fit was started with at least "
            f"{int(state.order.max()) + 1}: resume it with the capture it was started with"
        )
