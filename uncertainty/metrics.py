"""How well an uncertainty map tells where a picture is wrong.

Every function takes maps of any one shape, of colour or of depth, all values of one view: leave
out what has no truth (`depth[mask]`). One view at a time; `mean_of` then averages over views, for
values of a hard view and of an easy one do not mix. Sorting and sums are done on the CPU, the sums
in float64. Nothing here is differentiable. All raise ValueError where the maps differ in shape, are
empty, are not floats, are not finite, or hold a negative error or standard deviation.

Where several values are equally uncertain, no order among them is the right one. Each then counts
with the mean error of its group, which is what orders drawn at random give in expectation (for
RMSE: in expectation of the squared error), so the order of the pixels never matters and a constant
map scores as a random one does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

Measure = Literal["mae", "rmse"]

NLL_FLOOR = 1e-2
"""The least standard deviation that `nll` believes, as published with PH-Dropout.

It is about what noise and eight bits leave in a photo whose values go to 1. Without it, a few
pixels in which all renderings agree would outweigh all others. For depth choose one in its unit.
"""

NORMAL_95 = 1.959964
"""Standard deviations to each side of the mean that hold 95 % of a normal distribution."""

NOT_NEGATIVE = ("error", "std")


@dataclass(frozen=True)
class Curve:
    """What remains of the error as values are left out, most uncertain first.

    Attributes:
        shares: Where on the curve, in [0, 1]. [points]
        values: The error of what is kept if the uncertainty chooses. [points]
        oracle: The same if the error itself chooses: no map can do better. [points]
    """

    shares: Tensor
    values: Tensor
    oracle: Tensor


@dataclass(frozen=True)
class ViewMetrics:
    """The numbers of one view, or their means over views; the functions of the same name say more.

    Attributes:
        mae: Mean absolute error of the mean image.
        rmse: The root of its mean squared error.
        ause_mae: Area between the sparsification curves of the MAE; 0 is perfect.
        ause_rmse: The same of the RMSE.
        ause_published: The area as PH-Dropout reports it, in units of the error times percents.
        spearman: Rank correlation of the error and its standard deviation, in [-1, 1].
        pearson: Their linear correlation, in [-1, 1].
        nll: Negative log likelihood in nats per value, floored at `NLL_FLOOR` or what was asked.
        ece: Expected calibration error, in units of the error.
        aurc: Area under the risk-coverage curve, in units of the error.
        coverage_95: Share of values that the Gaussian 95 % interval holds.
        sharpness: Mean standard deviation.
        max_std: Largest standard deviation.
    """

    mae: float
    rmse: float
    ause_mae: float
    ause_rmse: float
    ause_published: float
    spearman: float
    pearson: float
    nll: float
    ece: float
    aurc: float
    coverage_95: float
    sharpness: float
    max_std: float


def view_metrics(
    mean: Tensor, std: Tensor, target: Tensor, *, floor: float = NLL_FLOOR
) -> ViewMetrics:
    """All numbers of one view; each map is sorted once for all of them.

    Args:
        mean: The prediction. [...]
        std: Its standard deviation, not negative, in the same unit. [...]
        target: The truth. [...]
        floor: The least standard deviation that the likelihood believes, above 0.
    """
    mean, std, target = flattened(mean=mean, std=std, target=target)
    error = (mean - target).abs()
    by_std, by_error = _ranking(std), _ranking(error)
    squared = error.double().square()
    absolute = _curve(error, by_std, by_error)
    return ViewMetrics(
        mae=float(error.double().mean()),
        rmse=math.sqrt(float(squared.mean())),
        ause_mae=_area(_normalised(absolute)),
        ause_rmse=_area(_normalised(_rooted(_curve(squared, by_std, by_error)))),
        ause_published=_area_published(absolute),
        spearman=_correlation(_ranks(by_error), _ranks(by_std)),
        pearson=_correlation(error.double(), std.double()),
        nll=nll(mean, std, target, floor=floor),
        ece=ece(error, std),
        aurc=_mean_risk(error, by_std),
        coverage_95=interval_coverage(mean, std, target, NORMAL_95),
        sharpness=sharpness(std),
        max_std=float(std.max()),
    )


def mean_of(views: Sequence[ViewMetrics]) -> ViewMetrics:
    """Each number's mean over the views, all with the same weight; ValueError if there are none."""
    if not views:
        raise ValueError("There are no views whose metrics could be averaged: give at least one")
    names = [field.name for field in fields(ViewMetrics)]
    return ViewMetrics(
        **{name: math.fsum(getattr(view, name) for view in views) / len(views) for name in names}
    )


