"""Metrics of uncertainty maps: closed forms, cases by hand, laws, and SciPy as the oracle."""

import math
from dataclasses import fields

import pytest
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
