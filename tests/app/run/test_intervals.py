"""Intervals of a run: numbers by hand, levels that few views allow, and reasons for none."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumigraph.app.run.intervals import (
    Held,
    Promise,
    choice_of_test_views,
    intervals_json,
    make_intervals,
    note_of,
    percent,
)
from lumigraph.datasets import Capture, Frame
from lumigraph.render import Camera, Similarity
from lumigraph.uncertainty import Calibration

STD = 0.1
CAMERA = Camera(torch.eye(4, dtype=torch.float64), (5.0, 5.0), (2.5, 1.0), 5, 2)


def frame(*levels: int) -> Frame:
    """A photo of ten pixels that repeats these grey levels."""
    photo = torch.tensor(levels * (10 // len(levels)), dtype=torch.uint8)
    return Frame("x", CAMERA, lambda: photo.view(2, 5, 1).expand(2, 5, 3))


def flat(std: float):
    """An estimator of a black picture with this standard deviation everywhere."""

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
    data = intervals_json(made, held, "every_nth")
    assert data is not None
    assert Calibration.from_plain(data) == made.calibration
    assert data["covered_views"] == pytest.approx(2 / 3)
    assert data["covered_values"] == pytest.approx(1.9 / 3)
    assert data["width"] == pytest.approx(180 / 255)
    assert data["asked_level"] == 0.9
    assert data["level"] == pytest.approx(0.9)
    assert data["test_views"] == "every_nth"
    assert data["scores"] == list(made.scores)


def test_the_promise_sets_level_and_share():
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
        (4, 0.9, "9 calibration .* to cover 90 % of views, but there are 4: .* cover 80 %"),
        (1, 0.9, "but there is 1: the intervals cover 50 % of views"),
        (
            9,
            0.95,
            "19 calibration .* to cover 95 % of views, but there are 9: .* cover 90 %",
        ),
    ],
)
def test_too_few_views_lower_the_level_and_say_so(count, level, sentence):
    frames = [frame(10 * k) for k in range(1, count + 1)]
    made = make_intervals(frames, flat(STD), 0.2, Promise(level))
    data = intervals_json(made, [], "listed")
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
        (9, 0.2, 0.0, "In no calibration view does anything vary"),
    ],
)
def test_a_sentence_says_why_there_are_no_intervals(count, rate, std, words):
    made = make_intervals([frame(9)] * count, flat(std), rate, Promise())
    assert intervals_json(made, [], "listed") is None
    assert made.held(*flat(STD)(CAMERA), frame(9).image().float() / 255) is None
    assert words in (note_of(made, []) or "")


def test_intervals_wider_than_the_range_of_colours_are_noted():
    made = make_intervals([frame(200)] * 9, flat(STD), 0.2, Promise())
    assert note_of(made, [Held(covered=True, inside=1.0, width=0.9)]) is None
    note = note_of(made, [Held(covered=True, inside=1.0, width=1.1)])
    assert "wider than the range of colour values" in (note or "")


def test_values_are_counted_not_pixels():
    """Each channel of a pixel counts by itself: a pixel with one channel outside is two inside."""
    made = make_intervals([frame(9)] * 9, flat(STD), 0.2, Promise(within=0.6))
    photo = torch.zeros(2, 5, 3)
    photo[..., 2] = 0.5
    held = made.held(*flat(STD)(CAMERA), photo)
    assert held is not None
    assert held.inside == pytest.approx(2 / 3)
    assert held.covered


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ValueError, match=f"share of views .* and 1, not {share}: give 0.9"):
        Promise(level=share)
    with pytest.raises(ValueError, match=f"at most 1, not {share}"):
        Promise(within=share)


def test_all_views_cannot_be_promised():
    with pytest.raises(ValueError, match="between 0 and 1, not 1"):
        Promise(level=1)


def test_test_views_are_chosen_by_rule_or_by_a_list():
    frames = [replace(frame(9), name=f"{k:03}.png") for k in range(10)]

    def capture(*tests: int, aside: int) -> Capture:
        rest = [k for k in range(10) if k not in (*tests, aside)]
        train, test, calibration = (
            tuple(frames[k] for k in chosen) for chosen in (rest, tests, [aside])
        )
        no_points = torch.zeros(0, 3, dtype=torch.float64)
        one = Similarity.identity()
        return Capture("x", train, test, no_points, no_points, one, calibration=calibration)

    assert choice_of_test_views(capture(0, 4, 8, aside=3), 4) == "every_nth"
    for tests, every in (((0, 4, 8), 8), ((1, 5, 9), 4), ((0, 4), 4), ((), 0), ((2, 3), 0)):
        assert choice_of_test_views(capture(*tests, aside=7), every) == "listed"


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.9, "90 %"),
        (1 - 0.1, "90 %"),
        (0.8333333, "83.3 %"),
        (1.0, "100 %"),
        (0.005, "0.5 %"),
        (0.99949, "99.9 %"),
        (0.99999, "99.9 %"),  # which is not all
    ],
)
def test_shares_are_read_as_percents(share, told):
    assert percent(share) == told
