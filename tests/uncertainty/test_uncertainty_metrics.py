"""Metrics of uncertainty maps: closed forms, cases by hand, laws, and SciPy as the oracle."""

import math
from dataclasses import fields
from itertools import pairwise

import pytest
import scipy.integrate
import scipy.stats
import torch

from lumigraph.uncertainty import (
    ViewMetrics,
    aurc,
    ause,
    ause_chance,
    ause_published,
    ause_ratio,
    ece,
    interval_coverage,
    mean_of,
    nll,
    pearson,
    risk_coverage,
    sharpness,
    sparsification,
    spearman,
    view_metrics,
)
from lumigraph.uncertainty.metrics import NORMAL_95

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


# Correlations


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_correlations_are_scipys(dtype, levels):
    a = normal(2000).to(dtype)
    b = a + 2 * normal(2000, seed=1).to(dtype)
    a, b = ((values * levels).round() / levels for values in (a, b))
    one, other = a.double().numpy(), b.double().numpy()
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(one, other)[0], abs=1e-12)
    assert pearson(a, b) == pytest.approx(scipy.stats.pearsonr(one, other)[0], abs=1e-12)


def test_spearman_knows_order_alone_and_pearson_straight_lines():
    a = normal(400)
    assert spearman(a, a.exp()) == pytest.approx(1, abs=1e-12)
    assert spearman(a, -(a**3)) == pytest.approx(-1, abs=1e-12)
    assert pearson(a.double(), -3 * a.double() + 7) == pytest.approx(-1, abs=1e-12)
    assert pearson(a, a.exp()) < 0.95


@pytest.mark.parametrize("correlation", [spearman, pearson])
def test_what_is_constant_is_not_correlated(correlation):
    constant, values = torch.full((1001,), 0.1), normal(1001)
    assert correlation(constant, values) == correlation(values, constant) == 0
    assert correlation(constant, constant) == 0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_correlations_of_very_small_and_very_large_values(scale):
    a, b = normal(50).double(), normal(50, seed=1).double()
    assert pearson(a * scale, b * scale) == pytest.approx(pearson(a, b), rel=1e-12)


# Likelihood and calibration


def test_nll_is_scipys_and_floored():
    mean, target, std = normal(50), normal(50, seed=1), uniform(50)
    std[:10] = 0
    floored = std.double().clamp(min=0.01).numpy()
    expected = -scipy.stats.norm.logpdf(target.double(), mean.double(), floored).mean()
    assert nll(mean, std, target) == pytest.approx(expected, rel=1e-12)
    assert nll(mean, std, target, floor=10) == pytest.approx(
        math.log(10) + 0.5 * math.log(2 * math.pi), abs=0.05
    )


def test_ece_by_hand():
    std = torch.tensor([0.0, 1.0, 5.0, 10.0])  # ten bins of width 1: the first, second, sixth, last
    error = torch.tensor([2.0, 1.0, 2.0, 6.0])
    assert ece(error, std) == pytest.approx((2 + 0 + 3 + 4) / 4)
    assert ece(error, std, bins=1) == pytest.approx((math.sqrt(126) - math.sqrt(45)) / 2)
    last = torch.tensor([0.0, 10.0, 9.0]), torch.tensor([0.0, 9.0, 10.0])  # the end belongs to it
    assert ece(*last) == 0
    first, second = math.sqrt(5 / 2) - math.sqrt(1 / 2), math.sqrt(125 / 2) - math.sqrt(40 / 2)
    assert ece(error, std, bins=2) == pytest.approx((first + second) / 2)


def test_ece_of_a_constant_map_is_how_far_it_is_off():
    error, _ = related()
    std = torch.full_like(error, 0.5)
    rms = math.sqrt(float(error.double().square().mean()))
    assert ece(error, std) == pytest.approx(0.5 - rms, rel=1e-6)
    assert ece(torch.zeros(3), torch.zeros(3)) == 0


def test_ece_of_errors_that_are_their_standard_deviation_is_zero():
    _, std = related()
    assert ece(std, std) == 0


UNIT_VARIANCE = {
    "normal": lambda count: normal(count, seed=4),
    "uniform": lambda count: (2 * uniform(count, seed=4) - 1) * math.sqrt(3),
    "Laplace": lambda count: torch.tensor(
        scipy.stats.laplace.ppf(uniform(count, seed=4, dtype=torch.float64)) / math.sqrt(2)
    ),
}


