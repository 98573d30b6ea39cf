"""Checkpoints: a resumed fit gives the same scene, and damaged files are refused."""

import dataclasses
import math

import pytest
import torch

from lumigraph.datasets import Capture
from lumigraph.recon import (
    Plan,
    SplatFit,
    fit_splats,
    load_checkpoint,
    save_checkpoint,
    start_fit,
)
from lumigraph.recon.files import save_scene
from lumigraph.recon.optimizers import BlockState, LmState, lm

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
    "the defaults": {},
    "small photos first": {"coarse_steps": 40},
    "antialiased": {"filter": "antialiased"},
    "finished by lm": {"optimizer": "lm", "switch": 30, "refine_stop": 30},
    "finished by 3DGS-LM": {"optimizer": "lm-published", "switch": 52},
}
"""Changes to the plan, one for each method of the fit."""


def finished(capture: Capture, fit: SplatFit, steps: int | None = None) -> SplatFit:
    for step in fit_splats(capture, fit):
        if step.step == steps:
            break
    return fit


def assert_same(a: SplatFit, b: SplatFit) -> None:
    assert a.step == b.step
    for name, value in a.splats.tensors.items():
        assert torch.equal(value, b.splats.tensors[name]), name
        assert torch.equal(a.first[name], b.first[name]), name
        assert torch.equal(a.second[name], b.second[name]), name


@pytest.mark.parametrize("steps", [1, 19, 20, 45])
def test_a_fit_resumed_from_a_checkpoint_gives_the_same_scene(capture, tmp_path, steps):
    whole = finished(capture, start_fit(capture, PLAN))
    save_checkpoint(finished(capture, start_fit(capture, PLAN), steps), tmp_path / "fit")
    assert_same(whole, finished(capture, load_checkpoint(tmp_path / "fit")))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_resumes_bit_for_bit_for_any_number_of_threads(capture, tmp_path, method):
    plan = dataclasses.replace(PLAN, **METHODS[method])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = finished(capture, start_fit(capture, plan))
        torch.set_num_threads(2)
        save_checkpoint(finished(capture, start_fit(capture, plan), 33), tmp_path / "fit")
    finally:
        torch.set_num_threads(threads)
    assert_same(whole, finished(capture, load_checkpoint(tmp_path / "fit")))
    usual = finished(capture, start_fit(capture, PLAN))
    differs = not torch.equal(whole.splats.means[:10], usual.splats.means[:10])
    assert differs == (method != "the defaults")


@pytest.mark.parametrize("steps", [52, 53, 55])
def test_3dgs_lm_resumes_bit_for_bit(capture, tmp_path, steps):
    plan = dataclasses.replace(PLAN, steps=57, **METHODS["finished by 3DGS-LM"])
    whole = finished(capture, start_fit(capture, plan))
    save_checkpoint(finished(capture, start_fit(capture, plan), steps), tmp_path / "fit")
    again = load_checkpoint(tmp_path / "fit")
    assert (again.lm is None) == (steps == 52)
    assert_same(whole, finished(capture, again))
    assert isinstance(whole.lm, LmState)
    assert isinstance(again.lm, LmState)
    assert (whole.lm.number, whole.lm.radius) == (again.lm.number, again.lm.radius)


@pytest.mark.parametrize("damping", [1.0, 4.0])
def test_lm_resumes_bit_for_bit_within_an_iteration(capture, tmp_path, monkeypatch, damping):
    monkeypatch.setattr(lm, "ITERATION", 8)
    monkeypatch.setattr(lm, "REFRESH", 3)
    plan = dataclasses.replace(PLAN, **METHODS["finished by lm"])
    fit = finished(capture, start_fit(capture, plan), 35)
    assert isinstance(fit.lm, BlockState)
    fit.lm.damping = damping
    save_checkpoint(finished(capture, fit, 44), tmp_path / "fit")
    again = load_checkpoint(tmp_path / "fit")
    assert isinstance(again.lm, BlockState)
    assert again.lm.number == 1
    assert again.lm.losses > 0
    assert again.lm.foretold == fit.lm.foretold != 0
    assert_same(finished(capture, fit), finished(capture, again))
    one, other = dataclasses.asdict(fit.lm), dataclasses.asdict(again.lm)
    for name in set(one) - {"seconds", "curvature", "best"}:
        assert one[name] == other[name], name
    for tensors in ("curvature", "best"):
        for x, y in zip(one[tensors], other[tensors], strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize(
    "damage",
    [
        "truncate",
        "text",
        "other kind",
        "shape",
        "type",
        "order",
        "levels",
        "radius",
        "curvature",
        "damping",
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(capture, tmp_path, damage):
    path = tmp_path / "fit.safetensors"
    fit = finished(capture, start_fit(capture, PLAN), 2)
    if damage == "shape":
        fit.first["means"] = fit.first["means"][:-1]
    if damage == "type":
        fit.splats.means.data = fit.splats.means.double()
    if damage == "order":
        fit.order = fit.order.int()
    if damage == "radius":
        fit.lm = LmState(1, -1.0, 2.0, torch.arange(3), fit.random.clone())
    if damage in ("curvature", "damping"):
        plan = dataclasses.replace(PLAN, **METHODS["finished by lm"])
        fit = finished(capture, start_fit(capture, plan), 40)
        assert isinstance(fit.lm, BlockState)
        if damage == "damping":
            fit.lm.damping = math.nan
        else:
            geometry = fit.lm.curvature.geometry[:, :-1]
            fit.lm.curvature = fit.lm.curvature._replace(geometry=geometry)
    if damage == "levels":
        fit.levels = fit.levels * 0
    save_checkpoint(fit, path)
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-100])
    if damage == "text":
        path.write_text("not a checkpoint")
    if damage == "other kind":
        save_scene(fit.scene(), path)
    with pytest.raises(ValueError, match=r"fit\.safetensors is not") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_checkpoint(tmp_path / "nothing")
