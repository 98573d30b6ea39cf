"""Intervals of a run: their width comes from the calibration views, their coverage from test views.

An interval belongs to a colour value: one channel of one pixel. Three of them, one for each
channel, belong to a pixel; they do not promise to hold all three channels together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lumigraph.datasets import Capture, Frame
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
"""The picture that a camera sees, and its standard deviation. Both [height, width, 3]"""

Told = Callable[[str, int, int], None]
"""Called with the name of the work, the part of it that is done, and the whole."""

RANGE = 1.0
"""Colour values go from 0 to 1, so an interval as wide as this says nothing."""


@dataclass(frozen=True)
class Promise:
    """What intervals are asked to hold.

    Attributes:
        level: The share of views that must be covered, in (0, 1).
        within: The share of a view's colour values that must lie in their intervals for the view to
            be covered, in (0, 1].
    """

    level: float = 0.9
    within: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(
                "The level, the share of views that intervals must cover, should be between 0 and "
                f"1, not {self.level}: give 0.9, for example"
            )
        if not 0 < self.within <= 1:
            raise ValueError(
                "The share of a view's colour values that must lie in their intervals should be "
                f"above 0 and at most 1, not {self.within}: give 0.9, for example"
            )


@dataclass(frozen=True)
class Held:
    """What the intervals of a test view hold.

    Attributes:
        covered: Whether at least the promised share of its colour values lies in their intervals.
        inside: The share of its colour values that lies in their intervals.
        width: Mean width of its intervals; colour values go from 0 to 1.
    """

    covered: bool
    inside: float
    width: float


@dataclass(frozen=True)
class Intervals:
    """The intervals that the calibration views give.

    Attributes:
        promise: What was asked for.
        calibration: The width of the intervals in standard deviations; None if there are none.
        scores: The score of each calibration view.
        note: A limit of the intervals or the reason for having none: a sentence without full stop.
    """

    promise: Promise
    calibration: Calibration | None = None
    scores: tuple[float, ...] = ()
    note: str | None = None

    def held(self, picture: Tensor, std: Tensor, photo: Tensor) -> Held | None:
        """What the intervals of a view hold, if there are any. All [height, width, 3] in [0, 1]"""
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
    """The intervals that keep the promise, or the highest level that the number of views allows.

    The views are scored by the pictures as rendered, neither rounded to 8 bits nor cut to [0, 1].

    Args:
        frames: The calibration views: neither trained on nor reported on.
        estimator: Makes the picture and the standard deviation that the intervals are made from.
        rate: The drop rate of the estimator.
        promise: What the intervals are asked to hold.
        told: Called with the progress.
    """
    if not frames:
        return Intervals(promise, note=_none_set_aside(promise))
    if rate == 0:
        sentence = "At a drop rate of 0 nothing varies, so there are no intervals"
        return Intervals(promise, note=f"{sentence}: give a --rate above 0, or leave it out")
    scores, spread = [], 0.0
    for done, frame in enumerate(frames, 1):
        picture, std = estimator(frame.camera)
        photo = frame.image().float() / 255
        scores.append(view_score(picture, std, photo, beta=1 - promise.within))
        spread = max(spread, float(std.max()))
        told("Calibrating intervals", done, len(frames))
    if spread <= STD_FLOOR:
        sentence = "In no calibration view does anything vary, so there are no intervals"
        return Intervals(promise, note=f"{sentence}: give a higher --rate")
    few = len(scores) < views_needed(1 - promise.level)
    level = best_level(len(scores)) if few else promise.level
    calibration = calibrate(scores, alpha=1 - level, beta=1 - promise.within)
    note = _too_few(promise, len(scores)) if few else None
    return Intervals(promise, calibration, tuple(scores), note)


def choice_of_test_views(capture: Capture, every: int) -> Literal["every_nth", "listed"]:
    """Whether the test views are every Nth photo of the list sorted by name, or named by a list.

    Calibration views are drawn by chance from the photos that are not test views, so they are
    exchangeable with other photos drawn so. Every Nth photo of the same list is much alike. Test
    views that a list names can be of another kind, and the intervals promise nothing for them.
    """
    names = sorted(frame.name for frame in capture.frames)
    by_rule = every > 0 and names[::every] == [frame.name for frame in capture.test]
    return "every_nth" if by_rule else "listed"


def intervals_json(made: Intervals, held: Sequence[Held], test_views: str) -> dict[str, Any] | None:
    """The intervals as estimate.json keeps them, with what they hold in the test views.

    Args:
        made: The intervals.
        held: What they hold in each test view.
        test_views: How the test views were chosen, by `choice_of_test_views`.
    """
    if made.calibration is None:
        return None
    return {
        **made.calibration.plain(),
        "asked_level": made.promise.level,
        "level": 1 - made.calibration.alpha,
        "covered_views": _mean([each.covered for each in held]),
        "covered_values": _mean([each.inside for each in held]),
        "width": _mean([each.width for each in held]),
        "test_views": test_views,
        "scores": list(made.scores),
    }


def note_of(made: Intervals, held: Sequence[Held]) -> str | None:
    """The limits of the intervals, in a sentence or two without the last full stop."""
    width = _mean([each.width for each in held])
    wide = "The intervals are wider than the range of colour values: they are true but useless"
    notes = [made.note, wide if width is not None and width >= RANGE else None]
    return ". ".join(note for note in notes if note) or None


def percent(share: float) -> str:
    """A share in percent, to three digits; "100 %" only stands for all."""
    digits = f"{100 * share:.3g}"
    return "99.9 %" if digits == "100" and share < 1 else f"{digits} %"


def _none_set_aside(promise: Promise) -> str:
    needed = views_needed(1 - promise.level)
    return (
        "There are no intervals because no views were set aside to calibrate them: train with "
        f"--calibration {needed}, which is enough to cover {percent(promise.level)} of views"
    )


def _too_few(promise: Promise, views: int) -> str:
    needed = views_needed(1 - promise.level)
    return (
        f"{needed} calibration views are needed to cover {percent(promise.level)} of views, but "
        f"there {'is' if views == 1 else 'are'} {views}: the intervals cover "
        f"{percent(best_level(views))} of views"
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
