"""The last part of a fit by Levenberg-Marquardt."""

import dataclasses
import math

from lumigraph.datasets import Capture
from lumigraph.recon import Plan, SplatFit, change_plan, fit_splats, start_fit
from lumigraph.recon.optimizers import BlockState, LmState

PLAN = Plan(
    steps=60,
    degree=1,
    degree_interval=20,
    refine_start=20,
    refine_stop=50,
    refine_interval=10,
    opacity_reset_interval=45,
    splat_limit=400,
)
METHODS = {
    "finished by lm": {"optimizer": "lm", "switch": 30, "refine_stop": 30},
    "finished by 3DGS-LM": {"optimizer": "lm-published", "switch": 52},
}


def finished(capture: Capture, fit: SplatFit, steps: int | None = None) -> SplatFit:
    for step in fit_splats(capture, fit):
        if step.step == steps:
            break
    return fit


def test_iterations_of_3dgs_lm_are_reported_and_lower_the_cost(capture):
    plan = dataclasses.replace(PLAN, steps=56, **METHODS["finished by 3DGS-LM"])
    steps = list(fit_splats(capture, start_fit(capture, plan)))
    tried = [step.tried for step in steps if step.tried]
    assert [step.step for step in steps if step.tried] == [53, 54, 55, 56]
    assert [each.number for each in tried] == [1, 2, 3, 4]
    assert any(each.accepted for each in tried)
    assert all(each.tried < each.before for each in tried if each.accepted)
    assert all(math.isfinite(step.loss) for step in steps)


def test_3dgs_lm_that_can_gain_no_more_ends_the_fit(capture):
    plan = dataclasses.replace(PLAN, steps=60, **METHODS["finished by 3DGS-LM"])
    fit = finished(capture, start_fit(capture, plan), 53)
    assert isinstance(fit.lm, LmState)
    fit.lm.radius, fit.lm.factor = 1e-4, 1e9  # The next failure ends the search.
    fit.splats.means.fill_(math.nan)
    steps = list(fit_splats(capture, fit))
    assert len(steps) == 1
    assert fit.step == 60


def test_another_loss_starts_the_curvature_again(capture):
    plan = dataclasses.replace(PLAN, **METHODS["finished by lm"])
    fit = finished(capture, start_fit(capture, plan), 40)
    change_plan(fit, ssim_weight=0.2)
    assert fit.lm is not None
    change_plan(fit, ssim_weight=1.0)
    assert fit.lm is None
    steps = list(fit_splats(capture, fit))
    assert steps[-1].tried is not None
    assert steps[-1].tried.accepted


def test_other_harmonics_start_the_curvature_again(capture):
    plan = dataclasses.replace(PLAN, **METHODS["finished by lm"])
    fit = finished(capture, start_fit(capture, plan), 40)
    assert isinstance(fit.lm, BlockState)
    change_plan(fit, degree=0)
    assert fit.lm is None
    finished(capture, fit)
    assert isinstance(fit.lm, BlockState)
    assert fit.lm.curvature.rest.shape == (len(fit.splats), 0, 3)
