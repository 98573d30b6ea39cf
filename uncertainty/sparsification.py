"""Sparsification: how the error falls as the most uncertain values are removed, and its area, AUSE.

All functions take maps of one shape, with the values of one view; `ranking.flattened` names the
errors they raise. Sums are done on the CPU in float64. Nothing here is differentiable.

The AUSE is the area between a map's curve and the curve of the best order, which removes the
largest errors first. How large an AUSE is depends on the errors: by the MAE a random order scores
0.49 where errors are uniform, 0.56 where they are normal, and more where few of them are large. So
an AUSE is compared with what chance scores on the same errors: `ause_ratio` is 0 for the best order
and 1 for chance.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lumigraph.uncertainty.ranking import Ranking, flattened, levelled, ranking_of

Measure = Literal["mae", "rmse"]

EQUAL = 1e-12
"""Below this score by chance all errors are equal but for rounding."""


@dataclass(frozen=True)
class Curve:
    """The error of the values that are left as values are removed, the most uncertain first.

    Attributes:
        shares: Positions along the curve, in [0, 1]. [points]
        values: The error of what is left if the uncertainty chooses what is removed. [points]
        oracle: The error of what is left if the error itself chooses: the best order. [points]
    """

    shares: Tensor
    values: Tensor
    oracle: Tensor


def sparsification(error: Tensor, uncertainty: Tensor, *, measure: Measure) -> Curve:
    """The error of what is left when the most uncertain shares 0, 0.01, ..., 0.99 are removed.

    Both curves are divided by the error of all values, so they start at 1 and have no unit; where
    the error is 0 everywhere both are 0. Of n values exactly (1 - share) n are kept: the last one
    counts in part, where other programs round to a whole one. (Ilg et al. 2018; normalised as by
    Goli et al. 2024, Bayes' Rays.)

    Args:
        error: Absolute errors. [...]
        uncertainty: A map that should grow with the expected error; only its order counts, and it
            may be negative. [...]
        measure: Whether the error of what is left is its mean or the root of its mean square.
    """
    error, uncertainty = flattened(error=error, uncertainty=uncertainty)
    by, oracle = ranking_of(uncertainty), ranking_of(error)
    match measure:
        case "mae":
            return relative(curve_of(error, by, oracle))
        case "rmse":
            return relative(rms_curve_of(error, by, oracle))
    raise ValueError(f'measure should be "mae" or "rmse", but is {measure!r}')


def ause(error: Tensor, uncertainty: Tensor, *, measure: Measure) -> float:
    """Area under the sparsification error: between the two curves of `sparsification`.

    By trapezoids over the shares 0 to 0.99, without unit; 0 is the best order. What chance scores
    depends on the errors: see `ause_chance`. (Bayes' Rays' form of Ilg et al. 2018.)

    Args:
        error: Absolute errors. [...]
        uncertainty: A map that should grow with the expected error. [...]
        measure: As for `sparsification`.
    """
    return area_of(sparsification(error, uncertainty, measure=measure))


def ause_chance(error: Tensor, *, measure: Measure) -> float:
    """What `ause` of a random order is in expectation: the area between 1 and the oracle's curve.

    What is left after a random removal has, in expectation, the error of all values (for RMSE: the
    squared error has), so the expected curve is flat and no random map needs to be drawn.

    Args:
        error: Absolute errors. [...]
        measure: As for `sparsification`.
    """
    return chance_of(sparsification(error, error, measure=measure))


def ause_ratio(error: Tensor, uncertainty: Tensor, *, measure: Measure) -> float:
    """`ause` over `ause_chance`: 0 is the best order, 1 is chance, more is worse than chance.

    1 where all errors are equal, because no order is better than another there.

    Args:
        error: Absolute errors. [...]
        uncertainty: A map that should grow with the expected error. [...]
        measure: As for `sparsification`.
    """
    return ratio_of(sparsification(error, uncertainty, measure=measure))


def ause_published(error: Tensor, std: Tensor) -> float:
    """The AUSE as PH-Dropout reports it (arXiv 2410.05468), only to compare with that paper.

    The mean error is not divided by that of all values, and the trapezoids run over the percents
    1, 2, ..., 99 with a step of 1. The unit is that of the error, and the number is about 100 times
    the mean error times `ause`.

    Args:
        error: Absolute errors. [...]
        std: Standard deviations in the same unit. [...]
    """
    error, std = flattened(error=error, std=std)
    return area_published(curve_of(error, ranking_of(std), ranking_of(error)))


def risk_coverage(error: Tensor, uncertainty: Tensor) -> Curve:
    """The mean error (risk) of the least uncertain shares 0.01, 0.02, ..., 1 (coverage).

    In units of the error: the sparsification curve of the MAE, not normalised and read from the
    other end. (El-Yaniv and Wiener 2010.)

    Args:
        error: Absolute errors. [...]
        uncertainty: A map that should grow with the expected error. [...]
    """
    error, uncertainty = flattened(error=error, uncertainty=uncertainty)
    left = curve_of(error, ranking_of(uncertainty), ranking_of(error))
    return Curve((1 - left.shares).flip(0), left.values.flip(0), left.oracle.flip(0))


def aurc(error: Tensor, uncertainty: Tensor) -> float:
    """Area under the risk-coverage curve: the mean over k of the mean error of the k most certain.

    In units of the error; over every k = 1, ..., n rather than the curve's hundred points. Chance
    scores the mean error. (Geifman et al. 2019.)

    Args:
        error: Absolute errors. [...]
        uncertainty: A map that should grow with the expected error. [...]
    """
    error, uncertainty = flattened(error=error, uncertainty=uncertainty)
    return mean_risk(error, ranking_of(uncertainty))


def curve_of(error: Tensor, by: Ranking, oracle: Ranking) -> Curve:
    """The mean of `error` over what is left after 0 to 99 percent are removed by either ranking."""
    shares = torch.arange(100, dtype=torch.float64) / 100
    return Curve(shares, _means_left(levelled(error, by)), _means_left(levelled(error, oracle)))


def rms_curve_of(error: Tensor, by: Ranking, oracle: Ranking) -> Curve:
    """The root of the mean square of `error` over what is left, as `curve_of` has its mean."""
    squares = curve_of(error.double().square(), by, oracle)
    return Curve(squares.shares, squares.values.sqrt(), squares.oracle.sqrt())


def relative(curve: Curve) -> Curve:
    """The curve over the error of all values, where that is not 0."""
    whole = curve.oracle[0] if curve.oracle[0] > 0 else 1.0
    return Curve(curve.shares, curve.values / whole, curve.oracle / whole)


def area_of(curve: Curve) -> float:
    """The AUSE of a relative curve."""
    return float(torch.trapezoid(curve.values - curve.oracle, curve.shares))


def chance_of(curve: Curve) -> float:
    """The AUSE of a random order in place of the one that made this relative curve."""
    return float(torch.trapezoid(curve.oracle[0] - curve.oracle, curve.shares))


def ratio_of(curve: Curve) -> float:
    """The AUSE of a relative curve over that of a random order."""
    chance = chance_of(curve)
    return area_of(curve) / chance if chance > EQUAL else 1.0


def area_published(curve: Curve) -> float:
    """The area from 1 percent on, with a percent as the unit of the shares."""
    return float(torch.trapezoid((curve.values - curve.oracle)[1:], 100 * curve.shares[1:]))


def mean_risk(error: Tensor, ranking: Ranking) -> float:
    """The mean over k of the mean error of the first k values of the ranking."""
    counts = torch.arange(1, len(error) + 1, dtype=torch.float64)
    return float((levelled(error, ranking).cumsum(0) / counts).mean())


def _means_left(ordered: Tensor) -> Tensor:
    """Means of the first 100, 99, ..., 1 percent of the values, the last one in part. [100]"""
    left = torch.arange(100, 0, -1, dtype=torch.float64) * len(ordered) / 100
    whole = left.long()
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    next_one = ordered[whole.clamp(max=len(ordered) - 1)]
    return (sums[whole] + (left - whole) * next_one) / left
