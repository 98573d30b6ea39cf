"""3DGS-LM as published: Levenberg-Marquardt that finishes a scene (arXiv 2409.12892, ICCV 2025).

This file reads as their algorithm 1, so that others can be measured against it. Where their code
differs from the paper the code is followed, as it gave the figures they report:

* the colours' residual is that of a Huber function, not |e| (`residuals.published`);
* the damping is clamp(diagonal, 1, 1e6) / radius, so it depends on how the residuals are scaled:
  they are sums over images, not means. A radius of 1e-3 is a damping of 1000, where the paper calls
  1e-3 the damping itself;
* the preconditioner 1 / (diagonal + clamp(diagonal, 1, 1e6)) knows nothing of the radius;
* the radius follows the rule of Ceres, where the paper halves and doubles;
* whether a step was good is judged on the last batch of images alone.

Of our own are the bound on memory, that a batch whose solution is not finite is left out, and that
a step after which the cost is the same counts as failed.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lumigraph.kernels import Filter, Parameters, backend_for
from lumigraph.recon.optimizers.levenberg import Try, dot, moved, zeros_like
from lumigraph.recon.optimizers.lm_batch import Batch, Published, Shots, Views, gather

TRUST_MIN = 1e-12
"""Least weight of a batch's solution, so that a parameter which no batch sees has a mean of 0."""


@dataclass
class LmState:
    """All that going on to the bit needs beside the scene: plain numbers and tensors.

    Attributes:
        number: Iterations done.
        radius: Of the trust region.
        factor: By which it shrinks at the next failure.
        order: Views still to come before all are taken anew. int64 [views left]
        random: State of the random number generator. uint8 [bytes]
        shrunk: Whether it was told that batches are smaller than asked for.
        ended: Whether another iteration is not worth it.
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
    """One iteration: batches are solved, their solutions averaged, searched along and judged.

    Until the step is judged nothing is changed, neither scene nor state.

    Args:
        scene: Is moved, in place.
        state: Is changed with it.
        views: To fit the scene to, at least one.
        degree: The highest of the harmonics to use.
        filter: How sub-pixel splats are drawn.
        background: Colour behind all splats.
        settings: Those published, if None.
        told: Is given a sentence, once, if batches must be smaller than asked for.
        clock: Seconds.

    Raises:
        ValueError: There are no views, a photo is not of its camera's size, or the state is one of
            more views.
    """
    began, settings = clock(), settings or Published()
    _check(state, views)
    backend = backend_for(scene.means.device)
    look = {"degree": degree, "filter": filter, "background": background}
    shots = Shots(
        views, partial(backend.linearize, **look), partial(backend.paint, **look), settings
    )
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
    """Where an iteration goes, before it is known how far.

    Attributes:
        step: To be subtracted from the scene.
        model: Of the last batch, along the step: see `Batch.along`.
        judges: Views of the last batch.
        used: Views of all batches.
        order: Views still to come.
        products: Of J^T J with a vector.
        shrunk: Whether a batch was smaller than asked for.
    """

    step: Parameters
    model: tuple[float, float, float]
    judges: list[int]
    used: list[int]
    order: Tensor
    products: int
    shrunk: bool


def direction(
    scene: Parameters, state: LmState, shots: "Shots", told: Callable[[str], None]
) -> Direction:
    """The solutions of all batches, each weighted by its diagonal (3DGS-LM, eq. 7).

    A large entry of the diagonal of J^T J says that the batch knows much of that parameter.
    """
    settings, order, shrunk = shots.settings, state.order, False
    used, products, batch = [], 0, None
    sums, weights = zeros_like(scene), zeros_like(scene)
    for _ in range(settings.batches):
        if len(used) >= len(shots.views):
            break  # A batch of views that were just solved has nothing to add.
        batch = None  # Lets go of its memory.
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
    batch: "Batch", diagonal: Parameters, radius: float, settings: Published
) -> tuple[Parameters, int]:
    """(J^T J + clamp(diagonal) / radius) x = J^T r by conjugate gradients (3DGS-LM, algorithm 1).

    They begin at the preconditioned right side. No number of the solution is above
    `settings.longest`: beyond it the whole is scaled.

    Returns:
        x, and how many products of J^T J with a vector it took.
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
    """The part of a step to go: it is shortened as long as the cost keeps falling.

    It is not asked whether the cost falls by going at all, which the trust region asks. A cost that
    is no number is as good as infinite.
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
    """The next radius, the next factor and whether the search is at its end (Ceres' rule).

    Args:
        state: The radius and factor up to now.
        before: The cost the iteration began with.
        fall: By how much it fell.
        gain: The fall, over what was foretold.
        settings: The limits.
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
        f"Batches of {settings.images} views would take more than the {bound} MB that are allowed: "
        f"the first has {len(batch.index)}, of {held} MB. Allow more, or take smaller photos"
    )


def _drawn(index: list[int], part: float, generator: torch.Generator) -> list[int]:
    """A part of the views by chance, at least one."""
    count = max(1, round(part * len(index)))
    return [index[i] for i in torch.randperm(len(index), generator=generator)[:count].tolist()]


def _check(state: LmState, views: Views) -> None:
    if not views:
        raise ValueError("there are no views to fit the scene to: give at least one")
    if len(state.order) and not 0 <= int(state.order.min()) <= int(state.order.max()) < len(views):
        raise ValueError(
            f"there are {len(views)} views, but the state was begun with at least "
            f"{int(state.order.max()) + 1}: go on with the views it was begun with"
        )
