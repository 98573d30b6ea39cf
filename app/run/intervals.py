"""Intervals of a run: how wide they must be, by the views set aside, and how they do on others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lumigraph.datasets import Frame
from lumigraph.render import Camera
from lumigraph.uncertainty import (
    Calibration,
    best_level,
    calibrate,
    covers,
    interval,
    view_score,
    views_needed,
)
from lumigraph.uncertainty.conformal import STD_FLOOR, share_inside

Estimator = Callable[[Camera], tuple[Tensor, Tensor]]
"""What a camera sees, and its standard deviation. [height, width, 3] both"""

Told = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""

RANGE = 1.0
"""Of colours: an interval as wide as this says nothing."""


@dataclass(frozen=True)
class Promise:
    """What intervals are asked to hold.

    Attributes:
        level: Share of views that they are to cover, in (0, 1).
        within: Share of its values that makes a view a covered one, in (0, 1].
    """

    level: float = 0.9
    within: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(
                f"The level is the share of views that intervals must cover, between 0 and 1, not "
                f"{self.level}"
            )
        if not 0 < self.within <= 1:
            raise ValueError(
                "The share of a view's values that must lie within their intervals is above 0 and "
                f"at most 1, not {self.within}"
            )


@dataclass(frozen=True)
class Held:
    """How the intervals do in a test view.

    Attributes:
        covered: Whether enough of its values lie within.
        inside: The share that does.
        width: Mean distance from the lower to the upper end, where colours go from 0 to 1.
    """

    covered: bool
    inside: float
    width: float


@dataclass(frozen=True)
class Intervals:
    """What the views set aside say.

    Attributes:
        promise: What was asked.
        calibration: How wide intervals are; None where there can be none.
        scores: Of the views set aside.
        note: What is to be known of it, a sentence without its full stop.
    """

    promise: Promise
    calibration: Calibration | None = None
    scores: tuple[float, ...] = ()
    note: str | None = None

    def held(self, picture: Tensor, std: Tensor, photo: Tensor) -> Held | None:
        """How they do in a view. All [height, width, 3], in [0, 1]"""
        if self.calibration is None:
            return None
        low, high = interval(self.calibration, picture, std)
        return Held(
            covered=covers(self.calibration, picture, std, photo),
            inside=share_inside(self.calibration, picture, std, photo),
            width=float((high - low).double().mean()),
        )


def make_intervals(
    frames: Sequence[Frame],
    estimator: Estimator,
    rate: float,
    promise: Promise,
    told: Told = lambda what, done, of: None,
) -> Intervals:
    """The intervals that keep the promise, or the best one that so few views allow.

    The scores are of what the estimator gives, neither rounded to 8 bits nor cut to [0, 1].

    Args:
        frames: Set aside from training, and seen by nobody since.
        estimator: Of the standard deviations that the intervals will be made of.
        rate: At which splats are left out there.
        promise: What they are to hold.
        told: How far it is.
    """
    if not frames:
        return Intervals(promise, note=_none_set_aside(promise))
    if rate == 0:
        sentence = "At a drop rate of 0 nothing varies, so no intervals can be made of it"
        return Intervals(promise, note=f"{sentence}: give a higher --rate, or none")
    scores, spread = [], 0.0
    for done, frame in enumerate(frames, 1):
        picture, std = estimator(frame.camera)
        photo = frame.image().float() / 255
        scores.append(view_score(picture, std, photo, beta=1 - promise.within))
        spread = max(spread, float(std.max()))
        told("Calibrating intervals", done, len(frames))
    if spread <= STD_FLOOR:
        sentence = "In no view set aside does anything vary, so no intervals can be made of it"
        return Intervals(promise, note=f"{sentence}: give a higher --rate")
    few = len(scores) < views_needed(1 - promise.level)
    level = best_level(len(scores)) if few else promise.level
    calibration = calibrate(scores, alpha=1 - level, beta=1 - promise.within)
    note = _too_few(promise, len(scores)) if few else None
    return Intervals(promise, calibration, tuple(scores), note)


def intervals_json(made: Intervals, held: Sequence[Held]) -> dict[str, Any] | None:
    """The intervals as estimate.json keeps them, with how they do in the test views."""
    if made.calibration is None:
        return None
    return {
        **made.calibration.plain(),
        "asked_level": made.promise.level,
        "level": 1 - made.calibration.alpha,
        "covered_views": _mean([each.covered for each in held]),
        "covered_values": _mean([each.inside for each in held]),
        "width": _mean([each.width for each in held]),
        "scores": list(made.scores),
    }


def note_of(made: Intervals, held: Sequence[Held]) -> str | None:
    """What is to be known of the intervals, a sentence or two without the last full stop."""
    width = _mean([each.width for each in held])
    wide = "The intervals are wider than the range of colours: they are true and say nothing"
    notes = [made.note, wide if width is not None and width >= RANGE else None]
    return ". ".join(note for note in notes if note) or None


def percent(share: float) -> str:
    """A share as a person reads it."""
    return f"{100 * share:.3g} %"


def _none_set_aside(promise: Promise) -> str:
    needed = views_needed(1 - promise.level)
    return (
        "There are no intervals, as no views were set aside to calibrate them: train with "
        f"--calibration {needed}, which is enough to cover {percent(promise.level)} of views"
    )


def _too_few(promise: Promise, views: int) -> str:
    needed = views_needed(1 - promise.level)
    return (
        f"{needed} calibration views are needed for {percent(promise.level)}, there "
        f"{'is' if views == 1 else 'are'} {views}: the intervals cover "
        f"{percent(best_level(views))} of views"
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
