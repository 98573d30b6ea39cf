"""How well an uncertainty map tells where a picture is wrong, and by how much.

Every function takes maps of any one shape, of colour or of depth, with the values of one view:
leave out what has no truth (`depth[mask]`). `mean_of` then averages over views, because values of a
hard view and of an easy one should not be mixed. Sorting and sums are done on the CPU, the sums in
float64. Nothing here is differentiable. `ranking.flattened` names the errors that all raise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lumigraph.uncertainty.ranking import flattened, ranking_of, ranks
from lumigraph.uncertainty.sparsification import (
    area_of,
    area_published,
    chance_of,
    curve_of,
    mean_risk,
    ratio_of,
    relative,
    rms_curve_of,
)

NLL_FLOOR = 1e-2
"""The least standard deviation that `nll` believes, as published with PH-Dropout.

It is about what noise and eight bits leave in a photo with values from 0 to 1. Without it, a few
pixels in which all renderings agree would outweigh all others. For depth choose one in its unit.
"""

NORMAL_95 = 1.959964
"""Standard deviations to each side of the mean that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class ViewMetrics:
    """The numbers of one view, or their means over views; the functions of the same name say more.

    Attributes:
        mae: Mean absolute error.
        rmse: Root of the mean squared error.
        ause_mae: Area between the sparsification curves of the MAE; 0 is the best order.
        ause_mae_chance: What a random order scores by `ause_mae` on the same errors.
        ause_mae_ratio: `ause_mae` over `ause_mae_chance`: 0 is the best order, 1 is chance.
        ause_rmse: Area between the sparsification curves of the RMSE.
        ause_rmse_chance: What a random order scores by `ause_rmse`.
        ause_rmse_ratio: `ause_rmse` over `ause_rmse_chance`.
        ause_published: The area as PH-Dropout reports it, in units of the error times percents.
        spearman: Rank correlation of the error and its standard deviation, in [-1, 1].
        pearson: Their linear correlation, in [-1, 1].
        nll: Negative log likelihood in nats per value, floored at `NLL_FLOOR` or what was asked.
        ece: Expected calibration error, in units of the error; 0 for exact standard deviations.
        aurc: Area under the risk-coverage curve, in units of the error.
        coverage_95: Share of values within 1.96 standard deviations; 0.95 for normal errors.
        sharpness: Mean standard deviation.
        max_std: Largest standard deviation.
    """

    mae: float
    rmse: float
    ause_mae: float
    ause_mae_chance: float
    ause_mae_ratio: float
    ause_rmse: float
    ause_rmse_chance: float
    ause_rmse_ratio: float
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
    by_std, by_error = ranking_of(std), ranking_of(error)
    absolute = curve_of(error, by_std, by_error)
    mae, rmse = relative(absolute), relative(rms_curve_of(error, by_std, by_error))
    return ViewMetrics(
        mae=float(error.double().mean()),
        rmse=math.sqrt(float(error.double().square().mean())),
        ause_mae=area_of(mae),
        ause_mae_chance=chance_of(mae),
        ause_mae_ratio=ratio_of(mae),
        ause_rmse=area_of(rmse),
        ause_rmse_chance=chance_of(rmse),
        ause_rmse_ratio=ratio_of(rmse),
        ause_published=area_published(absolute),
        spearman=_correlation(ranks(by_error), ranks(by_std)),
        pearson=_correlation(error.double(), std.double()),
        nll=nll(mean, std, target, floor=floor),
        ece=ece(error, std),
        aurc=mean_risk(error, by_std),
        coverage_95=interval_coverage(mean, std, target, NORMAL_95),
        sharpness=sharpness(std),
        max_std=float(std.max()),
    )


