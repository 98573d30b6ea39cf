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
from lumigraph.app.viewer.jobs.process import TrainingProcess
from lumigraph.app.viewer.library import CaptureFinder, find_sources
from lumigraph.app.viewer.loader import PhotoReader, context_of, open_allowed_run
from lumigraph.app.viewer.scene import SceneContext
from lumigraph.app.viewer.state import ViewerState
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
def context(gardens: Path) -> SceneContext:
    """The context of the run's scenes."""
    return context_of(open_allowed_run(gardens / "run", [gardens]), "run", "run")


def sources(gardens: Path, *names: str) -> CaptureFinder:
    """Where only these captures are to be found."""
    found = find_sources([gardens])
    return CaptureFinder(lambda: [s for s in found if s.path and s.path.parent.name in names])


def test_the_photos_shown_are_those_the_run_was_made_of(gardens, context):
    right, wrong = (load_capture(gardens / name / "garden").train[0].image() for name in "ba")
    assert not torch.equal(right, wrong)
    seen = PhotoReader(sources(gardens, "a", "b").capture).photo(context, 0)
    assert seen is not None
    assert torch.equal(seen, right)
    assert PhotoReader(sources(gardens, "a").capture).photo(context, 0) is None


def test_a_known_place_of_a_capture_is_preferred_to_a_guess(gardens, context):
    finder = sources(gardens, "a", "b")
    assert context.run
    assert finder.places(context.run) == [str(gardens / name / "garden") for name in "ab"]
    finder.learn(gardens / "run", str(gardens / "b" / "garden"))
    assert finder.places(context.run) == [str(gardens / "b" / "garden")]
    built_in = replace(context.run, record={**context.run.record, "capture": "demo_tiny"})
    assert sources(gardens).places(replace(built_in, folder=gardens)) == ["demo:tiny"]


def test_every_missing_photo_gets_the_reason(gardens, context, tmp_path):
    shutil.copytree(gardens / "b", tmp_path / "b")
    (tmp_path / "b" / "garden" / "test_list.txt").unlink()
    shutil.rmtree(tmp_path / "b" / "garden" / "images")
    photos = PhotoReader(sources(tmp_path, "b").capture)
    for index in (0, 1):
        with pytest.raises(OSError, match="images"):
            photos.photo(context, index)


def test_a_run_is_resumed_with_the_matching_one_of_several_captures(gardens, tmp_path):
    shutil.copytree(gardens / "run", tmp_path / "run")
    places = [str(gardens / name / "garden") for name in "ab"]
    order = {"capture": places[0], "others": places[1:], "resume": str(tmp_path / "run")}
    child, told = TrainingProcess(order, []), []
    for message in child.messages():
        told.append(message)
        if message["t"] == "loaded":
            child.do("stop")
    assert child.wait() == 0
    (loaded,) = (message for message in told if message["t"] == "loaded")
    assert loaded["capture"] == places[1]


def test_an_opened_run_gives_its_numbers(gardens, tmp_path):
    shutil.copytree(gardens / "run", tmp_path / "run")
    run = open_run(tmp_path / "run")
    run.with_record(state="finished", step=9, steps=9, metrics={"psnr": 30.5, "ssim": None})
    entries = [{"step": 5, "loss": 0.5, "psnr": 20.0}, {"step": 9, "loss": 0.25}, {"step": 9}]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, entries)))
    viewer = ViewerState([tmp_path / "run"], tmp_path / "runs")
    try:
        source = viewer.library.add(tmp_path / "run").id
        for change, psnr in (({}, 30.5), ({"metrics": {}}, 20.0)):
            open_run(tmp_path / "run").with_record(**change)
            viewer.show_now(source)
            for _ in range(2):
                shown = viewer.as_dict()["shown"]
                assert (shown["step"], shown["steps"]) == (9, 9)
                assert (shown["psnr"], shown["loss"]) == (psnr, 0.25)
                assert "ssim" not in shown
                viewer._rescan()
        (tmp_path / "run" / "metrics.jsonl").unlink()
        viewer.show_now(source)
        assert "loss" not in viewer.as_dict()["shown"]
    finally:
        viewer.close()


def test_a_run_is_resumed_with_the_given_capture(gardens, tmp_path):
    shutil.copytree(gardens / "run", tmp_path / "runs" / "run")
    (gardens / "b" / "garden").rename(tmp_path / "moved")
    viewer = ViewerState([tmp_path / "moved"], tmp_path / "runs")
    try:
        run = viewer.library.add(tmp_path / "runs" / "run").id
        with pytest.raises(ValueError, match="in none of the folders"):
            viewer.resume_run(run)
        assert viewer.photo(0) is None, "nothing is shown"
        viewer.show_now(run)
        with pytest.raises(
            ValueError, match="was not found: give the folder of garden to lumigraph"
        ):
            viewer.photo(0)
        job = viewer.jobs.find(viewer.resume_run(run, viewer.library.add(tmp_path / "moved").id))
        assert job.order["capture"] == str(tmp_path / "moved")
    finally:
        viewer.close()
        (tmp_path / "moved").rename(gardens / "b" / "garden")
    assert job.state == "stopped", job.sentence
