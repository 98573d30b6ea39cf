"""What both forms of Levenberg-Marquardt share: the report of an iteration, and sums."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lumigraph.kernels import Parameters

SUM_ROW = 4096
"""Numbers that one thread sums."""


@dataclass(frozen=True)
class Try:
    """The outcome of one iteration: one step of 3DGS-LM, or a hundred steps of "lm" (`lm.py`).

    3DGS-LM judges a step on the last batch of photos, so its costs are those of that batch. "lm"
    takes the mean loss over its steps, each measured before the step.

    Attributes:
        number: Counts the iterations from 1.
        before: The cost before this iteration.
        tried: The cost after this iteration.
        gain: The ratio of the fall of the cost to the predicted fall; nan where no fall was
            predicted. "lm" measures it on the photos that it linearized.
        accepted: Whether the scene keeps the result; if not, the scene went back: with 3DGS-LM to
            where it was before the iteration, with "lm" to the best one up to now.
        damping: The damping of this iteration; in 3DGS-LM one over the radius.
        shortened: The part of the step that the line search kept, from 0 to 1.
        length: The Euclidean length of the step, after the line search; with "lm" that of the last
            step that was judged.
        products: Products of J^T J with a vector; with "lm", of J with a vector.
        images: Photos that the iteration learned from.
        seconds: The duration of the iteration.
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
        """The cost of the scene after the iteration."""
        return self.tried if self.accepted else self.before


def total(numbers: Tensor) -> float:
    """The sum in 64 bits, the same bit for bit for any number of threads.

    `Tensor.sum` gives each thread a part of a long tensor, so its result depends on their number.
    Here each row of `SUM_ROW` numbers is summed by one thread.
    """
    numbers = numbers.flatten()
    whole = len(numbers) // SUM_ROW * SUM_ROW
    rows = numbers[:whole].view(-1, SUM_ROW).sum(1, dtype=torch.float64)
    return float(rows.sum() + numbers[whole:].sum(dtype=torch.float64))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The inner product of two sets of parameters, the same for any number of threads."""
    return sum(total(x * y) for x, y in zip(a, b, strict=True))


def moved(scene: Parameters, step: Parameters, by: float) -> Parameters:
    """The parameters scene - by * step."""
    return Parameters(*(torch.add(x, d, alpha=-by) for x, d in zip(scene, step, strict=True)))


def zeros_like(scene: Parameters) -> Parameters:
    """Zeros of the shape of each parameter."""
    return Parameters(*(torch.zeros_like(x) for x in scene))