def mean_of(views: Sequence[ViewMetrics]) -> ViewMetrics:
    """Each number's mean over the views, all with the same weight; ValueError if there are none."""
    if not views:
        raise ValueError("There are no views to average the metrics of: give at least one")
    names = [field.name for field in fields(ViewMetrics)]
    return ViewMetrics(
        **{name: math.fsum(getattr(view, name) for view in views) / len(views) for name in names}
    )


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation in [-1, 1]: `pearson` of the ranks; equal values share a rank.

    0 where either map is constant, because it then orders nothing (SciPy: not a number).

    Args:
        a: Any values. [...]
        b: Any values. [...]
    """
    a, b = flattened(a=a, b=b)
    return _correlation(ranks(ranking_of(a)), ranks(ranking_of(b)))


def pearson(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation in [-1, 1]: cov(a, b) / sqrt(var(a) var(b)).

    0 where either map is constant, because it then tells nothing of the other (SciPy: not a
    number).

    Args:
        a: Any values. [...]
        b: Any values. [...]
    """
    a, b = flattened(a=a, b=b)
    return _correlation(a.double(), b.double())


def nll(mean: Tensor, std: Tensor, target: Tensor, floor: float = NLL_FLOOR) -> float:
    """Mean negative log likelihood of a normal distribution at each value, in nats.

    mean of (target - mean)^2 / (2 s^2) + log s + log(2 pi) / 2, with s = max(std, floor). For
    errors that are normal with these deviations it tends to mean(log s) + (1 + log(2 pi)) / 2.

    Args:
        mean: The prediction. [...]
        std: Its standard deviation, in the same unit. [...]
        target: The truth. [...]
        floor: The least standard deviation that is believed, above 0, in the same unit.
    """
    mean, std, target = flattened(mean=mean, std=std, target=target)
    if not 0 < floor < math.inf:
        raise ValueError(
            f"The floor of the standard deviation should be above 0 and finite, but is {floor}"
        )
    s = std.double().clamp(min=floor)
    squares = ((target.double() - mean.double()) / s).square()
    return float((squares / 2 + s.log()).mean()) + math.log(2 * math.pi) / 2


def ece(error: Tensor, std: Tensor, bins: int = 10) -> float:
    """Expected calibration error: how far the errors' RMS lies from that of their deviations.

    The sum over bins of (values in it / all) |rms(error) - rms(std)|, in units of the error. The
    bins cut the range of the standard deviations into equal widths; where all are equal there is
    one bin. It tends to 0 with growing samples for errors with exactly these deviations, normal or
    not. (Binned as PH-Dropout, arXiv 2410.05468, which compares the mean error with the mean std:
    for exact normal errors that leaves 1 - sqrt(2 / pi), a fifth of the mean std. RMS against RMS:
    Levi et al. 2019, arXiv 1905.11659.)

    Args:
        error: Absolute errors. [...]
        std: Standard deviations in the same unit. [...]
        bins: Number of bins, at least 1.
    """
    error, std = (values.double() for values in flattened(error=error, std=std))
    if bins < 1:
        raise ValueError(f"bins should be at least 1, but is {bins}")
    low, high = std.aminmax()
    width = (high - low) / bins
    steps = (std - low) / width if width > 0 else std - low
    index = steps.long().clamp(max=bins - 1)
    counts = torch.bincount(index)
    errors, deviations = (
        torch.bincount(index, weights=values.square()).sqrt() for values in (error, std)
    )
    return float((counts.sqrt() * (errors - deviations).abs()).sum()) / len(std)


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
        raise ValueError(
            f"z, half the interval's width, should be at least 0 and finite, but is {z}"
        )
    inside = (target.double() - mean.double()).abs() <= z * std.double()
    return float(inside.double().mean())


def sharpness(std: Tensor) -> float:
    """Mean standard deviation, in its unit: of two calibrated maps the smaller one says more.

    Args:
        std: Standard deviations. [...]
    """
    (std,) = flattened(std=std)
    return float(std.double().mean())


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two rows of float64; 0 if either is constant."""
    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    a, b = a / a.abs().max(), b / b.abs().max()  # their squares then stay in range
    return min(max(float(a @ b / (a.norm() * b.norm())), -1.0), 1.0)
