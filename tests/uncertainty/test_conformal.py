"""Intervals per view: what they promise, the cases at the edge, and checks of files."""

import json
import math

import pytest
import torch

from lumigraph.uncertainty import (
    Calibration,
    best_level,
    calibrate,
    covers,
    interval,
    split_coverage,
    view_score,
    views_needed,
)
from lumigraph.uncertainty.conformal import STD_FLOOR, share_inside

TEN = Calibration(alpha=0.1, beta=0.1, q=2.5, views=9)


def view(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, standard deviation and truth of a view of random difficulty. [6, 7, 3] each"""
    mean = torch.rand(6, 7, 3, generator=generator)
    std = 0.02 + 0.1 * torch.rand(6, 7, 3, generator=generator)
    hardness = torch.randn(1, generator=generator).exp()
    error = hardness * std * torch.randn(6, 7, 3, generator=generator)
    return mean, std, mean + error


def views(count: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [view(generator) for _ in range(count)]


def shuffled(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


# The score of a view


def test_the_score_is_one_of_the_ratios():
    std = torch.full((10,), 0.5)
    target = torch.arange(1.0, 11)  # ratios 2, 4, ..., 20
    for beta, expected in (
        (0.0, 20),
        (0.05, 20),
        (0.1, 18),
        (0.15, 18),
        (0.5, 10),
        (0.7, 6),
        (0.99, 2),
    ):
        assert view_score(torch.zeros(10), std, target, beta=beta) == expected


@pytest.mark.parametrize("count", [1, 7, 10, 30, 100, 126])
def test_the_score_is_the_least_stretch_that_holds_enough_values(count):
    mean, std, target = (m.flatten()[:count].double() for m in views(1)[0])
    for beta in (k / 20 for k in range(20)):
        score = view_score(mean, std, target, beta=beta)
        ratios = (target - mean).abs() / std
        outside = int((ratios > score).sum())
        assert outside <= beta * count + 1e-9  # enough are inside,
        assert int((ratios >= score).sum()) > beta * count - 1e-9  # and with any less, too few


def test_scores_do_not_change_with_the_unit():
    mean, std, target = views(1)[0]
    expected = view_score(mean, std, target, beta=0.1)
    assert view_score(5 * mean, 5 * std, 5 * target, beta=0.1) == pytest.approx(expected, rel=1e-5)
    assert view_score(mean, std / 4, target, beta=0.1) == pytest.approx(4 * expected, rel=1e-5)


def test_where_nothing_varies_the_floor_stands_in():
    mean, std = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    assert view_score(mean, std, mean, beta=0) == 0
    assert view_score(mean, std, mean + 3 * STD_FLOOR, beta=0) == pytest.approx(3, rel=1e-12)
    low, high = interval(TEN, mean, std)
    assert torch.allclose(high, torch.full_like(mean, 2.5 * STD_FLOOR))
    assert torch.equal(low, -high)


# The calibration


@pytest.mark.parametrize(
    ("m", "alpha", "rank"), [(9, 0.1, 9), (19, 0.1, 18), (20, 0.1, 19), (99, 0.05, 95), (4, 0.5, 3)]
)
def test_q_is_the_score_of_the_rank_by_hand(m, alpha, rank):
    order = torch.randperm(m, generator=torch.Generator().manual_seed(m)).tolist()
    calibration = calibrate([float(k + 1) for k in order], alpha=alpha, beta=0.2)
    assert calibration == Calibration(alpha=alpha, beta=0.2, q=float(rank), views=m)


def test_how_many_views_a_level_takes():
    for alpha, needed in ((0.5, 1), (0.1, 9), (0.05, 19), (0.01, 99), (0.001, 999), (0.3, 3)):
        assert views_needed(alpha) == needed
        calibrate([1.0] * needed, alpha=alpha, beta=0.1)
        if needed > 1:
            with pytest.raises(ValueError, match=f"takes at least {needed} calibration views"):
                calibrate([1.0] * (needed - 1), alpha=alpha, beta=0.1)


def test_the_best_level_is_allowed_and_none_above_it():
    assert best_level(9) == 0.9
    for m in range(1, 300):
        assert calibrate(list(range(1, m + 1)), alpha=1 - best_level(m), beta=0).q == m
        with pytest.raises(ValueError, match="set more aside"):
            calibrate([1.0] * m, alpha=(1 - best_level(m)) * 0.999, beta=0)


def test_too_few_views_say_which_level_they_allow():
    with pytest.raises(ValueError, match=r"Covering 90 % .* at least 9 .* are 5: .* most 83\.3 %"):
        calibrate([1.0] * 5, alpha=0.1, beta=0.1)
    with pytest.raises(ValueError, match=r"there is 1: .* 50 % \(an alpha of 0\.5\)"):
        calibrate([1.0], alpha=0.1, beta=0.1)
    with pytest.raises(ValueError, match="at least 1 view, but has 0"):
        calibrate([], alpha=0.1, beta=0.1)
    for m in range(1, 200):  # following the advice gives no second error
        with pytest.raises(ValueError, match="an alpha of") as caught:
            calibrate([1.0] * m, alpha=0.001, beta=0)
        told = float(str(caught.value).split("an alpha of ")[1].rstrip(")"))
        assert calibrate([1.0] * m, alpha=told, beta=0).views == m


def test_a_view_is_covered_exactly_up_to_its_score():
    for mean, std, target in views(20):
        for beta in (0.0, 0.1, 1 / 3):
            score = view_score(mean, std, target, beta=beta)
            at, below = (
                Calibration(alpha=0.1, beta=beta, q=q, views=9)
                for q in (score, math.nextafter(score, 0))
            )
            assert covers(at, mean, std, target)
            assert not covers(below, mean, std, target)


def test_the_interval_holds_the_share_that_its_calibration_says():
    mean, std, target = views(1)[0]
    q = view_score(mean, std, target, beta=0.1) * (1 + 1e-5)  # the ends are rounded to float32
    low, high = interval(Calibration(alpha=0.1, beta=0.1, q=q, views=9), mean, std)
    inside = ((low <= target) & (target <= high)).double().mean()
    assert 0.9 <= float(inside) < 0.92
    assert low.shape == mean.shape


def test_the_share_inside_is_what_makes_a_view_covered():
    for mean, std, target in views(20):
        score = view_score(mean, std, target, beta=0.1)
        calibration = Calibration(alpha=0.1, beta=0.1, q=score, views=9)
        inside = share_inside(calibration, mean, std, target)
        low, high = interval(calibration, mean.double(), std.double())
        assert inside == float(((low <= target) & (target <= high)).double().mean())
        assert inside >= 0.9 > inside - 1 / target.numel()
    half = torch.tensor([0.0, 0.1, 0.3, 0.4])
    assert share_inside(TEN, torch.zeros(4), torch.full((4,), 0.1), half) == 0.5


# Coverage


@pytest.mark.parametrize("m", [1, 2, 3, 9, 10, 19, 20, 50])
def test_each_of_n_plus_1_views_is_equally_likely_to_be_the_further_one(m):
    """Left out in turn, ceil((m + 1)(1 - alpha)) of m + 1 views are covered by the others' q."""
    scores = [float(k) for k in shuffled(m + 1, seed=m)]
    for level in {k / 20 for k in range(1, 20)} | {m / (m + 1), 1 / (m + 1)}:
        if views_needed(1 - level) > m:
            continue
        rest = [scores[:i] + scores[i + 1 :] for i in range(m + 1)]
        qs = [calibrate(others, alpha=1 - level, beta=0.1).q for others in rest]
        covered = sum(score <= q for score, q in zip(scores, qs, strict=True))
        assert covered == math.ceil((m + 1) * level - 1e-9)
        # Scores with ties are covered at least as often.
        halves = [score // 2 for score in scores]
        rest = [halves[:i] + halves[i + 1 :] for i in range(m + 1)]
        qs = [calibrate(others, alpha=1 - level, beta=0.1).q for others in rest]
        assert sum(score <= q for score, q in zip(halves, qs, strict=True)) >= covered


@pytest.mark.parametrize(("m", "alpha", "expected"), [(9, 0.1, 0.9), (12, 0.2, 11 / 13)])
def test_a_further_view_is_covered_as_often_as_asked(m, alpha, expected):
    """For scores without ties the probability is ceil((m + 1)(1 - alpha)) / (m + 1)."""
    trials = 1000
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(trials):
        scores = [view_score(*view(generator), beta=0.1) for _ in range(m)]
        hits += covers(calibrate(scores, alpha=alpha, beta=0.1), *view(generator))
    deviation = math.sqrt(expected * (1 - expected) / trials)
    assert expected >= 1 - alpha
    assert abs(hits / trials - expected) < 3 * deviation


def test_pooled_values_would_miss_far_more_views():
    """Why scores are taken per view: the q of pooled values covers values, not views."""
    calibration, fresh = views(200), views(200, seed=1)
    pooled = torch.cat([((t - mean).abs() / std).flatten() for mean, std, t in calibration])
    scores = [view_score(*each, beta=0.1) for each in calibration]
    q = calibrate(scores, alpha=0.1, beta=0.1).q
    naive = Calibration(alpha=0.1, beta=0.1, q=float(pooled.quantile(0.9)), views=200)
    right = Calibration(alpha=0.1, beta=0.1, q=q, views=200)
    assert sum(covers(naive, *each) for each in fresh) / 200 < 0.8
    assert sum(covers(right, *each) for each in fresh) / 200 > 0.83


def test_coverage_over_splits():
    scores = [view_score(*each, beta=0.1) for each in views(100)]
    coverage = split_coverage(scores, alpha=0.1, generator=torch.Generator().manual_seed(0))
    assert coverage.shape == (20,)
    assert float(coverage.mean()) == pytest.approx(46 / 51, abs=0.03)
    assert 0.01 < float(coverage.std()) < 0.1
    same = split_coverage(scores, alpha=0.1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(coverage, same)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 5.0])
def test_coverage_over_many_splits_is_the_promise_for_any_scores(scale):
    generator = torch.Generator().manual_seed(3)
    scores = (scale * torch.randn(42, generator=generator)).exp().double().tolist()
    coverage = split_coverage(scores, alpha=0.1, generator=generator, splits=4000)
    assert float(coverage.mean()) == pytest.approx(20 / 22, abs=0.006)


def test_splits_by_hand():
    """Of three views one calibrates at 50 %: two, one or none of the others lies below it."""
    generator = torch.Generator().manual_seed(0)
    coverage = split_coverage([1.0, 2.0, 3.0], alpha=0.5, generator=generator, splits=300)
    assert set(coverage.tolist()) == {0.0, 0.5, 1.0}
    assert float(coverage.mean()) == pytest.approx(0.5, abs=0.1)


def test_splits_that_cannot_be_made():
    generator = torch.Generator()
    with pytest.raises(ValueError, match="at least 9 calibration views, but there are 8"):
        split_coverage([1.0] * 17, alpha=0.1, generator=generator)
    with pytest.raises(ValueError, match="at least 1 view"):
        split_coverage([1.0], alpha=0.1, generator=generator)
    with pytest.raises(ValueError, match="splits should be at least 1"):
        split_coverage([1.0] * 20, alpha=0.1, generator=generator, splits=0)


# Files


def test_a_calibration_survives_json():
    calibration = calibrate([view_score(*v, beta=0.05) for v in views(20)], alpha=0.1, beta=0.05)
    text = json.dumps(calibration.plain(), allow_nan=False)
    assert Calibration.from_plain(json.loads(text)) == calibration


@pytest.mark.parametrize("data", [None, [], "x" * 10_000, 3, True])
def test_data_that_is_no_calibration(data):
    with pytest.raises(ValueError, match="should be a JSON object") as caught:
        Calibration.from_plain(data)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("alpha", [0, 1, -0.1, 1e-300, 5e-324, 10**400]),
        ("beta", [1, -0.1, 1e300]),
        ("q", [-1, 1e13, 10**400]),
        ("views", [0, -1, 8, 9.0, 10**400]),
    ],
)
def test_each_field_of_a_file_is_checked(field, values):
    unfit = [None, True, "0.5", [0.5], {"x": 1}, math.nan, math.inf, -math.inf, "\x1b[2J" * 999]
    for value in [*values, *unfit]:
        with pytest.raises(ValueError, match=f"^{field} ") as caught:
            Calibration.from_plain({**TEN.plain(), field: value})
        assert len(str(caught.value)) < 200
        assert str(caught.value).isprintable()
    absent = {key: value for key, value in TEN.plain().items() if key != field}
    with pytest.raises(ValueError, match=f"^{field} .* but is None"):
        Calibration.from_plain(absent)


