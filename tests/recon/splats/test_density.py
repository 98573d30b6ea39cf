"""Density control: which splats grow and which are removed, and what moves along with them."""

import dataclasses
import math

import pytest
import torch

from lumigraph.kernels import Pull
from lumigraph.recon import PRESETS, Plan, SplatFit
from lumigraph.recon.splats.density import (
    PRUNE_START,
    control_density,
    refine,
    remove_unsound,
    reset_opacities,
    split,
)
from lumigraph.recon.splats.morton import morton_order
from lumigraph.recon.splats.plan import stretched
from lumigraph.recon.splats.start import splats_from_points
from lumigraph.recon.splats.state import no_pull
from lumigraph.render import Similarity, Splats

PLAN = Plan(steps=100, refine_start=20, refine_stop=80, refine_interval=10)


def some(count: int) -> Splats:
    """Splats of one size at random places before the camera, of random colours."""
    points = torch.rand(count, 3) * 2 - 1
    splats = splats_from_points(points, torch.rand(count, 3), Plan(steps=1, start_opacity=0.5))
    return dataclasses.replace(splats, log_scales=torch.full((count, 3), math.log(0.1)))


def fit_of(splats: Splats, plan: Plan = PLAN, step: int = 30) -> SplatFit:
    """A fit of these splats, with moments of one."""
    return SplatFit(
        plan=plan,
        step=step,
        splats=splats,
        first={name: torch.ones_like(value) for name, value in splats.tensors.items()},
        second={name: torch.ones_like(value) for name, value in splats.tensors.items()},
        last=torch.zeros(len(splats), dtype=torch.int32),
        pull=no_pull(len(splats)),
        similarity=Similarity.identity(),
        levels=torch.tensor([[0.0, 1.0]], dtype=torch.float64),
        order=torch.empty(0, dtype=torch.int64),
        random=torch.Generator().get_state(),
    )


def test_the_state_of_a_splat_moves_with_it_along_the_curve():
    splats = some(50)
    fit = fit_of(splats, Plan(steps=100, grow_gradient=40.0), step=60)
    fit.first = {name: value + 1 for name, value in splats.tensors.items()}
    fit.second = {name: value + 2 for name, value in splats.tensors.items()}
    fit.last = torch.full((50,), 7, dtype=torch.int32)
    fit.pull = Pull(torch.arange(50) + 0.5, torch.ones(50))
    refine(fit, torch.Generator().manual_seed(0))
    means = fit.splats.means
    assert torch.equal(morton_order(means), torch.arange(len(means)))
    old = fit.last == 7
    assert (fit.last[~old] == 60).all()
    assert [int(rows.sum()) for rows in (old, ~old)] == [40, 20]  # Ten are split in two.
    for name, value in fit.splats.tensors.items():
        assert torch.equal(fit.first[name][old], value[old] + 1)
        assert torch.equal(fit.second[name][old], value[old] + 2)
        assert not fit.first[name][~old].any()
        assert not fit.second[name][~old].any()


def test_refine_clones_the_small_splits_the_large_and_prunes_the_faint():
    splats = some(4)
    splats.log_scales[:] = math.log(0.001)
    splats.log_scales[1] = math.log(0.05)
    splats.opacity_logits[3] = -8
    fit = fit_of(splats)
    fit.pull.gradient[:2] = 1
    fit.pull.views[:] = 1
    refine(fit, torch.Generator().manual_seed(0))
    after = fit.splats
    assert (
        len(after) == 3 - 1 + 1 + 2
    )  # three kept, less the split one, plus a clone and two halves
    cloned, other = ((after.means == splats.means[k]).all(1) for k in (0, 2))
    halves = ~(cloned | other)
    assert [int(rows.sum()) for rows in (cloned, other, halves)] == [2, 1, 2]
    torch.testing.assert_close(after.log_scales[halves], splats.log_scales[[1, 1]] - math.log(1.6))
    # Kept splats keep their moments, added splats have moments of zero.
    assert (fit.first["means"][other] == 1).all()
    assert sorted(fit.first["means"][cloned].sum(1).tolist()) == [0, 3]
    assert not fit.first["means"][halves].any()
    assert len(fit.pull.views) == 5


def test_refine_stops_at_the_limit_and_takes_the_strongest():
    splats = some(10)
    splats.log_scales[:] = math.log(0.001)
    fit = fit_of(splats, dataclasses.replace(PLAN, splat_limit=12))
    fit.pull.gradient[:] = torch.arange(10) + 1.0
    fit.pull.views[:] = 1
    refine(fit, torch.Generator().manual_seed(0))
    assert len(fit.splats) == 12
    copies = (fit.splats.means[:, None] == splats.means).all(2).sum(0)
    assert copies.tolist() == [1] * 8 + [2] * 2


