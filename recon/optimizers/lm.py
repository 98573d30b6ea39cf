"""Our own form of Levenberg-Marquardt: one step for each photo, with the curvature of each splat.

3DGS-LM (`lm_published.py`) solves for all splats at once, over batches of photos: an iteration
takes as long as hundreds of Adam's steps. Here each photo is a step, as with Adam, and the step of
a splat solves an equation of its own (`SplatBackend.update` bounds the length of this step),

    (C + damping * diag(root / rate)) step = m,

where m is the running mean of the gradients, C the running mean over photos of the splat's block of
G^T diag(w) G, and root the square root of Adam's mean of squared gradients. For colours C is
diagonal. Adam's root over its rate is the damping, so a step is close to Gauss-Newton's where the
photos determine a splat well, and close to Adam's where they do not. This allows rates at which
Adam alone would be unstable.

Every `REFRESH` steps a photo is linearized: its blocks update C, and the fall of its loss in this
step is compared with the fall that the linear model predicts. After `ITERATION` steps the sums of
both give a gain ratio: if it is low, the damping doubles; if it is high, the damping halves, down
to 1. If the loss has grown much or the scene is not finite, the scene goes back to the best one.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lumigraph.kernels import (
    Adam,
    Blocks,
    Filter,
    Moments,
    Parameters,
    Picture,
    Rates,
    SplatBackend,
    Target,
    images_for,
    splats_for,
)
from lumigraph.kernels.splats.step import step as take_step
from lumigraph.recon.optimizers.levenberg import Try, dot
from lumigraph.recon.optimizers.residuals import as_colors, curvature_weights, photo_loss

RATES = 2.0
"""The rates as a multiple of Adam's: at three times the loss ends 4 % higher."""

SECOND_DECAY = 0.97
"""Decay of the squared gradients, which must follow changes soon: 0.95 does as well, at 0.98 the
loss ends 1 % higher."""

STIFFNESS = 20.0
"""A factor of C that shortens steps, as the gradient of one photo is noisy: 40 does as well, at 10
the loss ends 1 % higher."""

FIRST_VIEWS = 12
"""The number of photos that the first C is the mean of; each takes as long as a few steps."""

REFRESH = 50
"""Steps between two linearized photos, so that these take little time beside the steps."""

FRESH = 0.3
"""Weight of a new photo in C, which is a mean over about the last three photos."""

ITERATION = 100
"""Steps that are judged together: about one for each photo of a capture, or more."""

GAIN_LOW, GAIN_HIGH = 0.25, 0.75
"""Below the first gain ratio the damping doubles, above the second it halves, as is usual."""

MUCH_WORSE = 2.0
"""At a cost above this multiple of the best one the scene goes back to the best. The factor leaves
room for iterations with more difficult photos."""

BACK_DAMPING = 4.0
"""The damping grows by this factor when the scene goes back."""

DAMPING_MAX = 1e6
"""A bound that keeps the damping finite; at this damping no splat moves visibly."""