@pytest.mark.parametrize("kind", UNIT_VARIANCE)
def test_ece_of_exact_standard_deviations_tends_to_zero(kind):
    scores = []
    for count in (1_000, 1_000_000):
        std = 0.01 + 0.3 * uniform(count, dtype=torch.float64) ** 3
        scores.append(ece((std * UNIT_VARIANCE[kind](count)).abs(), std))
    assert scores[0] < 0.02
    assert scores[1] < scores[0] / 10  # the root of a thousand is 32
    assert scores[1] < 5e-4
    short = ece((std * UNIT_VARIANCE[kind](count)).abs(), 0.8 * std)
    assert short == pytest.approx(0.2 * float(std.mean()), rel=0.03)


@pytest.mark.parametrize("bins", [1, 3, 10])
def test_ece_of_normal_quantiles_is_zero(bins):
    """Each standard deviation with all quantiles of its normal distribution: no chance is left."""
    count = 2000
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    z = math.sqrt(2) * torch.special.erfinv(2 * levels - 1)
    z = z / z.square().mean().sqrt()
    std = torch.linspace(0.01, 0.3, 40, dtype=torch.float64)
    errors = (std[:, None] * z).abs()
    assert ece(errors, std[:, None].expand_as(errors), bins) == pytest.approx(0, abs=1e-12)
    flat = torch.full_like(z, 0.2)
    assert ece((0.2 * z).abs(), flat, bins) == pytest.approx(0, abs=1e-12)


def test_nll_of_normal_errors_is_the_entropy_of_the_normal_distribution():
    std = 0.05 + uniform(400_000)
    target = std * normal(400_000, seed=1)
    expected = float(std.double().log().mean()) + (1 + math.log(2 * math.pi)) / 2
    assert nll(torch.zeros_like(std), std, target) == pytest.approx(expected, abs=5e-3)
    for factor in (0.7, 1.4):  # no other standard deviations are as likely
        assert nll(torch.zeros_like(std), factor * std, target) > expected + 0.05


def test_spearman_of_normal_pairs_has_its_closed_form():
    a, other = normal(400_000), normal(400_000, seed=1)
    for rho in (-0.9, -0.3, 0.0, 0.6):
        b = rho * a + math.sqrt(1 - rho * rho) * other
        expected = 6 / math.pi * math.asin(rho / 2)
        assert spearman(a, b) == pytest.approx(expected, abs=5e-3)


def test_spearman_of_ties_is_pearson_of_mean_ranks():
    a, b = torch.tensor([2.0, 1.0, 2.0, 5.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    mean_ranks = torch.tensor([2.5, 1.0, 2.5, 4.0]), torch.tensor([3.0, 3.0, 3.0, 1.0])
    assert spearman(a, b) == pytest.approx(pearson(*mean_ranks), rel=1e-12)


def test_coverage_of_normal_errors_is_that_of_the_normal_distribution():
    std = 0.1 + uniform(200_000)
    target = std * normal(200_000, seed=1)
    for z, expected in ((1.0, 0.6827), (NORMAL_95, 0.95), (0.0, 0.0)):
        assert interval_coverage(torch.zeros_like(std), std, target, z) == pytest.approx(
            expected, abs=0.003
        )


def test_the_ends_of_an_interval_are_inside():
    mean, std = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.0])
    assert interval_coverage(mean, std, torch.tensor([2.0, 2.5, 1.0]), 2) == pytest.approx(2 / 3)


def test_sharpness_is_the_mean_standard_deviation():
    assert sharpness(EIGHT) == 4


# One view and many