def test_unknown_entries_are_ignored():
    assert Calibration.from_plain({**TEN.plain(), "note": "x"}) == TEN


# Bad input


def test_maps_that_cannot_be_scored():
    ones = torch.ones(4)
    for use in (
        lambda *maps: view_score(*maps, beta=0.1),
        lambda *maps: covers(TEN, *maps),
    ):
        with pytest.raises(ValueError, match=r"one shape.*\[4\].*\[5\]"):
            use(ones, torch.ones(5), ones)
        with pytest.raises(ValueError, match="std should not be negative"):
            use(ones, -ones, ones)
        with pytest.raises(ValueError, match="target is not finite in 4 of 4"):
            use(ones, ones, ones * torch.nan)
        with pytest.raises(ValueError, match="mean is empty"):
            use(ones[:0], ones[:0], ones[:0])
    with pytest.raises(ValueError, match="std should not be negative"):
        interval(TEN, ones, -ones)
    with pytest.raises(ValueError, match="one shape"):
        interval(TEN, ones, torch.ones(4, 1))


def test_levels_out_of_range():
    ones = torch.ones(4)
    for beta in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"^beta should be"):
            view_score(ones, ones, ones, beta=beta)
        with pytest.raises(ValueError, match=r"^beta should be"):
            calibrate([1.0] * 20, alpha=0.1, beta=beta)
    for alpha in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"^alpha should be"):
            calibrate([1.0] * 20, alpha=alpha, beta=0.1)
        with pytest.raises(ValueError, match=r"^alpha should be"):
            views_needed(alpha)
    for score in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="score should be"):
            calibrate([1.0] * 20 + [score], alpha=0.1, beta=0.1)
