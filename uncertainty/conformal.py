"""Intervals that cover a promised share of further views: split conformal prediction.

A standard deviation by itself does not say how often the truth lies within it. Calibration views,
which the scene was not trained on, tell by how much to stretch it: take the `view_score` of each
and `calibrate` on the scores. Then mean +- q std covers a further view with probability at least
1 - alpha. A view is covered if at least 1 - beta of its values lie in their intervals; a value is
one channel of one pixel.

    scores = [view_score(mean, std, photo, beta=0.1) for mean, std, photo in calibration_views]
    calibration = calibrate(scores, alpha=0.1, beta=0.1)
    low, high = interval(calibration, mean, std)

The only assumption is that the further view and the calibration views are exchangeable: all were
drawn at random from the same views and kept from training. Views of another kind, along another
path for example, are not. The probability is over the draw of all these views; for one set of m
calibration views it scatters by about sqrt(alpha (1 - alpha) / m).

The score is taken per view because the errors of one view come together: a q from the pooled values
of all views covers the asked share of values but far fewer whole views. (Vovk et al. 2005 for the
rank; VSCP 2026 for the score of a view.)
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from lumigraph.datasets.files import shown
from lumigraph.uncertainty.ranking import flattened

STD_FLOOR = 1e-4
"""The least standard deviation: smaller ones are raised to it before anything else is done.

Where there is no splat nothing varies, and any error there would be infinitely many standard
deviations. The floor is a fortieth of one step of an 8-bit photo with values from 0 to 1: too small
to be seen in an interval.
"""

ROUNDING = 1e-12
"""Relative rounding error that is forgiven: 0.9 times 10 values are 9, however it rounds."""

LARGEST = 1e12
"""Upper limit of a count or a score in a file, larger than any real one."""


@dataclass(frozen=True)
class Calibration:
    """The factor that turns standard deviations into intervals, and what these promise.

    It is valid for one scene and for one way to make its standard deviations (the rate, and exact
    or sampled). ValueError names the field that is out of range.

    Attributes:
        alpha: The share of views that need not be covered, in (0, 1).
        beta: The share of a covered view's values that may lie outside their intervals, in [0, 1).
        q: Half the width of an interval, in standard deviations.
        views: The number of calibration views; at least `views_needed(alpha)`.
    """

    alpha: float
    beta: float
    q: float
    views: int

    def __post_init__(self) -> None:
        least = views_needed(self.alpha)
        _check_beta(self.beta)
        _check("q", self.q, 0 <= self.q < LARGEST, f"at least 0 and below {LARGEST:g}")
        _check("views", self.views, least <= self.views < LARGEST, f"at least {least}")

    def plain(self) -> dict[str, Any]:
        """The fields as plain data for JSON; `from_plain` reads them."""
        return asdict(self)

    @classmethod
    def from_plain(cls, data: Any) -> Self:
        """The calibration in plain data, from a file for example; other entries are ignored.

        Raises:
            ValueError: The data is not a dict, or the named field is missing, not a number or out
                of range.
        """
        if not isinstance(data, dict):
            raise ValueError(f"A calibration should be a JSON object, but is {shown(data)}")
        values = {}
        for field in fields(cls):
            value = data.get(field.name)
            kind = int if field.name == "views" else int | float
            if not isinstance(value, kind) or isinstance(value, bool):
                what = "a whole number" if kind is int else "a number"
                raise ValueError(
                    f"{field.name} of a calibration should be {what}, but is {shown(value)}: "
                    "calibrate again"
                )
            values[field.name] = value
        return cls(**values)


def view_score(mean: Tensor, std: Tensor, target: Tensor, *, beta: float) -> float:
    """The least factor by which a view's intervals hold 1 - beta of its values.

    R = the least r with |target - mean| <= r max(std, STD_FLOOR) for a share of at least 1 - beta
    of the values. This quantile is always one of the ratios, never between two of them.

    Args:
        mean: The prediction. [...]
        std: Its standard deviation, not negative, in the same unit. [...]
        target: The truth. [...]
        beta: The share of values that may lie outside their intervals, in [0, 1).

    Raises:
        ValueError: The maps differ in shape, are empty or not finite, `std` is negative somewhere,
            or `beta` is out of range.
    """
    _check_beta(beta)
    ratios = _ratios(mean, std, target)
    return float(ratios.kthvalue(_rank(1 - beta, len(ratios))).values)


def views_needed(alpha: float) -> int:
    """The least number of calibration views for a level of 1 - alpha: ceil(1 / alpha) - 1."""
    _check("alpha", alpha, 1 / LARGEST < alpha < 1, "between 0 and 1")
    return max(math.ceil((1 - ROUNDING) / alpha) - 1, 1)


def best_level(views: int) -> float:
    """The highest level 1 - alpha for this number of calibration views: views / (views + 1)."""
    if views < 1:
        raise ValueError(f"A calibration needs at least 1 view, but has {views}: set some aside")
    return views / (views + 1)


def calibrate(scores: Sequence[float], *, alpha: float, beta: float) -> Calibration:
    """The calibration from the scores of m views: q is the ceil((m + 1)(1 - alpha))-th smallest.

    A further view is equally likely to take each of the m + 1 places among the scores, so it is
    covered with probability ceil((m + 1)(1 - alpha)) / (m + 1) if no two scores are equal.

    Args:
        scores: `view_score` of each calibration view, with this `beta`. [m]
        alpha: The share of further views that need not be covered, in (0, 1).
        beta: The share of a view's values that may lie outside their intervals, in [0, 1).

    Raises:
        ValueError: There are too few views for `alpha` (the message names the highest level), or
            a number is out of range.
    """
    needed, views = views_needed(alpha), len(scores)
    least = math.ceil(1000 * (1 - best_level(views)) * (1 - ROUNDING)) / 1000
    if views < needed:
        raise ValueError(
            f"Covering {100 * (1 - alpha):.4g} % of views takes at least {needed} calibration "
            f"views, but there {'is' if views == 1 else 'are'} {views}: set more aside, or ask for "
            f"at most {100 * (1 - least):.3g} % (an alpha of {least:g})"
        )
    for score in scores:
        _check("A view's score", score, 0 <= score < LARGEST, f"at least 0 and below {LARGEST:g}")
    q = sorted(scores)[_rank(1 - alpha, views + 1) - 1]
    return Calibration(alpha, beta, float(q), views)


def interval(calibration: Calibration, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper ends of the intervals: mean -+ q max(std, STD_FLOOR). [...] and [...]

    They may go beyond the range of colours, and are differentiable to both maps.

    Args:
        calibration: Made from standard deviations of the same kind.
        mean: The prediction. [...]
        std: Its standard deviation, in the same unit. [...]

    Raises:
        ValueError: The maps differ in shape, are empty or not finite, or `std` is negative.
    """
    flattened(mean=mean, std=std)
    half = calibration.q * std.clamp(min=STD_FLOOR)
    return mean - half, mean + half


