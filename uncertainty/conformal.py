"""Intervals that hold what they promise, view by view: split conformal prediction.

A standard deviation read as a Gaussian's says little of how often the truth lies within. Views that
the scene was neither trained nor is reported on tell by how much to stretch it: `view_score` each,
`calibrate` on the scores, and mean +- q std then covers a further view, in at least 1 - beta of its
values, with probability at least 1 - alpha. All that is assumed is that the views are exchangeable:
set apart at random, say, or every so many along the path. The probability is over the draw of all
of them; for one set of m calibration views it scatters by about sqrt(alpha (1 - alpha) / m).

    scores = [view_score(mean, std, photo, beta=0.1) for mean, std, photo in calibration_views]
    calibration = calibrate(scores, alpha=0.1, beta=0.1)
    low, high = interval(calibration, mean, std)

The score is taken per view because the values of one view err together: a q from the pooled values
of all covers the share of pixels but far fewer whole views than asked. (Vovk et al. 2005 for the
rank; VSCP 2026 for the score of a view.)
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from lumigraph.uncertainty.ranking import flattened

STD_FLOOR = 1e-4
"""The least standard deviation that errors are divided by and intervals are made of.

Where no splat lies nothing can vary, and an error there would be infinitely many of its standard
deviations. This is a fortieth of a step of eight bits in a photo whose values go to 1: too little
to be seen in an interval, and no standard deviation that matters is that small.
"""

ROUNDING = 1e-12
"""Relative: 0.9 as a float times 10 values are 9 of them, whichever way the product rounds."""

LARGEST = 1e12
"""Of a count or a score in a file: beyond everything that can come about."""


@dataclass(frozen=True)
class Calibration:
    """By how much to stretch standard deviations, and what that was made to hold.

    It belongs to the scene and to the way its standard deviations are made (the rate, exact or
    sampled): others need their own. ValueError names the field that is out of range.

    Attributes:
        alpha: The share of views that may be missed, in (0, 1).
        beta: The share of a view's values that may lie outside before it is missed, in [0, 1).
        q: Half the width of an interval, in standard deviations.
        views: How many views it was calibrated on; at least `views_needed(alpha)`.
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
        """It as plain data, for JSON; `from_plain` is the way back."""
        return asdict(self)

    @classmethod
    def from_plain(cls, data: Any) -> Self:
        """The calibration that plain data, of a file say, tells of; other entries do not matter.

        Raises:
            ValueError: It is no dict, or the field it names is missing, not a number or out of
                range.
        """
        if not isinstance(data, dict):
            raise ValueError(f"A calibration should be a JSON object, but is {_shown(data)}")
        values = {}
        for field in fields(cls):
            value = data.get(field.name)
            kind = int if field.name == "views" else int | float
            if not isinstance(value, kind) or isinstance(value, bool):
                what = "a whole number" if kind is int else "a number"
                raise ValueError(
                    f"{field.name} of a calibration should be {what}, but is {_shown(value)}: "
                    "calibrate again"
                )
            values[field.name] = value
        return cls(**values)


def view_score(mean: Tensor, std: Tensor, target: Tensor, *, beta: float) -> float:
    """How far a view's intervals must be stretched to hold 1 - beta of its values.

    R = the least r with |target - mean| <= r max(std, STD_FLOOR) in a share of at least 1 - beta of
    all pixels and channels: a quantile that is one of the values, not one between two.

    Args:
        mean: The prediction. [...]
        std: Its standard deviation, not negative, in the same unit. [...]
        target: The truth. [...]
        beta: The share of values that may lie outside, in [0, 1).

    Raises:
        ValueError: The maps differ in shape, are empty or not finite, `std` is negative somewhere,
            or `beta` is out of range.
    """
    _check_beta(beta)
    ratios = _ratios(mean, std, target)
    return float(ratios.kthvalue(_rank(1 - beta, len(ratios))).values)


def views_needed(alpha: float) -> int:
    """The least number of views that can be calibrated on for a level: ceil(1 / alpha) - 1."""
    _check("alpha", alpha, 1 / LARGEST < alpha < 1, "between 0 and 1")
    return max(math.ceil((1 - ROUNDING) / alpha) - 1, 1)


def best_level(views: int) -> float:
    """The highest 1 - alpha that so many calibration views allow: views / (views + 1)."""
    if views < 1:
        raise ValueError(f"A calibration needs at least 1 view, but has {views}: set some apart")
    return views / (views + 1)


def calibrate(scores: Sequence[float], *, alpha: float, beta: float) -> Calibration:
    """The calibration from the scores of m views: q is their ceil((m + 1)(1 - alpha))-th smallest.

    Args:
        scores: `view_score` of each view, with this `beta`. [m]
        alpha: The share of further views that may be missed, in (0, 1).
        beta: The share of a view's values that may lie outside, in [0, 1).

    Raises:
        ValueError: There are too few views for `alpha` (the message says what they allow), or a
            number is out of range.
    """
    needed, views = views_needed(alpha), len(scores)
    least = math.ceil(1000 * (1 - best_level(views)) * (1 - ROUNDING)) / 1000
    if views < needed:
        raise ValueError(
            f"Covering {100 * (1 - alpha):.4g} % of all views takes at least {needed} calibration "
            f"views, but there {'is' if views == 1 else 'are'} {views}: set more apart, or ask for "
            f"at most {100 * (1 - least):.3g} % (an alpha of {least:g})"
        )
    for score in scores:
        _check("A view's score", score, 0 <= score < LARGEST, f"at least 0 and below {LARGEST:g}")
    q = sorted(scores)[_rank(1 - alpha, views + 1) - 1]
    return Calibration(alpha, beta, float(q), views)


def interval(calibration: Calibration, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper ends: mean -+ q max(std, STD_FLOOR). [...] and [...]

    They are not cut to the range of colours, and differentiable to both maps.

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

    The same as `view_score(...) <= calibration.q`.

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
    """The share of a view's values that its intervals hold, in [0, 1].

    At least 1 - beta exactly where `covers` says so; arguments and errors are as it has them.
    """
    ratios = _ratios(mean, std, target)
    return int((ratios <= calibration.q).sum()) / len(ratios)


def split_coverage(
    scores: Sequence[float], *, alpha: float, generator: torch.Generator, splits: int = 20
) -> Tensor:
    """The share of views covered when a random half calibrates and the other half is covered.

    For experiments: with all splits drawn at random their mean should be 1 - alpha or a little
    more. Of an odd number of views the larger part is covered.

    Args:
        scores: `view_score` of each view, all with one beta.
        alpha: The share of views that may be missed, in (0, 1).
        generator: Draws the splits; on the CPU.
        splits: How many, at least 1.

    Returns:
        The share for each split, in [0, 1]. [splits]

    Raises:
        ValueError: Half the views are too few for `alpha`, or a number is out of range.
    """
    if splits < 1:
        raise ValueError(f"At least 1 split is needed, but {splits} were asked for")
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
    """How many of `count` make up at least this share of them."""
    return max(math.ceil(share * count * (1 - ROUNDING)), 1)


def _check_beta(beta: float) -> None:
    _check("beta", beta, 0 <= beta < 1, "at least 0 and below 1")


def _check(name: str, value: float, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"{name} should be {expected}, but is {_shown(value)}")


def _shown(value: Any) -> str:
    """A value for a message, cut to a harmless length."""
    return "".join(c if c.isprintable() else "?" for c in repr(value)[:80])