def sparsification(error: Tensor, uncertainty: Tensor, *, measure: Measure) -> Curve:
    """The error of what is left when the most uncertain shares 0, 0.01, ..., 0.99 are removed.

    Both curves are divided by the error of all values, so they start at 1 and have no unit; where
    the error is 0 everywhere both are 0. Of n values exactly (1 - share) n are kept: the last one
    counts in part, where others round to a whole one. (Ilg et al. 2018; normalised as Goli et al.
    2024, Bayes' Rays, do it.)

    Args:
        error: Absolute errors. [...]
        uncertainty: What grows with the expected error; only its order counts, and it may be
            negative. [...]
        measure: Whether the error of what is left is its mean or the root of its mean square.
    """
    error, uncertainty = flattened(error=error, uncertainty=uncertainty)
    by, oracle = _ranking(uncertainty), _ranking(error)
    match measure:
        case "mae":
            return _normalised(_curve(error, by, oracle))
        case "rmse":
            return _normalised(_rooted(_curve(error.double().square(), by, oracle)))
    raise ValueError(f'measure should be "mae" or "rmse", but is {measure!r}')


def ause(error: Tensor, uncertainty: Tensor, *, measure: Measure) -> float:
    """Area under the sparsification error: between the two curves of `sparsification`.

    By trapezoids over the shares 0 to 0.99; 0 if the uncertainty orders the values as their error
    does. Without unit. (Bayes' Rays' form of Ilg et al. 2018.)

    Args:
        error: Absolute errors. [...]
        uncertainty: What grows with the expected error. [...]
        measure: As for `sparsification`.
    """
    return _area(sparsification(error, uncertainty, measure=measure))


def ause_published(error: Tensor, std: Tensor) -> float:
    """The area as PH-Dropout reports it (arXiv 2410.05468): for parity with the paper alone.

    The mean error is not divided by that of all values, and the trapezoids run over the percents
    1, 2, ..., 99 with a step of 1. The unit is that of the error, and the number about `ause` times
    100 times the mean error.

    Args:
        error: Absolute errors. [...]
        std: Standard deviations in the same unit. [...]
    """
    error, std = flattened(error=error, std=std)
    return _area_published(_curve(error, _ranking(std), _ranking(error)))


def risk_coverage(error: Tensor, uncertainty: Tensor) -> Curve:
    """The mean error (risk) of the least uncertain shares 0.01, 0.02, ..., 1 (coverage).

    In units of the error: the sparsification curve of the MAE, not normalised and read from the
    other end. (El-Yaniv and Wiener 2010.)

    Args:
        error: Absolute errors. [...]
        uncertainty: What grows with the expected error. [...]
    """
    error, uncertainty = flattened(error=error, uncertainty=uncertainty)
    left = _curve(error, _ranking(uncertainty), _ranking(error))
    return Curve((1 - left.shares).flip(0), left.values.flip(0), left.oracle.flip(0))


def aurc(error: Tensor, uncertainty: Tensor) -> float:
    """Area under the risk-coverage curve: the mean over k of the mean error of the k most certain.

    In units of the error; over every k = 1, ..., n rather than the curve's hundred points. (Geifman
    et al. 2019.)

    Args:
        error: Absolute errors. [...]
        uncertainty: What grows with the expected error. [...]
    """
    error, uncertainty = flattened(error=error, uncertainty=uncertainty)
    return _mean_risk(error, _ranking(uncertainty))


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation in [-1, 1]: `pearson` of the ranks, equal values sharing theirs.

    0 where either is constant, for it then orders nothing (SciPy: not a number).

    Args:
        a: Any values. [...]
        b: Any values. [...]
    """
    a, b = flattened(a=a, b=b)
    return _correlation(_ranks(_ranking(a)), _ranks(_ranking(b)))


def pearson(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation in [-1, 1]: cov(a, b) / sqrt(var(a) var(b)).

    0 where either is constant, for it then tells nothing of the other (SciPy: not a number).

    Args:
        a: Any values. [...]
        b: Any values. [...]
    """
    a, b = flattened(a=a, b=b)
    return _correlation(a.double(), b.double())


