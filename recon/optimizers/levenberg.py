"""Levenberg-Marquardt for any sum of squares that can be multiplied with its Jacobian.

min over x of |r(x)|^2 / 2, by steps d that solve (J^T J + damping diag(J^T J)) d = -J^T r with
preconditioned conjugate gradients (Hestenes and Stiefel 1952), so that no matrix is ever made. The
damping follows how well the linear model foretold the cost (Marquardt 1963; the rule is Nielsen's,
1999, as Ceres has it). A point is a tuple of tensors of any shapes.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lumigraph.recon.optimizers.residuals import total

Point = tuple[Tensor, ...]

SMALL, LARGE = 1e-12, 1e12
"""Between which the damping stays."""


class Linearized(Protocol):
    """A problem near one point."""

    @property
    def residual(self) -> Tensor:
        """r, of any shape."""
        ...

    def jvp(self, direction: Point) -> Tensor:
        """J v, of the shape of the residual."""
        ...

    def vjp(self, weights: Tensor) -> Point:
        """J^T u, of the shapes of the point."""
        ...

    def diagonal(self) -> Point:
        """The diagonal of J^T J, or what stands in for it: not negative."""
        ...

    def precondition(self, vector: Point, damping: Point) -> Point:
        """What comes near (J^T J + diag(damping))^-1 v; by the diagonal alone it is `jacobi`."""
        ...


class Problem(Protocol):
    """A sum of squares."""

    def cost(self, point: Point) -> float:
        """|r|^2 / 2 at a point."""
        ...

    def linearized(self, point: Point) -> Linearized:
        """The problem near a point."""
        ...


@dataclass(frozen=True)
class Iteration:
    """What one try came to.

    Attributes:
        number: From 1.
        point: The best so far.
        cost: There.
        tried: The cost where this step led; it may be infinite, or no number.
        gain: How much the cost fell, over how much it was foretold to; nan where nothing was.
        accepted: Whether the step was taken.
        damping: That it was made with.
        products: Of J^T J with a vector that it took.
        length: Of the step.
        seconds: It took.
    """

    number: int
    point: Point
    cost: float
    tried: float
    gain: float
    accepted: bool
    damping: float
    products: int
    length: float
    seconds: float


@dataclass(frozen=True)
class Solved:
    """A solution of the linear system, as far as it was sought.

    Attributes:
        step: The solution.
        product: J^T J times it, without the damping.
        products: Of J^T J with a vector that it took.
    """

    step: Point
    product: Point
    products: int


@dataclass(frozen=True)
class Try:
    """What one iteration came to: one step of 3DGS-LM, or a hundred steps of "lm" (`lm.py`).

    The costs of 3DGS-LM are those of the last batch, on which a step is judged; those of "lm" are
    means of the losses that its steps began with.

    Attributes:
        number: From 1.
        before: The cost it began with, or that of the iteration before.
        tried: The cost where the step leads, or that of this iteration.
        gain: How much the cost fell, over how much it was foretold to; nan where nothing was. With
            "lm" of the photos that were linearized.
        accepted: Whether the scene is where the step led; if not, it is what it was, or the best.
        damping: That it was made with; in 3DGS-LM one over the radius.
        shortened: By a line search, to this part of the step.
        length: Of the step, after that; of the last one that was judged.
        products: Of J^T J, or in "lm" of J, with a vector.
        images: Views that were learned from.
        seconds: It took.
    """

    number: int
    before: float
    tried: float
    gain: float
    accepted: bool
    damping: float
    shortened: float
    length: float
    products: int
    images: int
    seconds: float

    @property
    def cost(self) -> float:
        """Of the scene as it is now, on the last batch."""
        return self.tried if self.accepted else self.before


def levenberg_marquardt(
    problem: Problem,
    point: Point,
    *,
    iterations: int = 20,
    damping: float = 1e-3,
    products: int = 20,
    tolerance: float = 0.05,
    least: float = 1e-6,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Iteration]:
    """Goes down from a point, one try at a time, and tells of each; the cost never rises.

    A step that leads to a higher cost, or to none that is a number, is not taken: the damping rises
    and the same linearization is solved anew. It ends where the cost falls by less than `least` of
    itself, where the gradient is zero, or where no damping helps.

    Args:
        problem: To solve.
        point: To begin at.
        iterations: Tries, at most.
        damping: Of the first one, in parts of the diagonal.
        products: Of J^T J with a vector, at most, in one try.
        tolerance: Conjugate gradients stop where the residual is this small, relative.
        least: Relative fall of the cost that is worth another try.
        clock: Seconds.

    Raises:
        ValueError: The cost at the beginning is not a number.
    """
    local, grow = problem.linearized(point), 2.0
    cost = float(local.residual.double().square().sum()) / 2
    if not math.isfinite(cost):
        raise ValueError(f"The cost where the search begins is {cost}: begin somewhere else")
    for number in range(1, iterations + 1):
        began = clock()
        if local is None:
            local = problem.linearized(point)
        gradient = local.vjp(local.residual)
        solved = solve(local, gradient, damping, products=products, tolerance=tolerance)
        there = tuple(x - d for x, d in zip(point, solved.step, strict=True))
        foretold = dot(gradient, solved.step) - dot(solved.step, solved.product) / 2
        tried = problem.cost(there) if foretold > 0 else math.nan
        gain = (cost - tried) / foretold if foretold > 0 else math.nan
        accepted = gain > 0 and math.isfinite(tried)
        used, fallen = damping, cost - tried
        if accepted:
            point, cost, local, grow = there, tried, None, 2.0
            damping *= max(1 / 3, 1 - (2 * min(gain, 1.0) - 1) ** 3)
        else:
            damping, grow = damping * grow, grow * 2
        damping = max(damping, SMALL)
        length = math.sqrt(dot(solved.step, solved.step))
        yield Iteration(
            number=number,
            point=point,
            cost=cost,
            tried=tried,
            gain=gain,
            accepted=accepted,
            damping=used,
            products=solved.products,
            length=length,
            seconds=clock() - began,
        )
        ended = fallen <= least * (cost + fallen) if accepted else damping > LARGE
        if ended or (length == 0 and not foretold > 0):
            return


def solve(
    local: Linearized,
    right: Point,
    damping: float,
    *,
    products: int,
    tolerance: float,
) -> Solved:
    """(J^T J + damping diag(J^T J)) x = right by preconditioned conjugate gradients from zero.

    Where the matrix turns out not to be positive, from rounding or because it is singular, what was
    found before is returned.

    Args:
        local: Has J.
        right: Of the equation.
        damping: In parts of the diagonal.
        products: At most so many with J^T J.
        tolerance: Of the residual, relative.
    """
    diagonal = local.diagonal()
    # Where nothing depends on a parameter any damping will do, as long as it is above zero.
    floor = max(float(part.max()) if part.numel() else 0.0 for part in diagonal) * SMALL
    extra = tuple(damping * part.clamp_min(max(floor, 1e-30)) for part in diagonal)
    step = tuple(torch.zeros_like(part) for part in right)
    product = tuple(torch.zeros_like(part) for part in right)
    rest = tuple(part.clone() for part in right)
    ahead = local.precondition(rest, extra)
    search, slope, taken = ahead, dot(rest, ahead), 0
    enough = tolerance**2 * slope
    while taken < products and slope > enough and math.isfinite(slope):
        bare = local.vjp(local.jvp(search))
        taken += 1
        whole = tuple(b + e * s for b, e, s in zip(bare, extra, search, strict=True))
        curvature = dot(search, whole)
        if not 0 < curvature < math.inf:
            break
        share = slope / curvature
        step, product = add(step, search, share), add(product, bare, share)
        rest = add(rest, whole, -share)
        ahead = local.precondition(rest, extra)
        last, slope = slope, dot(rest, ahead)
        search = add(ahead, search, slope / last)
    return Solved(step, product, taken)


def jacobi(vector: Point, diagonal: Point, damping: Point) -> Point:
    """What `Linearized.precondition` is by the diagonal alone."""
    return tuple(v / (d + e) for v, d, e in zip(vector, diagonal, damping, strict=True))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The inner product of two points, the same for any number of threads."""
    return sum(total(x * y) for x, y in zip(a, b, strict=True))


def add(a: Point, b: Point, factor: float) -> Point:
    """The point a + factor b."""
    return tuple(torch.add(x, y, alpha=factor) for x, y in zip(a, b, strict=True))
