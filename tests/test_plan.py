"""Plans: they stretch, return from JSON, refuse nonsense, and say what each step does."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch

from lumigraph.kernels.reference import rotation_matrices
from lumigraph.recon import PRESETS, Plan, plan_from, plan_from_json, plan_to_json
from lumigraph.recon.initial import splats_from_points
from lumigraph.recon.plan import stretched
from lumigraph.recon.schedule import learning_rates, move_at, rebased, trust_region
from lumigraph.recon.trust import confine, largest_moves

ROOT = Path(__file__).parents[1]


def test_plans_stretch_and_return_from_json():
    plan = plan_from("standard", steps=700, degree=2, splat_limit=None)
    assert plan.refine_stop == plan_from("standard").refine_stop // 10
    assert plan.degree == 2
    assert plan_from_json(plan_to_json(plan)) == plan
    with pytest.raises(ValueError, match="at least 1"):
        plan_from("quick", steps=0)
    with pytest.raises(ValueError, match="surprise"):
        plan_from_json({**plan_to_json(plan), "surprise": 1})
    with pytest.raises(ValueError, match="ssim_weight"):
        plan_from_json({**plan_to_json(plan), "ssim_weight": "much"})
    with pytest.raises(ValueError, match=r"growth .*'wild'.*threshold"):
        plan_from_json({**plan_to_json(plan), "growth": "wild"})


def test_what_a_plan_never_does_stays_so_when_it_is_stretched():
    assert stretched(Plan(steps=1000), 10).coarse_steps == 0
    assert stretched(Plan(steps=1000, coarse_steps=500), 10).coarse_steps == 5
    assert stretched(Plan(steps=1000, coarse_steps=5), 10).coarse_steps == 1


@pytest.mark.parametrize(
    "change",
    [
        {"rest_interval": 0},
        {"refine_interval": 0},
        {"rates_final": 0.0},
        {"start_scale": math.inf},
        {"start_opacity": 1.0},
        {"coarse_share": 0.0},
        {"means_rate": math.nan},
        {"coarse_downscale": 0.5},
    ],
)
def test_numbers_that_no_fit_can_have_are_named(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} of the plan is"):
        Plan(steps=10, **change)


def test_the_rates_fall_to_their_ends():
    plan = plan_from("high", rates_final=0.1)
    assert learning_rates(plan, 0)["means"] == plan.means_rate
    assert learning_rates(plan, 0)["base"] == plan.base_rate
    last = learning_rates(plan, plan.steps)
    assert last["means"] == pytest.approx(plan.means_rate_final)
    assert last["base"] == pytest.approx(plan.base_rate / 10)


def test_rare_parameters_move_at_their_steps_and_count_them():
    plan = Plan(steps=100, rest_interval=4)
    moves = [move_at(plan, step) for step in range(9)]
    assert [move.updates.get("rest") for move in moves] == [1, *[None] * 3, 2, *[None] * 3, 3]
    assert [move.updates["means"] for move in moves] == list(range(1, 10))
    assert all(set(move.rates) == set(move.updates) for move in moves)
    assert move_at(Plan(steps=100), 8).updates["rest"] == 9


def test_a_rate_makes_up_for_the_bias_of_another_count():
    move = move_at(Plan(steps=100, rest_interval=4), 8)
    rates = rebased(move, 9)
    assert rates["means"] == move.rates["means"]

    def steps(rate: float, updates: int) -> float:
        return rate / (1 - 0.9**updates) * (1 - 0.999**updates) ** 0.5

    assert steps(rates["rest"], 9) == pytest.approx(steps(move.rates["rest"], 3))


def test_the_trust_region_falls_exponentially_and_is_off_by_default():
    plan = Plan(steps=100, trust_region=1e-6, trust_region_final=1e-8)
    assert trust_region(plan, 50) == pytest.approx(1e-7)
    assert trust_region(Plan(steps=100), 50) == 0


def mass(splats, x: torch.Tensor) -> torch.Tensor:
    """Density of each splat's weight, its opacity, at places x. [splats, places]"""
    rotations = rotation_matrices(splats.quaternions).double()
    scales = splats.log_scales.double().exp()
    local = torch.einsum("sji,snj->sni", rotations, x - splats.means[:, None].double())
    density = (-0.5 * (local / scales[:, None]).square().sum(-1)).exp()
    density = density / (scales.prod(1) * (2 * math.pi) ** 1.5)[:, None]
    return splats.opacity_logits.double().sigmoid()[:, None] * density


def hellinger(a, b) -> float:
    """Squared Hellinger distance of two splats, by summing over a grid."""
    axis = torch.linspace(-9, 9, 121, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)[None]
    cell = float(axis[1] - axis[0]) ** 3
    # Half the squared distance of the roots, as for densities of weight one.
    return float(0.5 * (mass(a, grid).sqrt() - mass(b, grid).sqrt()).square().sum() * cell)


@pytest.mark.parametrize("name", ["means", "log_scales", "opacity_logits", "quaternions"])
def test_a_move_to_its_bound_is_within_the_trust_region(name):
    epsilon = 1e-3
    splats = splats_from_points(torch.zeros(1, 3), torch.full((1, 3), 0.5), Plan(steps=1))
    splats = dataclasses.replace(
        splats,
        log_scales=torch.tensor([[0.4, -0.2, 0.1]]),
        opacity_logits=torch.tensor([-0.5]),
        quaternions=torch.tensor([[1.5, 0.2, 0.0, 0.0]]),
    )
    most = largest_moves(splats, epsilon)[name]
    value = splats.tensors[name]
    step = torch.zeros_like(value)
    # The first entry of a quaternion is its length here, not a turn.
    step.view(-1)[1 if name == "quaternions" else 0] = most.view(-1)[0]
    distance = hellinger(splats, dataclasses.replace(splats, **{name: value + step}))
    assert 0.2 * epsilon < distance < 1.02 * epsilon


def test_a_move_is_taken_back_as_far_as_it_went_too_far():
    before = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    after = torch.tensor([[1.5, 2.05], [0.0, 4.0]])
    confine(after, before, torch.tensor([[0.1], [0.2]]))
    torch.testing.assert_close(after, torch.tensor([[1.1, 2.05], [2.8, 4.0]]))


def test_bounds_are_finite_for_faint_solid_black_and_needle_splats():
    splats = splats_from_points(torch.zeros(4, 3), torch.zeros(4, 3), Plan(steps=1))
    splats.opacity_logits[:2] = torch.tensor([-30.0, 30.0])
    splats.log_scales[2] = torch.tensor([-12.0, 3.0, 0.0])
    for name, bound in largest_moves(splats, 1e-6).items():
        assert (bound > 0).all(), name
        assert not bound.isnan().any(), name


def test_every_value_of_the_plan_is_in_the_documented_table():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    table = {line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:-1]] for line in rows}
    documented = [name for name in table if name in {f.name for f in dataclasses.fields(Plan)}]
    assert documented == [field.name for field in dataclasses.fields(Plan)]
    for name in documented:
        for cell, plan in zip(table[name], PRESETS.values(), strict=False):
            assert _number(cell) == getattr(plan, name), f"{name} of a preset"


def _number(cell: str) -> object:
    """A cell of the table as a value of the plan."""
    if not re.fullmatch(r"[-\d.,e]+", cell):
        return cell
    value = float(cell.replace(",", ""))
    return int(value) if value.is_integer() else value
