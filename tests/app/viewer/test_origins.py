"""Which capture a run was made of: known, or found by name and held against what the run noted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from lumigraph.app.run.folder import open_run
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.training.session import run_session
from lumigraph.app.training.start import start
from lumigraph.app.viewer.jobs.process import Child
from lumigraph.app.viewer.library import find_sources
from lumigraph.app.viewer.origins import Origins
from lumigraph.app.viewer.scene import Photos, Setting, open_setting
from lumigraph.app.viewer.state import Desk
from lumigraph.datasets import load_capture
from lumigraph.datasets.demo import make_demo


@pytest.fixture(scope="module")
def gardens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With two captures of one name, cameras and sizes, and of other photos; and a run of b's."""
    top = tmp_path_factory.mktemp("gardens")
    make_demo(top / "b" / "garden", "tiny")
    shutil.copytree(top / "b" / "garden", top / "a" / "garden")
    for path in (top / "a" / "garden").rglob("*.png"):
        with Image.open(path) as image:
            negative = ImageOps.invert(image.convert("RGB"))
        negative.save(path)
    changes = {"steps": 1_000_000, "splat_limit": 500, "refine_stop": 1}
    session = start(top / "b" / "garden", TrainOptions("quick", changes=changes), top / "run")
    session.control.stop()
    run_session(session)
    return top


@pytest.fixture
def setting(gardens: Path) -> Setting:
    """What is around the scene of the run."""
    return open_setting(gardens / "run", "run", "run", [gardens])


def sources(gardens: Path, *names: str) -> Origins:
    """Where only these captures are to be found."""
    found = find_sources([gardens])
    return Origins(lambda: [s for s in found if s.path and s.path.parent.name in names])


def test_the_photos_shown_are_those_the_run_was_made_of(gardens, setting):
    right, wrong = (load_capture(gardens / name / "garden").train[0].image() for name in "ba")
    assert not torch.equal(right, wrong)
    seen = Photos(sources(gardens, "a", "b").capture).photo(setting, 0)
    assert seen is not None
    assert torch.equal(seen, right)
    assert Photos(sources(gardens, "a").capture).photo(setting, 0) is None


def test_what_is_known_is_not_guessed(gardens, setting):
    origins = sources(gardens, "a", "b")
    assert setting.run
    assert origins.places(setting.run) == [str(gardens / name / "garden") for name in "ab"]
    origins.learn(gardens / "run", str(gardens / "b" / "garden"))
    assert origins.places(setting.run) == [str(gardens / "b" / "garden")]
    built_in = replace(setting.run, record={**setting.run.record, "capture": "demo_tiny"})
    assert sources(gardens).places(replace(built_in, folder=gardens)) == ["demo:tiny"]


def test_why_there_are_no_photos_is_said_for_every_photo(gardens, setting, tmp_path):
    shutil.copytree(gardens / "b", tmp_path / "b")
    (tmp_path / "b" / "garden" / "test_list.txt").unlink()
    shutil.rmtree(tmp_path / "b" / "garden" / "images")
    photos = Photos(sources(tmp_path, "b").capture)
    for index in (0, 1):
        with pytest.raises(OSError, match="images"):
            photos.photo(setting, index)


def test_a_run_goes_on_with_the_one_of_its_captures_that_it_was_begun_with(gardens, tmp_path):
    shutil.copytree(gardens / "run", tmp_path / "run")
    places = [str(gardens / name / "garden") for name in "ab"]
    order = {"capture": places[0], "others": places[1:], "resume": str(tmp_path / "run")}
    child, told = Child(order, []), []
    for message in child.messages():
        told.append(message)
        if message["t"] == "loaded":
            child.do("stop")
    assert child.wait() == 0
    (loaded,) = (message for message in told if message["t"] == "loaded")
    assert loaded["capture"] == places[1]


def test_a_run_that_is_opened_tells_its_numbers(gardens, tmp_path):
    shutil.copytree(gardens / "run", tmp_path / "run")
    run = open_run(tmp_path / "run")
    run.with_record(state="finished", step=9, steps=9, metrics={"psnr": 30.5, "ssim": None})
    entries = [{"step": 5, "loss": 0.5, "psnr": 20.0}, {"step": 9, "loss": 0.25}, {"step": 9}]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, entries)))
    desk = Desk([tmp_path / "run"], tmp_path / "runs")
    try:
        source = desk.source_at(tmp_path / "run")
        for change, psnr in (({}, 30.5), ({"metrics": {}}, 20.0)):
            open_run(tmp_path / "run").with_record(**change)
            desk.show_now(source)
            for _ in range(2):
                shown = desk.state()["shown"]
                assert (shown["step"], shown["steps"]) == (9, 9)
                assert (shown["psnr"], shown["loss"]) == (psnr, 0.25)
                assert "ssim" not in shown
                desk._look_again()
        (tmp_path / "run" / "metrics.jsonl").unlink()
        desk.show_now(source)
        assert "loss" not in desk.state()["shown"]
    finally:
        desk.close()


def test_a_run_goes_on_with_the_capture_that_is_named(gardens, tmp_path):
    shutil.copytree(gardens / "run", tmp_path / "runs" / "run")
    (gardens / "b" / "garden").rename(tmp_path / "moved")
    desk = Desk([tmp_path / "moved"], tmp_path / "runs")
    try:
        run = desk.source_at(tmp_path / "runs" / "run")
        with pytest.raises(ValueError, match="in none of the folders"):
            desk.go_on(run)
        assert desk.photo(0) is None, "nothing is shown"
        desk.show_now(run)
        with pytest.raises(ValueError, match="not at hand: give the folder of garden to lumigraph"):
            desk.photo(0)
        job = desk.job(desk.go_on(run, desk.source_at(tmp_path / "moved")))
        assert job.order["capture"] == str(tmp_path / "moved")
    finally:
        desk.close()
        (tmp_path / "moved").rename(gardens / "b" / "garden")
    assert job.state == "stopped", job.sentence
