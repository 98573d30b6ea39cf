"""Benchmarks: their scenes, arithmetic and output. No test depends on a clock."""

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from lumigraph.app import cli
from lumigraph.app.commands import bench
from lumigraph.app.commands.bench import (
    Measured,
    Subject,
    bench_json,
    bench_rows,
    copied,
    generated_camera,
    generated_scene,
    interleaved,
    load_of,
    measured,
    resampled,
    training_steps,
)
from lumigraph.app.run.cameras import cameras_json
from lumigraph.datasets import Capture, Frame
from lumigraph.kernels import _native
from lumigraph.kernels.splats.reference import rotation_matrices
from lumigraph.recon.files import save_ply
from lumigraph.recon.splats.morton import morton_order
from lumigraph.render import Similarity, Splats, render

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

CALIBRATION = """\
FMA AVX-512 fp32                   2T: per-CPU-time median 232.57 best 234.70 | wall best 234.15
blend fwd (pixel,gaussian) pairs   2T: per-CPU-time median 7.02 best 7.17 | wall best 7.14 Gpair/s
G=1000 1T: blend fwd 3.97 Gpair/s, bwd 1.69 Gpair/s (medians of 9, per CPU time)
G=1000 2T: blend fwd 7.95 Gpair/s, bwd 3.39 Gpair/s (medians of 9, per CPU time)
refrender 640x360:
n=100000 640x360 visible 53353 tile-intersections 156402
 ms median(min): project 1.64(1.58) sort 0.96(0.91) total 11.45(10.78) process CPU ms 18.07(17.22)
refrender 1280x720:
n=100000 1280x720 visible 53318 tile-intersections 312191
 ms median(min): project 1.67(1.59) sort 0.96(0.89) total 20.41(17.51) process CPU ms 33.74(29.61)
"""


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The modules of a folder can be imported by their bare names, as its scripts do."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def script(name: str) -> ModuleType:
    """One of the benchmarks as a module."""
    with importable(BENCHMARKS):
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measuring() -> ModuleType:
    return script("measuring")


@pytest.fixture(scope="module")
def found() -> Measured:
    """A measurement that takes almost no time."""
    return measured(splats=2_000, sizes=((64, 36), (32, 18)), rounds=1)


def covariances(splats: Splats) -> Tensor:
    """[splats, 3, 3]"""
    axes = rotation_matrices(splats.quaternions) * splats.log_scales.exp()[:, None]
    return axes @ axes.mT


# The generated scene.


def test_the_generated_scene_is_the_same_every_time_and_has_its_laws():
    one, two, other = generated_scene(5_000), generated_scene(5_000), generated_scene(5_000, seed=1)
    for name, value in one.tensors.items():
        assert torch.equal(value, two.tensors[name])
        assert not torch.equal(value, other.tensors[name])
    opacities = one.opacity_logits.sigmoid()
    assert opacities.min() >= 0.0999
    assert opacities.max() <= 0.9501
    assert opacities.mean().item() == pytest.approx(0.525, abs=0.02)
    assert one.degree == 3


def test_the_generated_scene_is_like_a_real_one_in_load():
    """Half in view, about 25 splats blended in a pixel, at either size of the benchmark."""
    scene = generated_scene()
    for size in bench.SIZES:
        load = load_of(scene, generated_camera(*size))
        assert 0.4 < load["visible"] / len(scene) < 0.6
        assert 22 < load["blended_per_pixel"] < 29


def test_the_blended_splats_of_a_pixel_are_counted():
    """Layers that fill the picture: each is blended until too little light comes through."""
    camera = generated_camera(64, 48)

    def layers(count: int, opacity: float) -> Splats:
        return Splats(
            means=torch.tensor([0.0, 0.0, 1.0]) + torch.arange(count)[:, None] * 0.01,
            quaternions=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
            log_scales=torch.full((count, 3), math.log(1e3)),
            opacity_logits=torch.full((count,), opacity).logit(),
            base=torch.zeros(count, 3),
            rest=torch.zeros(count, 0, 3),
        )

    assert load_of(layers(7, 0.1), camera) == {"visible": 7, "blended_per_pixel": 7.0}
    # After 13 layers of one half 1.2e-4 of the light is left, after 14 half of that.
    assert load_of(layers(40, 0.5), camera) == {"visible": 40, "blended_per_pixel": 14.0}


# More splats, and fewer.


def parents_of(many: Splats, scene: Splats) -> torch.Tensor:
    """Which splat of the scene each was split from: that of the same, unique colour."""
    unique, rows = scene.rest.double().sum((1, 2)).sort()
    assert (unique.diff() > 0).all()
    return rows[torch.searchsorted(unique, many.rest.double().sum((1, 2)))]