@dataclass
class BlockState:
    """The state that is needed to continue bit for bit, beside the scene and Adam's moments.

    Attributes:
        curvature: C.
        best: The best scene at the end of an iteration, at first the scene before the first one.
        cost: Mean loss over the steps of the iteration that led to the best scene; at first, over
            the photos that the first C was made of; infinite after the scene went back.
        last: Mean loss of the iteration before this one.
        number: Iterations done.
        step: Steps done.
        damping: As a multiple of Adam's.
        losses: Sum of the losses of this iteration.
        fall: Sum of the falls of the loss at the linearized photos of this iteration.
        foretold: Sum of the falls that the linear model predicted for them.
        length: Euclidean length of the last step at a linearized photo.
        seconds: Duration of this iteration up to now.
    """

    curvature: Blocks
    best: Parameters
    cost: float
    last: float
    number: int = 0
    step: int = 0
    damping: float = 1.0
    losses: float = 0.0
    fall: float = 0.0
    foretold: float = 0.0
    length: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Descent:
    """Takes steps on a scene.

    Attributes:
        scene: Is changed in place.
        moments: Adam's; they are changed along with it.
        degree: The degree of the harmonics in use.
        filter: How splats smaller than a pixel are drawn.
        clock: Gives the time in seconds.
    """

    scene: Parameters
    moments: Moments
    degree: int
    filter: Filter = "classic"
    clock: Callable[[], float] = time.perf_counter

    @torch.no_grad()
    def start(self, targets: Sequence[Target]) -> BlockState:
        """The state before the first step, with C as the mean over these photos."""
        curvature, cost = None, 0.0
        for target in targets:
            picture, curvature = self._curved(self.scene, target, 1 / len(targets), curvature)
            cost += self._loss(picture.features, target) / len(targets)
        if curvature is None:
            raise ValueError("there are no photos to learn from: give at least one")
        return BlockState(curvature, _copy(self.scene), cost, cost)

    @torch.no_grad()
    def step(
        self, state: BlockState, target: Target, rates: Rates, number: int, *, last: bool = False
    ) -> tuple[float, Try | None]:
        """One step towards a photo.

        Args:
            state: Is changed.
            target: The photo.
            rates: Adam's rates at this step.
            number: Counts all steps from 1, those of Adam included.
            last: Whether this is the last step of the fit, which ends its iteration.

        Returns:
            The loss before the step, and the outcome of the iteration if this step ends it.
        """
        began = self.clock()
        rates = Rates(*(RATES / state.damping * rate for rate in rates))
        move = partial(
            take_step,
            self._kernels,
            images_for(self.scene.means.device),
            self.scene,
            self.moments,
            target,
            Adam(rates, number, betas=(0.9, SECOND_DECAY)),
            degree=self.degree,
            filter=self.filter,
            curvature=state.curvature,
        )
        state.step += 1
        loss = self._judged(state, target, move) if state.step % REFRESH == 0 else move()
        state.losses += loss
        tried = self._ended(state) if last or state.step % ITERATION == 0 else None
        state.seconds += self.clock() - began
        if tried is not None:
            tried, state.seconds = replace(tried, seconds=state.seconds), 0.0
        return loss, tried

    def _judged(self, state: BlockState, target: Target, move: Callable[[], float]) -> float:
        """Takes a step at a linearized photo: updates C, and sums the real and predicted falls."""
        before = _copy(self.scene)
        for numbers in state.curvature:
            numbers.mul_(1 - FRESH)
        picture, _ = self._curved(before, target, FRESH, state.curvature)
        loss = move()
        change = Parameters(*(now - then for now, then in zip(self.scene, before, strict=True)))
        state.length = math.sqrt(dot(change, change))
        state.fall += loss - self._loss(self._draw(self.scene, target).features, target)
        there = picture.features + picture.jvp(change)
        state.foretold += self._loss(picture.features, target) - self._loss(there, target)
        return loss

    def _ended(self, state: BlockState) -> Try:
        """Judges the iteration that ends here, adapts the damping, and goes back if it must."""
        steps = (state.step - 1) % ITERATION + 1
        cost, before, used = state.losses / steps, state.last, state.damping
        gain = state.fall / state.foretold if state.foretold > 0 else math.nan
        # A short iteration may have met difficult photos alone. A cost of nan counts as worse.
        worse = 2 * steps >= ITERATION and not cost <= MUCH_WORSE * state.cost
        accepted = not worse and _finite(self.scene)
        if not accepted:
            _put(self.scene, state.best)
            for numbers in (*self.moments.first, *self.moments.second, *state.curvature):
                numbers.nan_to_num_(0.0, 0.0, 0.0)
            for mean in self.moments.first:
                mean.zero_()
            state.damping = min(BACK_DAMPING * used, DAMPING_MAX)
            # The next iteration measures the best scene again.
            state.last, state.cost = state.cost, math.inf
        else:
            if cost <= state.cost:
                _put(state.best, self.scene)
                state.cost = cost
            if gain < GAIN_LOW:
                state.damping = min(2 * used, DAMPING_MAX)
            elif gain > GAIN_HIGH:
                state.damping = max(used / 2, 1.0)
            state.last = cost
        state.number += 1
        state.losses = state.fall = state.foretold = 0.0
        return Try(
            number=state.number,
            before=before,
            tried=cost,
            gain=gain,
            accepted=accepted,
            damping=used,
            shortened=1.0,
            length=state.length,
            products=steps // REFRESH,
            images=steps,
            seconds=state.seconds,
        )

    @property
    def _kernels(self) -> SplatBackend:
        return splats_for(self.scene.means.device)

    def _draw(self, scene: Parameters, target: Target) -> Picture:
        """The picture of a scene from the camera of a photo."""
        records = self._kernels.project(
            scene, view=target.view, degree=self.degree, filter=self.filter
        )
        return self._kernels.blend(records, background=target.background)

    def _curved(
        self, scene: Parameters, target: Target, part: float, curvature: Blocks | None
    ) -> tuple[Picture, Blocks]:
        """A picture beside its photo, and the curvature with its blocks added."""
        picture = self._draw(scene, target)
        photo = as_colors(target.photo, picture.features)
        weights = curvature_weights(picture.features, photo, target.ssim_weight)
        return picture, picture.blocks(weights.mul_(part * STIFFNESS), curvature)

    def _loss(self, image: Tensor, target: Target) -> float:
        return photo_loss(image, target.photo, target.ssim_weight)


def _copy(scene: Parameters) -> Parameters:
    return Parameters(*(x.clone() for x in scene))


def _put(scene: Parameters, other: Parameters) -> None:
    for x, y in zip(scene, other, strict=True):
        x.copy_(y)


def _finite(scene: Parameters) -> bool:
    return all(bool(x.isfinite().all()) for x in scene)
