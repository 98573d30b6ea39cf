"""Levenberg-Marquardt of our own: a step for each photo, with the curvature of every splat.

3DGS-LM (`lm_published.py`) solves for all splats at once, over batches of photos: an iteration
takes as long as hundreds of Adam's steps. Here each photo is a step, as with Adam, and each splat's
is the solution of an equation of its own (`Backend.descend` has the bounds it is held in),

    (C + damping * diag(root / rate)) step = m,

where m is the running mean of the gradients and C that of the splat's blocks of G^T diag(w) G over
photos, of which colours have the diagonal alone. So a step is Gauss-Newton's where the photos tell
much of a splat, and Adam's where they do not: Adam's root over its rate is the damping. That allows
for rates by which Adam alone would be thrown about.

Every `REFRESH` steps a photo is linearized: its blocks go into C, and what became of its loss by
the step is held against what its linear picture foretold. After `ITERATION` steps these are summed
into a gain ratio: where it is low, damping doubles; where it is high, it halves, down to 1. A scene
that has got much worse, or is no longer finite, goes back to the best one there was.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lumigraph.kernels import (
    Adam,
    Backend,
    Blocks,
    Filter,
    Linearization,
    Moments,
    Parameters,
    Rates,
    Target,
    backend_for,
)
from lumigraph.recon.optimizers.levenberg import Try, dot
from lumigraph.recon.optimizers.residuals import as_colors, curvature_weights, photo_loss

RATES = 2.0
"""Rates, in those of Adam: at three times the loss ends 4 % higher."""

SECOND_DECAY = 0.97
"""Of the squares, which are to follow what has changed: 0.95 does as well, at 0.98 the loss ends
1 % higher."""

STIFFNESS = 20.0
"""By which C is multiplied, as steps follow the noise of single photos: 40 does as well, at 10 the
loss ends 1 % higher."""

FIRST_VIEWS = 12
"""That C is the mean of in the beginning, at most; they take as long as a few steps each."""

REFRESH = 50
"""Steps from one linearized photo to the next, so that these cost little beside the steps."""

FRESH = 0.3
"""Weight of a new photo in C, which so is a mean over the last three or so."""

ITERATION = 100
"""Steps that are judged together: about as many as there are photos, or more."""

GAIN_LOW, GAIN_HIGH = 0.25, 0.75
"""Of the gain ratio: below the one damping doubles, above the other it halves, as is usual."""

MUCH_WORSE = 2.0
"""In costs of the best scene: what is above goes back to it. Iterations differ by their photos."""

BACK_DAMPING = 4.0
"""By which damping grows when the scene goes back."""

DAMPING_MAX = 1e6
"""So that the damping stays finite; nothing moves by then."""


@dataclass
class BlockState:
    """All that going on to the bit needs beside the scene and Adam's moments.

    Attributes:
        curvature: C.
        best: The best scene at the end of an iteration, or the one it began with.
        cost: Mean loss of the steps of the iteration that led to it; before the first one ends,
            that of the photos that C began with; infinite once that has proved wrong.
        last: That of the iteration before.
        number: Iterations done.
        step: Steps done.
        damping: In Adam's.
        losses: Sum over the steps of this iteration.
        fall: By which losses fell at the photos that were linearized in it, in all.
        foretold: By which they were to fall.
        length: Of the last step that was judged.
        seconds: Spent in it.
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
        scene: Is moved, in place.
        moments: Adam's, which move with it.
        degree: The highest of the harmonics to use.
        filter: How sub-pixel splats are drawn.
        clock: Seconds.
    """

    scene: Parameters
    moments: Moments
    degree: int
    filter: Filter = "classic"
    clock: Callable[[], float] = time.perf_counter

    @torch.no_grad()
    def start(self, targets: Sequence[Target]) -> BlockState:
        """The state before the first step: C is the mean over these photos."""
        curvature, cost = None, 0.0
        for target in targets:
            linear, curvature = self._curved(self.scene, target, 1 / len(targets), curvature)
            cost += self._loss(linear.color, target) / len(targets)
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
            rates: Adam's.
            number: Of all steps, those of Adam included, from 1.
            last: Whether no other follows: then an iteration ends, however short.

        Returns:
            The loss before the step, and what the iteration came to if this ends it.
        """
        began = self.clock()
        rates = Rates(*(RATES / state.damping * rate for rate in rates))
        move = partial(
            self._backend.descend,
            self.scene,
            self.moments,
            target,
            Adam(rates, number, betas=(0.9, SECOND_DECAY)),
            **self._look,
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
        """Takes a step at a photo whose curvature goes into C, and sees what became of its loss."""
        before = _copy(self.scene)
        for numbers in state.curvature:
            numbers.mul_(1 - FRESH)
        linear, _ = self._curved(before, target, FRESH, state.curvature)
        loss = move()
        change = Parameters(*(now - then for now, then in zip(self.scene, before, strict=True)))
        state.length = math.sqrt(dot(change, change))
        image, _ = self._backend.paint(
            self.scene, view=target.view, background=target.background, **self._look
        )
        state.fall += loss - self._loss(image, target)
        # What is linearized may be drawn by other kernels.
        there = linear.color + linear.jvp(change)
        state.foretold += self._loss(linear.color, target) - self._loss(there, target)
        return loss

    def _ended(self, state: BlockState) -> Try:
        """Judges the iteration that ends here: goes back, or on with another damping."""
        steps = (state.step - 1) % ITERATION + 1
        cost, before, used = state.losses / steps, state.last, state.damping
        gain = state.fall / state.foretold if state.foretold > 0 else math.nan
        # Few steps may be towards photos that are all difficult. No number is worse than any.
        worse = 2 * steps >= ITERATION and not cost <= MUCH_WORSE * state.cost
        accepted = not worse and _finite(self.scene)
        if not accepted:
            _put(self.scene, state.best)
            for numbers in (*self.moments.first, *self.moments.second, *state.curvature):
                numbers.nan_to_num_(0.0, 0.0, 0.0)
            for mean in self.moments.first:
                mean.zero_()
            state.damping = min(BACK_DAMPING * used, DAMPING_MAX)
            # The best is taken to be as good as the next iteration finds it.
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
    def _backend(self) -> Backend:
        return backend_for(self.scene.means.device)

    @property
    def _look(self) -> dict[str, Any]:
        return {"degree": self.degree, "filter": self.filter}

    def _curved(
        self, scene: Parameters, target: Target, part: float, curvature: Blocks | None
    ) -> tuple[Linearization, Blocks]:
        """A photo linearized, and its part in the curvature added."""
        linear = self._backend.linearize(
            scene, view=target.view, background=target.background, **self._look
        )
        photo = as_colors(target.photo, linear.color)
        weights = curvature_weights(linear.color, photo, target.ssim_weight)
        return linear, linear.blocks(weights.mul_(part * STIFFNESS), curvature)

    def _loss(self, image: Tensor, target: Target) -> float:
        return photo_loss(image, target.photo, target.ssim_weight)


def _copy(scene: Parameters) -> Parameters:
    return Parameters(*(x.clone() for x in scene))


def _put(scene: Parameters, other: Parameters) -> None:
    for x, y in zip(scene, other, strict=True):
        x.copy_(y)


def _finite(scene: Parameters) -> bool:
    return all(bool(x.isfinite().all()) for x in scene)