def test_halves_follow_the_gaussian_they_came_from():
    splats = some(1)
    splats.log_scales[:] = torch.tensor([0.0, -1.0, -4.0])
    splats.quaternions[:] = torch.tensor([0.5, 0.5, 0.5, 0.5])  # x -> y -> z -> x
    many = splats[torch.zeros(20_000, dtype=torch.long)]
    halves = split(many, torch.Generator().manual_seed(0))
    offsets = torch.cat([half.means for half in halves]) - splats.means
    expected = torch.tensor([math.exp(-4), 1.0, math.exp(-1)])
    torch.testing.assert_close(offsets.std(0), expected, rtol=0.02, atol=1e-4)


def test_reset_makes_all_splats_faint_but_none_fainter():
    splats = some(3)
    splats.opacity_logits[0] = -7
    fit = fit_of(splats)
    reset_opacities(fit)
    expected = torch.tensor([-7.0, math.log(0.01 / 0.99), math.log(0.01 / 0.99)])
    torch.testing.assert_close(fit.splats.opacity_logits, expected)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("share", [1, 0.1])
def test_every_preset_removes_splats_that_are_too_large_after_a_fifth_of_density_control(
    preset, share
):
    plan = stretched(PRESETS[preset], round(PRESETS[preset].steps * share))
    for step in range(plan.refine_interval, plan.refine_stop + 1, plan.refine_interval):
        splats = some(5)
        splats.log_scales[2, 1] = math.log(1.01 * plan.prune_scale)
        splats.log_scales[:2] = math.log(0.99 * plan.prune_scale)
        fit = fit_of(splats, plan, step=step)
        refine(fit, torch.Generator())
        assert len(fit.splats) == (4 if step > plan.refine_stop / 5 else 5)


def test_the_published_schedule_removes_large_splats_after_its_first_reset():
    plan = PRESETS["high"]
    assert plan.refine_stop // PRUNE_START == plan.opacity_reset_interval
    assert plan.prune_scale == 0.1


# Splats that are not sound ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", some(1).tensors)
def test_splats_that_are_not_finite_are_removed_and_the_others_keep_their_state(name, value):
    splats = dataclasses.replace(some(20), rest=torch.rand(20, 3, 3))
    expected = splats[torch.arange(20) != 7]
    fit = fit_of(splats)
    fit.first = {key: tensor.clone() for key, tensor in splats.tensors.items()}
    splats.tensors[name][7] = value
    fit.first[name][7] = value
    fit.first[name][8] = value
    note = control_density(fit, 0.1, torch.Generator())
    assert note == "Step 30: splats removed because their values were not finite: 1"
    order = morton_order(expected.means)
    for key, tensor in expected.tensors.items():
        assert torch.equal(fit.splats.tensors[key], tensor[order])
        kept = torch.arange(20) != 7
        moments = tensor.clone()
        if key == name:
            moments[7] = 0  # Moments that are not finite are cleared.
        assert torch.equal(fit.first[key], moments[order]), kept
    assert len(fit.last) == len(fit.pull.views) == 19


def test_splats_without_a_rotation_are_removed():
    splats = some(5)
    splats.quaternions[0] = 0
    splats.quaternions[1] = 1e30
    fit = fit_of(splats)
    assert remove_unsound(fit)
    assert len(fit.splats) == 3
    assert remove_unsound(fit) is None


def test_splats_are_checked_at_once_if_a_loss_is_not_finite():
    for step, loss, count in ((31, 0.1, 5), (31, math.nan, 4), (95, math.inf, 4), (100, 0.1, 4)):
        splats = some(5)
        splats.base[2] = math.nan
        fit = fit_of(splats, step=step)
        note = control_density(fit, loss, torch.Generator())
        assert len(fit.splats) == count
        assert bool(note) == (count == 4)


def test_a_scene_without_sound_splats_becomes_empty():
    splats = some(5)
    splats.means[:] = math.nan
    fit = fit_of(splats)
    assert control_density(fit, math.nan, torch.Generator())
    assert len(fit.splats) == len(fit.scene()) == 0


def test_opacities_are_reset_beside_a_splat_that_is_not_finite():
    splats = some(3)
    splats.opacity_logits[:] = torch.tensor([math.nan, math.inf, 1.0])
    fit = fit_of(splats, dataclasses.replace(PLAN, opacity_reset_interval=30))
    assert control_density(fit, 0.1, torch.Generator())
    torch.testing.assert_close(fit.splats.opacity_logits, torch.tensor([math.log(0.01 / 0.99)]))


def test_the_scene_leaves_out_splats_that_are_not_sound():
    splats = dataclasses.replace(some(4), rest=torch.zeros(4, 3, 3))
    splats.rest[1, 2, 0] = math.inf
    fit = fit_of(splats)
    assert torch.equal(fit.scene().means, splats.means[[0, 2, 3]])
    assert len(fit.splats) == 4
