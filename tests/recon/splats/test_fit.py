"""Fits: they learn, they repeat to the bit, and density control keeps its laws."""

import dataclasses
import math

import pytest
import torch

from lumigraph.datasets import Capture, Frame
from lumigraph.recon import (
    Plan,
    SplatFit,
    change_plan,
    fit_splats,
    load_checkpoint,
    save_checkpoint,
    start_fit,
)
from lumigraph.recon.optimizers import lm
from lumigraph.recon.optimizers.lm import BlockState
from lumigraph.recon.optimizers.lm_published import LmState
from lumigraph.recon.splats.density import refine, reset_opacities, split
from lumigraph.recon.splats.morton import morton_order
from lumigraph.recon.splats.start import neighbor_distances, splats_from_points
from lumigraph.recon.splats.state import no_pull
from lumigraph.render import Camera, Similarity, Splats, psnr, render
from lumigraph.render.paths import look_at

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
LASTING = dataclasses.replace(PLAN, steps=150, opacity_reset_interval=1000)
"""Without a reset, which a fit of so few steps would not recover from."""


METHODS = {
    "the defaults": {},
    "small photos first": {"coarse_steps": 40},
    "antialiased": {"filter": "antialiased"},
    "finished by lm": {"optimizer": "lm", "switch": 30, "refine_stop": 30},
    "finished by 3DGS-LM": {"optimizer": "lm-published", "switch": 52},
}
"""What a plan can ask for, each by itself."""


