"""Intervals of a run: numbers by hand, what so few views allow, and why there may be none."""

import pytest
import torch
from torch import Tensor

from lumigraph.app.run.intervals import (
    Held,
    Promise,
    intervals_json,
    make_intervals,
    note_of,
    percent,
)
from lumigraph.datasets import Frame
from lumigraph.render import Camera
from lumigraph.uncertainty import Calibration

STD = 0.1
CAMERA = Camera(torch.eye(4, dtype=torch.float64), (5.0, 5.0), (2.5, 1.0), 5, 2)


def frame(*levels: int) -> Frame:
    """A photo whose ten pixels have these grey levels, over and over."""
    photo = torch.tensor(levels * (10 // len(levels)), dtype=torch.uint8)
    return Frame("x", CAMERA, lambda: photo.view(2, 5, 1).expand(2, 5, 3))


def flat(std: float):
    """An estimator that sees black everywhere."""

    def estimate(camera: Camera) -> tuple[Tensor, Tensor]:
        size = (camera.height, camera.width, 3)
        return torch.zeros(size), torch.full(size, std)

    return estimate


def held_in(made, photo: Frame) -> Held:
    held = made.held(*flat(STD)(CAMERA), photo.image().float() / 255)
    assert held is not None
    return held


def test_q_and_coverage_by_hand():
    frames = [frame(level) for level in (30, 10, 90, 20, 50, 40, 60, 80, 70)]
    told = []
    made = make_intervals(
        frames, flat(STD), 0.2, Promise(), lambda what, done, of: told.append((done, of))
    )
    assert told == [(done, 9) for done in range(1, 10)]
    assert made.calibration is not None
    assert made.calibration.q == pytest.approx(90 / 255 / STD)
    assert made.scores == pytest.approx([f.image().max().item() / 255 / STD for f in frames])
    assert made.note is None
    held = [held_in(made, each) for each in (frame(89), frame(91), frame(*[0] * 9, 200))]
    assert [each.covered for each in held] == [True, False, True]
    assert [each.inside for each in held] == pytest.approx([1, 0, 0.9])
    assert [each.width for each in held] == pytest.approx([2 * 90 / 255] * 3)
    data = intervals_json(made, held)
    assert data is not None
    assert Calibration.from_plain(data) == made.calibration
    assert data["covered_views"] == pytest.approx(2 / 3)
    assert data["covered_values"] == pytest.approx(1.9 / 3)
    assert data["width"] == pytest.approx(180 / 255)
    assert data["asked_level"] == 0.9
    assert data["level"] == pytest.approx(0.9)
    assert data["scores"] == list(made.scores)


def test_the_promise_is_kept_to():
    frames = [frame(level, 0) for level in range(10, 100, 10)]
    half = make_intervals(frames, flat(STD), 0.2, Promise(within=0.5)).calibration
    most = make_intervals(frames, flat(STD), 0.2, Promise(level=0.5, within=1)).calibration
    assert half is not None
    assert (half.beta, half.q) == (0.5, 0)
    assert most is not None
    assert (most.alpha, most.beta) == (0.5, 0)
    assert most.q == pytest.approx(50 / 255 / STD)


@pytest.mark.parametrize(
    ("count", "level", "sentence"),
    [
        (4, 0.9, "9 calibration views are needed for 90 %, there are 4: .* cover 80 % of views"),
        (1, 0.9, "there is 1: the intervals cover 50 %"),
        (9, 0.95, "19 calibration views are needed for 95 %, there are 9: .* cover 90 %"),
    ],
)
def test_too_few_views_cover_what_they_can_and_say_so(count, level, sentence):
    frames = [frame(10 * k) for k in range(1, count + 1)]
    made = make_intervals(frames, flat(STD), 0.2, Promise(level))
    data = intervals_json(made, [])
    assert data is not None
    assert data["asked_level"] == level
    assert data["level"] == pytest.approx(count / (count + 1))
    assert data["q"] == pytest.approx(10 * count / 255 / STD)
    assert data["covered_views"] is data["covered_values"] is data["width"] is None
    note = note_of(made, [])
    assert note is not None
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(note)


@pytest.mark.parametrize(
    ("count", "rate", "std", "words"),
    [
        (0, 0.2, STD, "train with --calibration 9, which is enough to cover 90 %"),
        (9, 0.0, 0.0, "At a drop rate of 0 nothing varies"),
        (9, 0.2, 0.0, "In no view set aside does anything vary"),
    ],
)
def test_where_there_can_be_none_a_sentence_says_why(count, rate, std, words):
    made = make_intervals([frame(9)] * count, flat(std), rate, Promise())
    assert intervals_json(made, []) is None
    assert made.held(*flat(STD)(CAMERA), frame(9).image().float() / 255) is None
    assert words in (note_of(made, []) or "")


def test_intervals_that_say_nothing_are_told_as_such():
    made = make_intervals([frame(200)] * 9, flat(STD), 0.2, Promise())
    assert note_of(made, [Held(covered=True, inside=1.0, width=0.9)]) is None
    note = note_of(made, [Held(covered=True, inside=1.0, width=1.1)])
    assert "wider than the range of colours" in (note or "")


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(ValueError, match=f"share of views .* between 0 and 1, not {share}"):
        Promise(level=share)
    with pytest.raises(ValueError, match=f"at most 1, not {share}"):
        Promise(within=share)


def test_all_views_cannot_be_promised():
    with pytest.raises(ValueError, match="between 0 and 1, not 1"):
        Promise(level=1)


def test_shares_are_read_as_percents():
    assert [percent(share) for share in (0.9, 1 - 0.1, 0.8333333, 1.0, 0.005)] == [
        "90 %",
        "90 %",
        "83.3 %",
        "100 %",
        "0.5 %",
    ]