def nll(mean: Tensor, std: Tensor, target: Tensor, floor: float = NLL_FLOOR) -> float:
    """Mean negative log likelihood of a Gaussian at each value, in nats.

    mean of (target - mean)^2 / (2 s^2) + log s + log(2 pi) / 2, with s = max(std, floor).

    Args:
        mean: The prediction. [...]
        std: Its standard deviation, in the same unit. [...]
        target: The truth. [...]
        floor: The least standard deviation believed, above 0, in the same unit.
    """
    mean, std, target = flattened(mean=mean, std=std, target=target)
    if not 0 < floor < math.inf:
        raise ValueError(f"The floor of the standard deviation should be above 0, but is {floor}")
    s = std.double().clamp(min=floor)
    squares = ((target.double() - mean.double()) / s).square()
    return float((squares / 2 + s.log()).mean()) + math.log(2 * math.pi) / 2


def ece(error: Tensor, std: Tensor, bins: int = 10) -> float:
    """Expected calibration error: how far the mean error lies from the mean standard deviation.

    The sum over bins of (values in it / all) |mean error - mean std|, in units of the error. The
    bins cut the range of the standard deviations, least to largest, in equal widths; where all are
    equal there is one. (As PH-Dropout, arXiv 2410.05468.)

    Args:
        error: Absolute errors. [...]
        std: Standard deviations in the same unit. [...]
        bins: How many, at least 1.
    """
    error, std = (values.double() for values in flattened(error=error, std=std))
    if bins < 1:
        raise ValueError(f"At least 1 bin is needed, but {bins} were asked for")
    low, high = std.aminmax()
    width = (high - low) / bins
    steps = (std - low) / width if width > 0 else std - low
    index = steps.long().clamp(max=bins - 1)
    return float(torch.bincount(index, weights=error - std).abs().sum()) / len(std)


def interval_coverage(mean: Tensor, std: Tensor, target: Tensor, z: float) -> float:
    """The share of values with |target - mean| <= z std, in [0, 1].

    Args:
        mean: The prediction. [...]
        std: Its standard deviation, in the same unit. [...]
        target: The truth. [...]
        z: Half the interval's width in standard deviations, not negative.
    """
    mean, std, target = flattened(mean=mean, std=std, target=target)
    if not 0 <= z < math.inf:
        raise ValueError(f"z, half the interval's width, should not be negative, but is {z}")
    inside = (target.double() - mean.double()).abs() <= z * std.double()
    return float(inside.double().mean())


def sharpness(std: Tensor) -> float:
    """Mean standard deviation, in its unit: of two calibrated maps the smaller one says more.

    Args:
        std: Standard deviations. [...]
    """
    (std,) = flattened(std=std)
    return float(std.double().mean())


def flattened(**maps: Tensor) -> list[Tensor]:
    """The maps as rows of float32 or float64 on the CPU; ValueError tells which is unfit, and why.

    Maps named in `NOT_NEGATIVE` may not be.
    """
    if len({values.shape for values in maps.values()}) > 1:
        shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in maps.items())
        raise ValueError(f"The maps should have one shape, but are {shapes}: resize them to one")
    rows = []
    for name, values in maps.items():
        if values.numel() == 0:
            raise ValueError(f"{name} is empty, {list(values.shape)}: give at least one value")
        if not values.is_floating_point():
            raise ValueError(f"{name} should hold floats, but holds {values.dtype}: convert it")
        row = values.detach().cpu().flatten()
        row = row if row.dtype == torch.float64 else row.float()
        unfit = int((~row.isfinite()).sum())
        if unfit:
            raise ValueError(
                f"{name} is not finite in {unfit} of {len(row)} values: leave these out everywhere"
            )
        if name in NOT_NEGATIVE and row.min() < 0:
            raise ValueError(f"{name} should not be negative, but goes down to {float(row.min())}")
        rows.append(row)
    return rows