def covers(calibration: Calibration, mean: Tensor, std: Tensor, target: Tensor) -> bool:
    """Whether the intervals of a view hold at least 1 - beta of its values.

    Equal to `view_score(...) <= calibration.q`.

    Args:
        calibration: Made from standard deviations of the same kind.
        mean: The prediction. [...]
        std: Its standard deviation, in the same unit. [...]
        target: The truth. [...]

    Raises:
        ValueError: As for `view_score`.
    """
    ratios = _ratios(mean, std, target)
    inside = int((ratios <= calibration.q).sum())
    return inside >= _rank(1 - calibration.beta, len(ratios))


def share_inside(calibration: Calibration, mean: Tensor, std: Tensor, target: Tensor) -> float:
    """The share of a view's values that lie in their intervals, in [0, 1].

    It is at least 1 - beta exactly if `covers` is true; arguments and errors are those of `covers`.
    """
    ratios = _ratios(mean, std, target)
    return int((ratios <= calibration.q).sum()) / len(ratios)


def split_coverage(
    scores: Sequence[float], *, alpha: float, generator: torch.Generator, splits: int = 20
) -> Tensor:
    """The share of views that are covered when a random half calibrates for the other half.

    It shows how far the coverage of a single calibration scatters. The mean over all splits says
    nothing of the scores: random halves are exchangeable, so it is ceil((m + 1)(1 - alpha)) /
    (m + 1), with m views that calibrate, for any scores without ties. Of an odd number of views the
    smaller part calibrates.

    Args:
        scores: `view_score` of each view, all with one beta.
        alpha: The share of views that need not be covered, in (0, 1).
        generator: Draws the splits; on the CPU.
        splits: The number of splits, at least 1.

    Returns:
        The share of each split, in [0, 1]. [splits]

    Raises:
        ValueError: Half the views are too few for `alpha`, or a number is out of range.
    """
    if splits < 1:
        raise ValueError(f"splits should be at least 1, but is {splits}")
    half = len(scores) // 2
    coverages = []
    for _ in range(splits):
        order = torch.randperm(len(scores), generator=generator).tolist()
        q = calibrate([scores[i] for i in order[:half]], alpha=alpha, beta=0).q
        coverages.append(sum(scores[i] <= q for i in order[half:]) / (len(scores) - half))
    return torch.tensor(coverages, dtype=torch.float64)


def _ratios(mean: Tensor, std: Tensor, target: Tensor) -> Tensor:
    """Errors in standard deviations. [values]"""
    mean, std, target = (v.double() for v in flattened(mean=mean, std=std, target=target))
    return (target - mean).abs() / std.clamp(min=STD_FLOOR)


def _rank(share: float, count: int) -> int:
    """The least whole number that is at least this share of `count`."""
    return max(math.ceil(share * count * (1 - ROUNDING)), 1)


def _check_beta(beta: float) -> None:
    _check("beta", beta, 0 <= beta < 1, "at least 0 and below 1")


def _check(name: str, value: float, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"{name} should be {expected}, but is {shown(value)}")