def picture(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, standard deviation and truth of a small view. [9, 11, 3]"""
    std = (uniform(9, 11, 3, seed=seed) * 10).round() / 50
    mean = uniform(9, 11, 3, seed=seed + 1)
    return mean, std, mean + std * normal(9, 11, 3, seed=seed + 2) + 0.01


def test_the_numbers_of_a_view_are_those_of_each_function():
    mean, std, target = picture()
    error = (mean - target).abs()
    numbers = view_metrics(mean, std, target)
    assert numbers.mae == pytest.approx(float(error.double().mean()))
    assert numbers.rmse == pytest.approx(math.sqrt(float(error.double().square().mean())))
    assert numbers.ause_mae == ause(error, std, measure="mae")
    assert numbers.ause_rmse == ause(error, std, measure="rmse")
    assert numbers.ause_mae_chance == ause_chance(error, measure="mae")
    assert numbers.ause_rmse_chance == ause_chance(error, measure="rmse")
    assert numbers.ause_mae_ratio == ause_ratio(error, std, measure="mae")
    assert numbers.ause_rmse_ratio == ause_ratio(error, std, measure="rmse")
    assert numbers.ause_published == ause_published(error, std)
    assert numbers.spearman == spearman(error, std)
    assert numbers.pearson == pearson(error, std)
    assert numbers.nll == nll(mean, std, target)
    assert view_metrics(mean, std, target, floor=0.2).nll == nll(mean, std, target, floor=0.2)
    assert numbers.ece == ece(error, std)
    assert numbers.aurc == aurc(error, std)
    assert numbers.coverage_95 == interval_coverage(mean, std, target, NORMAL_95)
    assert numbers.sharpness == sharpness(std)
    assert numbers.max_std == float(std.max())


def test_maps_are_measured_whatever_their_layout_and_not_changed():
    mean, std, target = picture()
    expected = view_metrics(mean, std, target)
    turned = view_metrics(*(m.permute(2, 0, 1).contiguous() for m in (mean, std, target)))
    for field in fields(ViewMetrics):
        one, other = (getattr(metrics, field.name) for metrics in (turned, expected))
        assert one == pytest.approx(other, rel=1e-9)
    learned = [m.clone().requires_grad_() for m in (mean, std, target)]
    assert view_metrics(*learned) == expected
    again = view_metrics(*(m.transpose(0, 1).contiguous().transpose(0, 1) for m in learned))
    assert again == expected


def test_half_precision_is_measured_as_its_values():
    mean, std, target = (m.bfloat16() for m in picture())
    error = (mean.float() - target.float()).abs()
    assert view_metrics(mean, std, target).ause_mae == ause(error, std.float(), measure="mae")


def test_the_mean_over_views_gives_each_the_same_weight():
    views = [view_metrics(*picture(seed)) for seed in (0, 10, 20)]
    mean = mean_of(views)
    for field in fields(ViewMetrics):
        values = [getattr(view, field.name) for view in views]
        assert getattr(mean, field.name) == pytest.approx(sum(values) / 3)
    assert mean_of(views[:1]) == views[0]
    with pytest.raises(ValueError, match="no views"):
        mean_of([])


# Bad input

TWO_MAPS = [
    lambda a, b: sparsification(a, b, measure="mae"),
    lambda a, b: ause(a, b, measure="rmse"),
    lambda a, b: ause_ratio(a, b, measure="rmse"),
    ause_published,
    risk_coverage,
    aurc,
    spearman,
    pearson,
    ece,
    lambda a, b: nll(a, b.abs(), a),
    lambda a, b: interval_coverage(a, b.abs(), a, 1.0),
    lambda a, b: view_metrics(a, b, a),
]


@pytest.mark.parametrize("metric", TWO_MAPS)
def test_maps_that_cannot_be_measured(metric):
    with pytest.raises(ValueError, match=r"one shape.*\[4, 5\].*\[5, 4\]"):
        metric(torch.ones(4, 5), torch.ones(5, 4))
    with pytest.raises(ValueError, match="is empty"):
        metric(torch.ones(0, 5), torch.ones(0, 5))
    with pytest.raises(ValueError, match=r"floats, but holds torch\.int64"):
        metric(torch.ones(4, dtype=torch.int64), torch.ones(4))
    for hole in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ValueError, match="not finite in 1 of 4 values"):
            metric(torch.ones(4), torch.tensor([1.0, 1.0, hole, 1.0]))
        with pytest.raises(ValueError, match="not finite in 1 of 4 values"):
            metric(torch.tensor([1.0, 1.0, hole, 1.0]), torch.ones(4))


def test_negative_errors_and_standard_deviations():
    good, bad = torch.ones(2), torch.tensor([1.0, -0.5])
    for metric in (aurc, ause_published, ece, risk_coverage):
        with pytest.raises(ValueError, match=r"error should not be negative.* to -0\.5"):
            metric(bad, good)
    for metric in (ause_published, ece):
        with pytest.raises(ValueError, match="std should not be negative"):
            metric(good, bad)
    for metric in (nll, view_metrics):
        with pytest.raises(ValueError, match="std should not be negative"):
            metric(good, bad, good)
    with pytest.raises(ValueError, match="std should not be negative"):
        interval_coverage(good, bad, good, 1.0)
    with pytest.raises(ValueError, match="std should not be negative"):
        sharpness(bad)


def test_numbers_out_of_range():
    ones = torch.ones(3)
    for floor in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="floor"):
            nll(ones, ones, ones, floor=floor)
        with pytest.raises(ValueError, match="floor"):
            view_metrics(ones, ones, ones, floor=floor)
    for z in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="z, half"):
            interval_coverage(ones, ones, ones, z)
    with pytest.raises(ValueError, match="bins should be at least 1"):
        ece(ones, ones, bins=0)
    with pytest.raises(ValueError, match='"mae" or "rmse", but is \'mse\''):
        sparsification(ones, ones, measure="mse")  # type: ignore[arg-type]