def test_splitting_multiplies_splats_and_keeps_what_they_are():
    scene = generated_scene(3_000)
    many = resampled(scene, 30_000)
    parts = parents_of(many, scene)
    assert torch.equal(parts.bincount(), torch.full((3_000,), 10))
    assert torch.equal(morton_order(many.means), torch.arange(30_000))
    for name in ("quaternions", "opacity_logits", "base", "rest"):
        assert torch.equal(many.tensors[name], scene.tensors[name][parts])
    shrunk = scene.log_scales[parts] - math.log(10) / 3
    torch.testing.assert_close(many.log_scales, shrunk)


def test_parts_lie_where_the_splat_itself_drew_them():
    """In the splat's own axes their offsets are standard normal numbers."""
    scene = generated_scene(3_000)
    many = resampled(scene, 30_000)
    parts = parents_of(many, scene)
    offsets = many.means - scene.means[parts]
    whitened = torch.linalg.solve(torch.linalg.cholesky(covariances(scene)[parts]), offsets)
    assert whitened.mean(0).abs().max() < 5 / math.sqrt(30_000)
    torch.testing.assert_close(whitened.T.cov(), torch.eye(3), atol=0.05, rtol=0)


def test_a_splat_of_no_size_keeps_its_place():
    scene = generated_scene(100)
    points = replace(scene, log_scales=torch.full_like(scene.log_scales, -80.0))
    many = resampled(points, 1_000)
    assert torch.equal(many.means, points.means[parents_of(many, points)])


def test_fewer_splats_are_a_choice_and_larger():
    scene = generated_scene(1_000)
    few = resampled(scene, 125)
    assert len(few) == 125
    (rows,) = torch.where((scene.means[:, None] == few.means[None]).all(2).any(1))
    assert len(rows) == 125
    assert torch.equal(scene.opacity_logits[rows], few.opacity_logits)
    torch.testing.assert_close(few.log_scales, scene.log_scales[rows] + math.log(2))


def test_any_number_of_splats_can_be_asked_for():
    scene = generated_scene(1_000)
    assert len(resampled(scene, 2_500)) == 2_500
    same = resampled(scene, 1_000)
    assert all(torch.equal(value, same.tensors[name]) for name, value in scene.tensors.items())


def test_the_larger_scene_looks_like_the_scene():
    """The same space is filled as densely: as much of the background is hidden."""
    scene, camera = generated_scene(5_000), generated_camera(64, 48)
    opacity = render(scene, camera).opacity.mean().item()
    assert render(resampled(scene, 50_000), camera).opacity.mean().item() > 0.9 * opacity


# Taking times.


def test_subjects_take_turns_and_are_warmed_up():
    calls: list[str] = []

    def subject(name: str) -> Subject:
        return Subject(
            name, lambda: calls.append(name), prepare=lambda: calls.append(f"for {name}")
        )

    told: list[tuple[int, int]] = []
    times = interleaved(
        [subject("a"), subject("b")],
        rounds=2,
        runs=2,
        progress=lambda done, total: told.append((done, total)),
    )
    assert calls == ["for a", *"aaa", "for b", *"bbb"] * 2
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4}


def test_a_subject_may_measure_itself():
    assert interleaved([Subject("a", lambda: 12.5)], rounds=2, runs=3) == {"a": [12.5] * 6}


def test_the_training_step_is_that_of_a_fit():
    scene, before = generated_scene(500), generated_scene(500)
    steps = training_steps(scene, generated_camera(64, 36))
    first, second = next(steps), next(steps)
    assert second.step == first.step + 1
    assert second.splats == len(scene)
    assert second.degree == 3
    assert first.loss > 0
    for name, value in before.tensors.items():
        assert not torch.equal(second.fit.splats.tensors[name], value)


def test_measuring_leaves_the_scene_alone():
    scene, before = generated_scene(500), generated_scene(500)
    next(training_steps(copied(scene), generated_camera(64, 36)))
    assert all(torch.equal(value, before.tensors[name]) for name, value in scene.tensors.items())


# What `lumigraph bench` says.


def test_the_json_has_the_keys_that_are_promised(found):
    default = Measured({"1280x720": [20.0], "640x360": [10.0], "train": [80.0]}, {}, bench.SPLATS)
    promised = {
        "render.fps_1280x720_100k": 50.0,
        "render.fps_640x360_100k": 100.0,
        "train.step_ms": 80.0,
    }
    result = bench_json(default)
    assert {key: result[key] for key in promised} == promised
    assert set(result) == {*promised, "machine", "scene"}

    result = json.loads(json.dumps(bench_json(found)))
    keys = {"render.fps_64x36_2k", "render.fps_32x18_2k", "train.step_ms", "machine", "scene"}
    assert set(result) == keys
    assert result["scene"]["splats"] == 2_000
    assert result["scene"]["train_size"] == "64x36"
    assert set(result["scene"]["load"]) == {"64x36", "32x18"}
    assert result["machine"]["threads"] == torch.get_num_threads()
    assert result["machine"]["instruction_set"] in result["machine"]["instruction_sets"]