def blobs(count: int, seed: int = 0) -> Splats:
    """Coloured blobs in a box of side 16 about (100, 0, 0)."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator) * 16 - 8
    splats = splats_from_points(points, torch.rand(count, 3, generator=generator), Plan(steps=1))
    return dataclasses.replace(
        splats,
        means=points + torch.tensor([100.0, 0, 0]),
        log_scales=torch.full((count, 3), math.log(1.5)),
        opacity_logits=torch.full((count,), 2.0),
    )


def capture_of(scene: Splats, views: int = 8, scale: float = 1.0) -> Capture:
    """Photos of a scene from a ring of cameras, in a frame `scale` times as large."""
    frames = []
    for k in range(views):
        angle = 2 * math.pi * k / views
        position = torch.tensor(
            [100 + 30 * math.cos(angle), 5, 30 * math.sin(angle)], dtype=torch.float64
        )
        matrix = look_at(
            position,
            torch.tensor([100.0, 0, 0], dtype=torch.float64),
            torch.tensor([0.0, -1, 0], dtype=torch.float64),
        )
        camera = Camera(matrix, (40.0, 40.0), (20.0, 15.0), 40, 30)
        with torch.no_grad():
            image = render(scene, camera).color.clamp(0, 1).mul(255).round().to(torch.uint8)
        moved = Similarity(torch.zeros(3, dtype=torch.float64), scale).camera(camera)
        frames.append(Frame(f"{k:03}.png", moved, lambda image=image: image))
    points = scene.means.double() * scale
    colors = (scene.base * 0.28209479 + 0.5).mul(255).round().to(torch.uint8)
    origin = torch.tensor([100.0 * scale, 0, 0], dtype=torch.float64)
    return Capture(
        "blobs",
        tuple(frames[1:]),
        tuple(frames[:1]),
        points,
        colors,
        Similarity(origin, 1 / (30 * scale)),
    )


@pytest.fixture(scope="module")
def capture() -> Capture:
    return capture_of(blobs(150))


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


def test_a_fit_learns_views_it_never_saw():
    capture = capture_of(blobs(150), views=40)
    fit = start_fit(capture, dataclasses.replace(LASTING, steps=400))
    frame = capture.test[0]
    photo = frame.image().float() / 255
    camera = capture.similarity.camera(frame.camera)
    before = psnr(render(fit.scene(), camera).color, photo)
    after = psnr(render(finished(capture, fit).scene(), camera).color, photo)
    assert after > before + 5
    assert after > 24


def test_the_same_seed_gives_the_same_scene_for_any_number_of_threads(capture):
    threads = torch.get_num_threads()
    fits = []
    try:
        for count in (1, 2, 8):
            torch.set_num_threads(count)
            fits.append(finished(capture, start_fit(capture, PLAN, seed=3)))
    finally:
        torch.set_num_threads(threads)
    assert_same(fits[0], fits[1])
    assert_same(fits[0], fits[2])


def test_another_seed_gives_another_scene(capture):
    a, b = (finished(capture, start_fit(capture, PLAN, seed=seed)) for seed in (1, 2))
    assert not torch.equal(a.splats.means[:10], b.splats.means[:10])


@pytest.mark.parametrize("steps", [1, 19, 20, 45])
def test_going_on_from_a_checkpoint_changes_nothing(capture, tmp_path, steps):
    whole = finished(capture, start_fit(capture, PLAN))
    save_checkpoint(finished(capture, start_fit(capture, PLAN), steps), tmp_path / "fit")
    assert_same(whole, finished(capture, load_checkpoint(tmp_path / "fit")))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_to_the_bit_for_any_number_of_threads(capture, tmp_path, method):
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
def test_levenberg_marquardt_goes_on_to_the_bit(capture, tmp_path, steps):
    plan = dataclasses.replace(PLAN, steps=57, **METHODS["finished by 3DGS-LM"])
    whole = finished(capture, start_fit(capture, plan))
    save_checkpoint(finished(capture, start_fit(capture, plan), steps), tmp_path / "fit")
    again = load_checkpoint(tmp_path / "fit")
    assert (again.lm is None) == (steps == 52)
    assert_same(whole, finished(capture, again))
    assert isinstance(whole.lm, LmState)
    assert isinstance(again.lm, LmState)
    assert (whole.lm.number, whole.lm.radius) == (again.lm.number, again.lm.radius)


def test_iterations_of_levenberg_marquardt_are_told_and_lower_the_cost(capture):
    plan = dataclasses.replace(PLAN, steps=56, **METHODS["finished by 3DGS-LM"])
    steps = list(fit_splats(capture, start_fit(capture, plan)))
    tried = [step.tried for step in steps if step.tried]
    assert [step.step for step in steps if step.tried] == [53, 54, 55, 56]
    assert [each.number for each in tried] == [1, 2, 3, 4]
    assert any(each.accepted for each in tried)
    assert all(each.tried < each.before for each in tried if each.accepted)
    assert all(math.isfinite(step.loss) for step in steps)


def test_levenberg_marquardt_that_has_no_more_to_gain_ends_the_fit(capture):
    plan = dataclasses.replace(PLAN, steps=60, **METHODS["finished by 3DGS-LM"])
    fit = finished(capture, start_fit(capture, plan), 53)
    assert isinstance(fit.lm, LmState)
    fit.lm.radius, fit.lm.factor = 1e-4, 1e9  # of a search whose next failure is its last
    fit.splats.means.fill_(math.nan)
    steps = list(fit_splats(capture, fit))
    assert len(steps) == 1
    assert fit.step == 60


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(capture, method):
    plan = dataclasses.replace(LASTING, **METHODS[method])
    losses = [step.loss for step in fit_splats(capture, start_fit(capture, plan))]
    # The last steps see photos at full size, whatever the first ones saw.
    assert sum(losses[-7:]) < 0.7 * sum(losses[:7])


def test_the_scene_is_in_the_frame_of_the_capture(capture):
    large = capture_of(blobs(150), scale=50)
    fit = finished(capture, start_fit(capture, PLAN))
    other = finished(large, start_fit(large, PLAN))
    here, there = capture.test[0].camera, large.test[0].camera
    scenes = [f.scene().moved(f.similarity.inverse()) for f in (fit, other)]
    assert psnr(render(scenes[1], there).color, render(scenes[0], here).color) > 40


def test_neighbours_in_space_are_neighbours_in_memory_from_the_start(capture):
    means = start_fit(capture, PLAN).splats.means
    assert torch.equal(morton_order(means), torch.arange(len(means)))


def test_every_step_is_told(capture):
    fit = start_fit(capture, PLAN)
    steps = list(fit_splats(capture, fit))
    assert [step.step for step in steps] == list(range(1, 61))
    assert steps[-1].splats == len(fit.splats)
    assert {step.degree for step in steps} == {0, 1}
    assert not list(fit_splats(capture, fit))


def test_every_frame_is_seen_once_an_epoch(capture):
    seen = []
    frames = [
        dataclasses.replace(
            frame, image=lambda frame=frame: seen.append(frame.name) or frame.image()
        )
        for frame in capture.train
    ]
    watched = dataclasses.replace(capture, train=tuple(frames))
    finished(watched, start_fit(watched, PLAN), 14)
    names = [frame.name for frame in frames]
    assert sorted(seen[:7]) == names
    assert sorted(seen[7:]) == names


def test_a_fit_without_points_starts_from_what_the_cameras_see(capture):
    blind = dataclasses.replace(
        capture, points=capture.points[:0], colors=capture.colors[:0], similarity=capture.similarity
    )
    plan = dataclasses.replace(LASTING, random_points=300)
    fit = start_fit(blind, plan)
    assert len(fit.splats) == 300
    losses = [step.loss for step in fit_splats(blind, fit)]
    assert sum(losses[-7:]) < 0.7 * sum(losses[:7])
    assert_same(finished(blind, start_fit(blind, plan)), fit)


def test_more_points_than_splats_are_thinned(capture):
    fit = start_fit(capture, dataclasses.replace(PLAN, splat_limit=40))
    assert len(fit.splats) == 40
    assert len(finished(capture, fit).splats) <= 40


def test_one_photo_is_enough_to_fit(capture):
    one = dataclasses.replace(capture, train=capture.train[:1])
    assert finished(one, start_fit(one, PLAN)).step == 60


def test_a_capture_far_from_its_origin_is_fitted_as_well(capture):
    offset = torch.tensor([5e5, -4e6, 100.0], dtype=torch.float64)
    away = Similarity(-offset, 1.0)
    moved = dataclasses.replace(
        capture,
        train=tuple(dataclasses.replace(f, camera=away.camera(f.camera)) for f in capture.train),
        points=away.points(capture.points),
        similarity=Similarity(capture.similarity.origin + offset, capture.similarity.scale),
    )
    here = finished(capture, start_fit(capture, PLAN))
    there = finished(moved, start_fit(moved, PLAN))
    camera = capture.similarity.camera(capture.test[0].camera)
    assert psnr(render(there.scene(), camera).color, render(here.scene(), camera).color) > 40


def test_the_background_is_fitted_to(capture):
    scene = blobs(150)
    white = (1.0, 1.0, 1.0)
    frames = []
    for frame in capture.train:
        with torch.no_grad():
            image = render(scene, frame.camera, background=white).color
        image = image.clamp(0, 1).mul(255).round().to(torch.uint8)
        frames.append(dataclasses.replace(frame, image=lambda image=image: image))
    lit = dataclasses.replace(capture, train=tuple(frames), background=white)
    fit = finished(lit, start_fit(lit, LASTING))
    camera = fit.similarity.camera(frames[0].camera)
    seen = render(fit.scene(), camera, background=white).color
    assert psnr(seen, frames[0].image().float() / 255) > 17
    assert render(fit.scene(), camera).opacity[0, 0] < 0.1


def test_a_capture_without_training_photos_is_refused(capture):
    with pytest.raises(ValueError, match="no training photos"):
        start_fit(dataclasses.replace(capture, train=()), PLAN)


def fit_of(splats: Splats, plan: Plan = PLAN) -> SplatFit:
    fit = start_fit(capture_of(blobs(100), views=2), plan)
    fit.splats = splats
    for moments in (fit.first, fit.second):
        for name, value in splats.tensors.items():
            moments[name] = torch.ones_like(value)
    fit.last = torch.zeros(len(splats), dtype=torch.int32)
    fit.pull = no_pull(len(splats))
    return fit


def test_refine_clones_the_small_splits_the_large_and_prunes_the_faint():
    splats = blobs(4)
    splats.log_scales[:] = math.log(0.001)
    splats.log_scales[1] = math.log(0.05)
    splats.opacity_logits[3] = -8
    fit = fit_of(splats)
    fit.pull.gradient[:2] = 1
    fit.pull.views[:] = 1
    refine(fit, torch.Generator().manual_seed(0))
    after = fit.splats
    assert len(after) == 3 - 1 + 1 + 2  # kept, less the split one, a clone, two halves
    cloned, other = ((after.means == splats.means[k]).all(1) for k in (0, 2))
    halves = ~(cloned | other)
    assert [int(rows.sum()) for rows in (cloned, other, halves)] == [2, 1, 2]
    torch.testing.assert_close(after.log_scales[halves], splats.log_scales[[1, 1]] - math.log(1.6))
    # Those that were there keep their moments, what was added has none.
    assert (fit.first["means"][other] == 1).all()
    assert sorted(fit.first["means"][cloned].sum(1).tolist()) == [0, 3]
    assert not fit.first["means"][halves].any()
    assert len(fit.pull.views) == 5


def test_refine_stops_at_the_limit_and_takes_the_strongest():
    splats = blobs(10)
    splats.log_scales[:] = math.log(0.001)
    fit = fit_of(splats, dataclasses.replace(PLAN, splat_limit=12))
    fit.pull.gradient[:] = torch.arange(10) + 1.0
    fit.pull.views[:] = 1
    refine(fit, torch.Generator().manual_seed(0))
    assert len(fit.splats) == 12
    copies = (fit.splats.means[:, None] == splats.means).all(2).sum(0)
    assert copies.tolist() == [1] * 8 + [2] * 2


def test_halves_follow_the_gaussian_they_came_from():
    splats = blobs(1)
    splats.log_scales[:] = torch.tensor([0.0, -1.0, -4.0])
    splats.quaternions[:] = torch.tensor([0.5, 0.5, 0.5, 0.5])  # x -> y -> z -> x
    many = splats[torch.zeros(20_000, dtype=torch.long)]
    halves = split(many, torch.Generator().manual_seed(0))
    offsets = torch.cat([half.means for half in halves]) - splats.means
    expected = torch.tensor([math.exp(-4), 1.0, math.exp(-1)])
    torch.testing.assert_close(offsets.std(0), expected, rtol=0.02, atol=1e-4)


def test_reset_makes_all_splats_faint_but_none_fainter():
    splats = blobs(3)
    splats.opacity_logits[0] = -7
    fit = fit_of(splats)
    reset_opacities(fit)
    expected = torch.tensor([-7.0, math.log(0.01 / 0.99), math.log(0.01 / 0.99)])
    torch.testing.assert_close(fit.splats.opacity_logits, expected)


def test_neighbor_distances_of_a_grid():
    axis = torch.arange(5) * 0.1
    grid = torch.cartesian_prod(axis, axis, axis)
    torch.testing.assert_close(neighbor_distances(grid), torch.full((125,), 0.1))
    assert neighbor_distances(torch.zeros(1, 3)).shape == (1,)
    assert neighbor_distances(torch.zeros(5, 3)).min() > 0


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
        from lumigraph.recon.files import save_scene

        save_scene(fit.scene(), path)
    with pytest.raises(ValueError, match=r"fit\.safetensors is not") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_fit_is_not_continued_with_fewer_photos(capture):
    fit = finished(capture, start_fit(capture, PLAN), 1)
    fewer = dataclasses.replace(capture, train=capture.train[:2])
    with pytest.raises(ValueError, match="the capture it was started with"):
        finished(fewer, fit)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize("damping", [1.0, 4.0])
def test_lm_goes_on_to_the_bit_amid_an_iteration(capture, tmp_path, monkeypatch, damping):
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


def test_another_loss_makes_the_curvature_anew(capture):
    plan = dataclasses.replace(PLAN, **METHODS["finished by lm"])
    fit = finished(capture, start_fit(capture, plan), 40)
    change_plan(fit, ssim_weight=0.2)
    assert fit.lm is not None
    change_plan(fit, ssim_weight=1.0)
    assert fit.lm is None
    steps = list(fit_splats(capture, fit))
    assert steps[-1].tried is not None
    assert steps[-1].tried.accepted


def test_other_harmonics_make_the_curvature_anew(capture):
    plan = dataclasses.replace(PLAN, **METHODS["finished by lm"])
    fit = finished(capture, start_fit(capture, plan), 40)
    assert isinstance(fit.lm, BlockState)
    change_plan(fit, degree=0)
    assert fit.lm is None
    finished(capture, fit)
    assert isinstance(fit.lm, BlockState)
    assert fit.lm.curvature.rest.shape == (len(fit.splats), 0, 3)
