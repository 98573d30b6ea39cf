"""Sparsification curves, AUSE and what chance scores: closed forms, cases by hand and laws."""

import math
from itertools import pairwise

import pytest
import scipy.integrate
import scipy.stats
import torch

from lumigraph.uncertainty import (
    aurc,
    ause,
    ause_chance,
    ause_published,
    ause_ratio,
    ece,
    risk_coverage,
    sparsification,
    spearman,
)

MEASURES = ("mae", "rmse")
EIGHT = torch.tensor([3.0, 1.0, 4.0, 1.5, 9.0, 2.5, 6.0, 5.0])


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shuffled(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def related(count: int = 5000) -> tuple[torch.Tensor, torch.Tensor]:
    """An error and an uncertainty that tells a part of it; neither has two equal values."""
    std = torch.linspace(0.01, 0.3, count)[shuffled(count)]
    return std * normal(count, seed=1).abs(), std


def ties(count: int = 3000) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with seven levels of uncertainty and a tenth of the error exactly 0."""
    error, std = related(count)
    return error * (uniform(count, seed=2) > 0.1), (std * 20).round() / 20


def ranking_metrics(error: torch.Tensor, by: torch.Tensor) -> list[float]:
    return [score(error, by, measure=m) for m in MEASURES for score in (ause, ause_ratio)] + [
        ause_published(error, by),
        aurc(error, by),
        spearman(error, by),
    ]


# Sparsification


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_left_is_the_error_of_the_least_uncertain(measure):
    error, std = related(200)
    curve = sparsification(error, std, measure=measure)
    p = 1 if measure == "mae" else 2
    powers, whole = error.double() ** p, float((error.double() ** p).mean())
    for percent in range(100):
        count = 200 - 2 * percent  # a whole number of values, so no parts of one
        by_std = powers[std.argsort()[:count]].mean() / whole
        by_error = powers.sort().values[:count].mean() / whole
        assert float(curve.shares[percent]) == percent / 100
        assert float(curve.values[percent]) == pytest.approx(float(by_std) ** (1 / p), rel=1e-12)
        assert float(curve.oracle[percent]) == pytest.approx(float(by_error) ** (1 / p), rel=1e-12)


def test_a_value_that_is_removed_in_part_counts_in_part():
    curve = sparsification(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 2.0]), measure="mae")
    assert float(curve.values[25]) == pytest.approx((1 + 0.5 * 5) / 1.5 / 3, rel=1e-12)
    assert float(curve.values[50]) == pytest.approx(1 / 3, rel=1e-12)
    assert float(curve.values[99]) == pytest.approx(1 / 3, rel=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_uniform_errors_give_the_closed_form(measure):
    """Errors u in [0, 1]: the oracle leaves 1 - f of MAE and RMSE, its opposite has its own."""
    error = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    f = torch.arange(100) / 100
    curve = sparsification(error, -error, measure=measure)
    worst = 1 + f if measure == "mae" else (1 + f + f * f).sqrt()
    assert torch.allclose(curve.oracle, 1 - f.double(), atol=1e-4)
    assert torch.allclose(curve.values, worst.double(), atol=1e-4)
    if measure == "mae":  # the area of (1 + f) - (1 - f), a straight line
        assert ause(error, -error, measure="mae") == pytest.approx(0.99**2, abs=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_perfect_order_has_no_area(measure):
    error, _ = related()
    for by in (error, 3 * error + 1, error.exp(), -1 / (error + 0.1)):
        assert ause(error, by, measure=measure) == 0
    tied, _ = ties()
    assert ause(tied, tied.sqrt(), measure=measure) == 0


@pytest.mark.parametrize("measure", MEASURES)
def test_no_order_beats_the_oracle_and_none_is_worse_than_its_opposite(measure):
    error, std = related()
    best, told, random, worst = (
        ause(error, by, measure=measure)
        for by in (error, std, std[shuffled(len(std), seed=5)], -error)
    )
    assert best == 0 < told < random < worst


@pytest.mark.parametrize("measure", MEASURES)
def test_a_constant_map_scores_as_random_orders_do_on_average(measure):
    error, _ = related(500)
    power = 1 if measure == "mae" else 2  # what is averaged is the squared error
    curves = torch.stack(
        [
            sparsification(error, shuffled(500, seed).float(), measure=measure).values ** power
            for seed in range(400)
        ]
    )
    flat = sparsification(error, torch.full((500,), 0.1), measure=measure).values
    assert torch.allclose(flat, torch.ones(100, dtype=torch.float64), rtol=1e-12)
    assert ((curves.mean(0) - flat).abs() <= 4 * curves.std(0) / math.sqrt(400) + 1e-9).all()


# Chance


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("pair", [related, ties])
def test_chance_is_what_random_orders_score_on_average(measure, pair):
    error, _ = pair(2000)
    scores = torch.tensor(
        [ause(error, shuffled(len(error), seed).float(), measure=measure) for seed in range(200)]
    )
    chance = ause_chance(error, measure=measure)
    assert abs(float(scores.mean()) - chance) < 4 * float(scores.std()) / math.sqrt(200)
    ratio = ause_ratio(error, uniform(len(error), seed=9), measure=measure)
    assert ratio == pytest.approx(1, abs=5 * float(scores.std()) / chance)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_constant_map_scores_as_chance_does(measure):
    for error in (*related(), *ties(), EIGHT):
        flat = torch.ones(len(error))
        assert ause(error, flat, measure=measure) == pytest.approx(
            ause_chance(error, measure=measure), rel=1e-9
        )
        assert ause_ratio(error, flat, measure=measure) == pytest.approx(1, rel=1e-9)


def test_chance_has_the_closed_form_of_uniform_and_of_normal_errors():
    count = 200_000
    error = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    for measure in MEASURES:  # the oracle leaves 1 - f of both
        assert ause_chance(error, measure=measure) == pytest.approx(0.99**2 / 2, abs=1e-4)
    # Of normal errors, the smallest share k lies below the quantile z of (1 + k) / 2.
    half_normal = math.sqrt(2) * torch.special.erfinv(error)

    def left_mae(k: float) -> float:
        z = scipy.stats.norm.ppf((1 + k) / 2)
        return (1 - math.exp(-z * z / 2)) / k

    def left_rmse(k: float) -> float:
        z = scipy.stats.norm.ppf((1 + k) / 2)
        return math.sqrt(max(1 - 2 * z * scipy.stats.norm.pdf(z) / k, 0))

    for measure, left in zip(MEASURES, (left_mae, left_rmse), strict=True):
        area, _ = scipy.integrate.quad(left, 0.01, 1 - 1e-12)
        assert ause_chance(half_normal, measure=measure) == pytest.approx(0.99 - area, abs=2e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_ratio_is_0_for_the_best_order_and_more_than_1_for_the_worst(measure):
    error, std = related()
    assert ause_ratio(error, error.exp(), measure=measure) == 0
    assert 0 < ause_ratio(error, std, measure=measure) < 0.9
    assert ause_ratio(error, -error, measure=measure) > 1.5
    expected = ause_ratio(error, std, measure=measure)
    assert ause_ratio(8 * error, std, measure=measure) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("error", [torch.zeros(50), torch.full((50,), 0.1)])
def test_equal_errors_are_ordered_by_chance_alone(error):
    for measure in MEASURES:
        assert ause_chance(error, measure=measure) == pytest.approx(0, abs=1e-12)
        assert ause_ratio(error, normal(50), measure=measure) == 1


# Ties and layout


def test_tied_groups_count_with_the_mean_of_their_order():
    """Two groups of two, by hand: every order within them, averaged."""
    error, by = torch.tensor([1.0, 3.0, 2.0, 6.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    curve = sparsification(error, by, measure="mae")
    assert float(curve.values[25]) == pytest.approx((1 + 3 + (2 + 6) / 2) / 3 / 3, rel=1e-12)
    assert float(curve.values[50]) == pytest.approx(2 / 3, rel=1e-12)
    assert float(curve.values[75]) == pytest.approx(2 / 3, rel=1e-12)
    assert aurc(error, by) == pytest.approx((2 + 2 + 8 / 3 + 3) / 4, rel=1e-12)


@pytest.mark.parametrize("pair", [related, ties])
def test_the_order_of_the_values_does_not_matter(pair):
    error, std = pair()
    order = shuffled(len(error), seed=3)
    assert ranking_metrics(error[order], std[order]) == pytest.approx(
        ranking_metrics(error, std), rel=1e-10
    )
    assert ece(error[order], std[order]) == pytest.approx(ece(error, std), rel=1e-10)


@pytest.mark.parametrize("pair", [related, ties])
def test_monotone_transforms_of_the_uncertainty_change_nothing(pair):
    error, std = (values.double() for values in pair())
    expected = ranking_metrics(error, std)
    for by in (100 * std, std.sqrt(), std**3, (std + 0.01).log() + 9):
        assert ranking_metrics(error, by) == pytest.approx(expected, rel=1e-12)


def test_repeating_every_value_changes_nothing():
    error, std = ties(500)
    twice = [values.repeat(2) for values in (error, std)]
    for measure in MEASURES:
        assert ause(*twice, measure=measure) == pytest.approx(ause(error, std, measure=measure))


def test_a_factor_of_the_error_leaves_ause_and_scales_the_published_one():
    error, std = related()
    for measure in MEASURES:
        expected = ause(error, std, measure=measure)
        assert ause(4 * error, std, measure=measure) == pytest.approx(expected, rel=1e-12)
    assert ause_published(4 * error, std) == pytest.approx(4 * ause_published(error, std), 1e-12)


def test_the_published_area_runs_over_percents():
    error, std = related(300)
    by_std, by_error = error.double()[std.argsort()], error.double().sort().values
    left = [300 - 3 * percent for percent in range(1, 100)]
    gaps = [float(by_std[:count].mean() - by_error[:count].mean()) for count in left]
    expected = sum((a + b) / 2 for a, b in pairwise(gaps))
    assert ause_published(error, std) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("by", [torch.zeros(8), EIGHT])
def test_without_error_there_is_no_area(by):
    for measure in MEASURES:
        curve = sparsification(torch.zeros(8), by, measure=measure)
        assert not curve.values.any()
        assert not curve.oracle.any()
        assert ause(torch.zeros(8), by, measure=measure) == 0


def test_one_value_has_no_area():
    assert ranking_metrics(torch.tensor([0.5]), torch.tensor([0.1])) == [0, 1, 0, 1, 0, 0.5, 0]


def test_zeros_of_either_sign_are_equal():
    error = torch.tensor([1.0, 3.0])
    assert ause(error, torch.tensor([0.0, -0.0]), measure="mae") == ause(
        error, torch.tensor([-0.0, 0.0]), measure="mae"
    )


# Risk and coverage


def test_risk_coverage_is_the_sparsification_of_the_mae_from_the_other_end():
    error, std = related()
    risks, left = risk_coverage(error, std), sparsification(error, std, measure="mae")
    assert torch.allclose(risks.shares, torch.arange(1, 101).double() / 100)
    assert torch.allclose(risks.values, left.values.flip(0) * error.double().mean())
    assert torch.allclose(risks.oracle, left.oracle.flip(0) * error.double().mean())
    assert float(risks.values[-1]) == pytest.approx(float(error.double().mean()))


def test_aurc_by_hand_and_as_the_area_of_its_curve():
    error, by = torch.tensor([0.0, 6.0, 3.0]), torch.tensor([0.1, 0.2, 0.3])
    assert aurc(error, by) == pytest.approx((0 + 3 + 3) / 3, rel=1e-12)
    error, std = related()
    assert aurc(error, std) == pytest.approx(float(risk_coverage(error, std).values.mean()), 0.02)


def test_aurc_of_a_constant_map_is_the_mean_error():
    error, _ = related()
    assert aurc(error, torch.ones(len(error))) == pytest.approx(float(error.double().mean()))