def test_every_figure_is_explained(found):
    rows = bench_rows(found)
    assert [name for name, _ in rows[::2]] == [
        "rendering 64x36",
        "rendering 32x18",
        "training",
        "machine",
    ]
    assert all(name == "" and line for name, line in rows[1::2])


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_command_measures_and_reports(options, found, monkeypatch):
    asked = []

    def instead(**given: object) -> Measured:
        asked.append(given)
        return found

    monkeypatch.setattr(bench, "measured", instead)
    result = CliRunner().invoke(cli.app, ["bench", *options], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(asked) == 1
    if options:
        (line,) = result.stdout.splitlines()
        assert json.loads(line)["train.step_ms"] == bench_json(found)["train.step_ms"]
    else:
        assert "pictures/s" in result.stdout
        assert "steps/s" in result.stdout


# What the benchmarks share.


def test_a_calibration_is_parsed(measuring):
    assert measuring.parse_calibration(CALIBRATION) == {
        "refrender 640x360": 11.45,
        "refrender 1280x720": 20.41,
        "blend": 7.95e9,
        "blend backward": 3.39e9,
    }
    assert measuring.parse_calibration("nothing of the kind\ntotal 3.0(2.0)") == {}


def test_two_calibrations_are_compared(measuring):
    before, after = {"a": 10.0, "b": 2.0, "c": 1.0}, {"a": 11.0, "b": 2.0}
    assert measuring.together(before, after) == {"a": 10.5, "b": 2.0}
    assert measuring.drift(before, after) == pytest.approx(0.1)
    assert measuring.drift({}, {}) == 0


def test_a_program_that_fails_is_reported_with_its_last_lines(measuring):
    with pytest.raises(RuntimeError, match="failed with exit code 1:\nno compiler"):
        measuring.output_of([sys.executable, "-c", "raise SystemExit('no compiler')"])


def test_numbers_have_three_digits_that_matter(measuring):
    shown = [measuring.number(v) for v in (0.01234, 0.1234, 1.234, 9.96, 12.34, 123.4, 12345.6)]
    assert shown == ["0.012", "0.123", "1.23", "10.0", "12.3", "123", "12,346"]
    assert measuring.spread(measuring.summary([3.0, 1.0, 2.0])) == "1.00 to 3.00"
    assert measuring.summary([3.0, 1.0, 2.0])["median"] == 2.0


def test_tables_line_up(measuring):
    lines = measuring.markdown(("a", "longer"), [("value", "1"), ("b", "2")]).splitlines()
    assert lines == [
        "| a     | longer |",
        "| ----- | ------ |",
        "| value | 1      |",
        "| b     | 2      |",
    ]


def test_cameras_come_from_a_run_and_from_a_list_of_matrices(measuring, tmp_path):
    camera = generated_camera(64, 48)
    frames = [Frame(name, camera, lambda: torch.zeros(48, 64, 3)) for name in ("a", "b")]
    none = torch.zeros(0, 3)
    capture = Capture("c", (frames[0],), (frames[1],), none, none, Similarity.identity())
    matrices = {
        "width": 64,
        "height": 48,
        "K": [[camera.focal[0], 0, 32], [0, camera.focal[1], 24], [0, 0, 1]],
        "world_to_camera": [camera.world_to_camera.tolist()],
    }
    for data, count in ((cameras_json(capture), 2), (matrices, 1)):
        path = tmp_path / "cameras.json"
        path.write_text(json.dumps(data))
        read = measuring.cameras_in(path)
        assert len(read) == count
        assert torch.equal(read[0].world_to_camera, camera.world_to_camera)
        assert read[0].view == camera.view
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"should be a run's cameras\.json or have width"):
        measuring.cameras_in(path)


def test_a_camera_at_another_size_sees_as_wide_and_stretches_nothing(measuring):
    camera = measuring.at_size(generated_camera(640, 480), (1280, 720))
    assert camera.focal == (2 * 0.74 * 640, 2 * 0.74 * 640)
    assert camera.center == (640, 360)
    assert (camera.width, camera.height) == (1280, 720)


@pytest.mark.parametrize("options", [["--scene", "a.ply"], ["--cameras", "a.json"]])
def test_a_scene_needs_cameras_and_cameras_a_scene(options, measuring):
    parser = argparse.ArgumentParser()
    measuring.scene_options(parser)
    with pytest.raises(ValueError, match="belong together"):
        measuring.views(parser.parse_args(options))