@dataclass(frozen=True)
class _Ranking:
    """Values in rising order, equal ones in groups.

    Attributes:
        order: Where the k-th smallest value lies. [n]
        group: Which group of equal values it belongs to, counted from 0. [n]
        sizes: How many values each group has. [groups]
    """

    order: Tensor
    group: Tensor
    sizes: Tensor


def _ranking(values: Tensor) -> _Ranking:
    """The ranking of a row of finite floats.

    Sorted are their bits read as integers, with those of negative numbers turned around: the same
    order, and PyTorch sorts integers five times as fast. Adding 0 makes -0 equal to 0.
    """
    integer = torch.int32 if values.dtype == torch.float32 else torch.int64
    bits = (values + 0.0).view(integer)
    info = torch.iinfo(integer)
    keys, order = torch.where(bits < 0, bits ^ info.max, bits).sort()
    _, group, sizes = keys.unique_consecutive(return_inverse=True, return_counts=True)
    return _Ranking(order, group, sizes)


def _ranks(ranking: _Ranking) -> Tensor:
    """Each value's rank from 1, the mean of its group's, where the value lies. [n]"""
    average = ranking.sizes.cumsum(0) - (ranking.sizes - 1) / 2
    ranks = torch.empty(len(ranking.order), dtype=torch.float64)
    ranks[ranking.order] = average.double()[ranking.group]
    return ranks


def _levelled(values: Tensor, ranking: _Ranking) -> Tensor:
    """The values in the ranking's order, each replaced by the mean over its group. [n]"""
    ordered = values[ranking.order].double()
    if len(ranking.sizes) == len(ordered):
        return ordered
    return (torch.bincount(ranking.group, weights=ordered) / ranking.sizes)[ranking.group]


def _curve(error: Tensor, by: _Ranking, oracle: _Ranking) -> Curve:
    """The mean of `error` over what is left after 0 to 99 percents are removed by either."""
    shares = torch.arange(100, dtype=torch.float64) / 100
    return Curve(shares, _means_left(_levelled(error, by)), _means_left(_levelled(error, oracle)))


def _means_left(ordered: Tensor) -> Tensor:
    """Means of the first 100, 99, ..., 1 percent of the values, the last one in part. [100]"""
    left = torch.arange(100, 0, -1, dtype=torch.float64) * len(ordered) / 100
    whole = left.long()
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    next_one = ordered[whole.clamp(max=len(ordered) - 1)]
    return (sums[whole] + (left - whole) * next_one) / left


def _rooted(curve: Curve) -> Curve:
    return Curve(curve.shares, curve.values.sqrt(), curve.oracle.sqrt())


def _normalised(curve: Curve) -> Curve:
    """Both curves divided by the error of all values, where that is not 0."""
    whole = curve.oracle[0] if curve.oracle[0] > 0 else 1.0
    return Curve(curve.shares, curve.values / whole, curve.oracle / whole)


def _area(curve: Curve) -> float:
    return float(torch.trapezoid(curve.values - curve.oracle, curve.shares))


def _area_published(curve: Curve) -> float:
    """The area from 1 percent on, with a percent as the unit of the shares."""
    return 100 * _area(Curve(curve.shares[1:], curve.values[1:], curve.oracle[1:]))


def _mean_risk(error: Tensor, ranking: _Ranking) -> float:
    counts = torch.arange(1, len(error) + 1, dtype=torch.float64)
    return float((_levelled(error, ranking).cumsum(0) / counts).mean())


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two rows of float64; 0 if either is constant."""
    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    a, b = a / a.abs().max(), b / b.abs().max()  # their squares then stay in range
    return min(max(float(a @ b / (a.norm() * b.norm())), -1.0), 1.0)