def test_scenes_come_from_files(measuring, tmp_path):
    scene, camera = generated_scene(10), generated_camera(64, 48)
    none = torch.zeros(0, 3)
    frame = Frame("a", camera, lambda: torch.zeros(48, 64, 3))
    capture = Capture("c", (frame,), (), none, none, Similarity.identity())
    save_ply(scene, tmp_path / "scene.ply")
    (tmp_path / "cameras.json").write_text(json.dumps(cameras_json(capture)))
    parser = argparse.ArgumentParser()
    measuring.scene_options(parser)
    files = ["--scene", f"{tmp_path}/scene.ply", "--cameras", f"{tmp_path}/cameras.json"]
    one, other = measuring.views(parser.parse_args([*files, "--trained", str(tmp_path)]))
    assert (one.name, other.name) == ("scene", tmp_path.name)
    for view in (one, other):
        assert torch.equal(view.scene.means, scene.means)
        assert view.camera.view == camera.view
    with pytest.raises(ValueError, match="has 1 cameras, so --view 1 must be lower"):
        measuring.views(parser.parse_args([*files, "--view", "1"]))


def test_sizes_are_read_from_a_list(measuring):
    assert measuring.sizes("1280x720,64x36") == ((1280, 720), (64, 36))


# The scripts.


def test_all_six_stages_run():
    stages = script("stages")
    scene, camera = generated_scene(500), generated_camera(64, 36)
    parts = stages.stages(scene, camera)
    assert len({part.name for part in parts}) == len(parts)
    assert len(parts) == 6
    assert all(part.run() >= 0 and part.amount > 0 for part in parts)
    assert len(stages.whole_step(scene, camera)()) == len(parts)
    assert "loss" in parts[stages.LOSS].name
    level = _native.active_level()
    with stages.same_level():
        subjects = stages.blends(scene, camera, [1, 2])
        names = [subject.name for subject in subjects]
        levels = _native.available_levels()
        assert names == [f"{name}, {n}" for name in levels for n in ("1 thread", "2 threads")]
        interleaved(subjects, rounds=1, runs=1)
    assert _native.active_level() == level


def test_peers_that_are_not_there_say_so(monkeypatch, tmp_path):
    peers = script("peers")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(peers, "installed", lambda distribution: None)
    scene, camera = generated_scene(10), generated_camera(64, 36)
    notes = [
        peers.opensplat(tmp_path, 1).note,
        peers.gsplat(scene, camera).note,
        peers.open3d(scene, camera, tmp_path).note,
    ]
    assert all(note.startswith("not installed") for note in notes)


def test_a_peer_that_crashes_or_hangs_becomes_a_note(monkeypatch, tmp_path):
    peers = script("peers")

    def peer(program: str) -> object:
        command = [sys.executable, "-c", program]
        subject = Subject("peer", lambda: peers._output(command, str(tmp_path)))
        return peers.Peer("peer", subject, "")

    (crashed,) = peers.tried([peer("import os; os.abort()")])
    assert crashed.subject is None
    assert "exit code -6" in crashed.note
    monkeypatch.setattr(peers, "TIMEOUT", 0.2)
    (hung,) = peers.tried([peer("import time; time.sleep(60)")])
    assert hung.note == "does not run here: it took more than 0.2 s"


def test_opensplat_is_timed_between_two_runs(monkeypatch, tmp_path):
    """A stand-in that takes a while to start: only the time of further iterations counts."""
    peers = script("peers")
    times = iter([0.0, 8.0, 10.0, 13.0])  # 60 iterations take 8 s, 10 take 3 s.
    commands = []
    monkeypatch.setattr(peers.time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(peers, "_output", lambda command, cwd: commands.append(command))
    monkeypatch.setattr(peers.shutil, "which", lambda name: f"/bin/{name}")
    subject = peers.opensplat(tmp_path, 4).subject
    assert subject.run() == pytest.approx(100.0)
    assert [command[-1] for command in commands] == ["60", "10"]
    assert all(command[:2] == ["/bin/opensplat", str(tmp_path)] for command in commands)


def test_memory_per_splat_and_pixel_are_differences_of_peaks():
    scaling = script("scaling")
    points = [
        {
            "splats": splats,
            "size": [width, 100],
            "threads": threads,
            "forward": {"peak_bytes": 10**8 + 400 * splats + 20 * width * 100 + 999 * threads},
        }
        for splats in (1_000, 5_000, 20_000)
        for width in (100, 300, 500)
        for threads in (1, 2)
    ]
    assert scaling.per_unit(points, "forward") == {"splat": 400, "pixel": 20}
    assert scaling.per_unit(points[:1], "forward") == {}
    assert scaling.peak_bytes() > 10**7
