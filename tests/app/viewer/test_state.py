"""The viewer: what may be opened, the queue of trainings, and that nothing brings the rest down."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lumigraph.app.run.estimate import save_confidence, scene_digest
from lumigraph.app.run.folder import open_run
from lumigraph.app.training.inputs import Selection, TrainOptions
from lumigraph.app.training.session import checkpoints, run_session
from lumigraph.app.training.start import start
from lumigraph.app.viewer.jobs.job import POINTS, Curve, Job
from lumigraph.app.viewer.library import CaptureFinder, find_sources, source_at
from lumigraph.app.viewer.loader import PhotoReader, context_of, open_allowed_run
from lumigraph.app.viewer.picture import DROP_RATE, SceneUncertainty
from lumigraph.app.viewer.scene import frusta_of
from lumigraph.app.viewer.state import NOTES, ViewerState
from lumigraph.datasets.demo import make_demo
from lumigraph.recon.files import load_ply, save_ply
from lumigraph.render import Splats
from lumigraph.uncertainty import Calibration

ENDLESS = TrainOptions(
    "quick",
    changes={"steps": 1_000_000, "splat_limit": 500, "refine_stop": 1, "degree_interval": 5},
)


@pytest.fixture(scope="module")
def pavilion(tmp_path_factory) -> Path:
    """The folder of the built-in scene."""
    return make_demo(tmp_path_factory.mktemp("made") / "pavilion", "tiny")


@pytest.fixture
def folder(tmp_path, pavilion) -> Path:
    """A folder that may be opened: a capture, a broken one, splats, and what is no source."""
    top = tmp_path / "mine"
    shutil.copytree(pavilion, top / "captures" / "pavilion")
    (top / "broken").mkdir()
    (top / "broken" / "transforms.json").write_text('{"frames": [7]}')
    scene = Splats(
        means=torch.randn(20, 3),
        quaternions=torch.randn(20, 4),
        log_scales=torch.randn(20, 3),
        opacity_logits=torch.randn(20),
        base=torch.randn(20, 3),
        rest=torch.randn(20, 3, 3),
    )
    save_ply(scene, top / "splats.ply")
    (top / "hostile.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 9" * 9)
    (top / ".hidden").mkdir()
    shutil.copy(top / "splats.ply", top / ".hidden" / "splats.ply")
    (top / "notes.txt").write_text("nothing")
    return top


@pytest.fixture
def viewer(folder) -> Iterator[ViewerState]:
    """A viewer on which nothing was done."""
    opened = ViewerState([folder], folder.parent / "runs")
    yield opened
    opened.close()


def until(
    viewer: ViewerState, true: Callable[[dict[str, Any]], Any], *, watched: bool = False
) -> dict:
    """The state once something is true of it."""
    state = viewer.as_dict()
    while not true(state):
        if watched:
            viewer.want_scene()
        version = viewer.wait(state["version"], timeout=60)
        assert version > state["version"], f"nothing happens any more: {state}"
        state = viewer.as_dict()
    return state


def id_of(viewer: ViewerState, name: str) -> str:
    """The id of the source of that name."""
    return next(source["id"] for source in viewer.library.as_dicts() if source["name"] == name)


def job_states(state: dict[str, Any]) -> list[str]:
    return [job["state"] for job in state["jobs"]]


def notes_of(state: dict[str, Any], kind: str) -> list[str]:
    return [note["text"] for note in state["notes"] if note["kind"] == kind]


def test_sources_are_the_captures_and_runs_in_the_folders(viewer):
    assert [(source["kind"], source["name"]) for source in viewer.library.as_dicts()] == [
        ("capture", "Built-in scene, tiny"),
        ("capture", "Built-in scene, small"),
        ("capture", "Built-in scene, full"),
        ("capture", "broken"),
        ("capture", "pavilion"),
        ("ply", "hostile.ply"),
        ("ply", "splats.ply"),
    ]
    text = json.dumps([viewer.library.as_dicts(), viewer.as_dict()])
    assert os.path.dirname(__file__) not in text
    assert "path" not in viewer.library.as_dicts()[-1], "where it lies is nobody's business"


def test_a_folder_may_be_a_source_itself_and_a_source_lies_in_it_once(folder):
    both = [folder, folder / "captures" / "pavilion", folder / "splats.ply", folder / "absent"]
    sources = find_sources(both)
    assert len({source.id for source in sources}) == len(sources) == 4
    assert [source.name for source in find_sources(both[1:3])] == ["pavilion", "splats.ply"]


def test_the_search_ends_at_a_depth_and_in_circles_of_links(folder):
    deep = folder / "a" / "b" / "c" / "d" / "e"
    deep.mkdir(parents=True)
    (folder / "a" / "round").symlink_to(folder)
    before = find_sources([folder])
    shutil.copy(folder / "splats.ply", deep / "deep.ply")
    assert find_sources([folder]) == before


def test_nothing_outside_the_folders_is_found_or_opened(folder, tmp_path, viewer):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(folder / "splats.ply", outside / "secret.ply")
    shutil.copytree(folder / "captures" / "pavilion", outside / "pavilion")
    (folder / "link.ply").symlink_to(outside / "secret.ply")
    (folder / "folder").symlink_to(outside)
    viewer.library.refresh()
    assert not [
        s for s in viewer.library.as_dicts() if "link" in s["name"] or "folder" in s["name"]
    ]
    paths = [
        outside / "secret.ply",
        folder / ".." / "outside" / "secret.ply",
        folder / "link.ply",
        folder / "folder" / "pavilion",
        tmp_path / "mine2",
    ]
    for path in paths:
        with pytest.raises(ValueError, match="lies outside the folders"):
            viewer.library.add(path)
    with pytest.raises(ValueError, match="is no capture, no run and no PLY"):
        viewer.library.add(folder / "notes.txt")
    for name in ("", "ply:0000", "../outside/secret.ply", str(outside / "secret.ply")):
        with pytest.raises(ValueError, match="was not found: press Rescan"):
            viewer.show(name)
    shown = id_of(viewer, "splats.ply")
    (folder / "splats.ply").unlink()
    (folder / "splats.ply").symlink_to(outside / "secret.ply")
    with pytest.raises(ValueError, match="was not found: press Rescan"):
        viewer.show(shown)


def test_an_impossible_request_is_refused_in_one_sentence(viewer, folder):
    capture, splats = id_of(viewer, "pavilion"), id_of(viewer, "splats.ply")
    refusals = [
        (lambda: viewer.start(splats), "splats.ply is a ply, not a capture"),
        (lambda: viewer.show(capture), "is a capture, not a run or a ply"),
        (lambda: viewer.resume_run(capture), "is a capture, not a run"),
        (lambda: viewer.start(capture, TrainOptions(changes={"steps": 0})), "ask for at least 1"),
        (
            lambda: viewer.start(capture, TrainOptions(changes={"steps": 1.5})),
            "steps of the plan is 1.5",
        ),
        (
            lambda: viewer.start(capture, TrainOptions(changes={"speed": 5})),
            "no such setting: .*speed",
        ),
        (lambda: viewer.jobs.change(degree=5), "degree is 5"),
        (lambda: viewer.jobs.change(degree=1), "No training is running"),
        (viewer.jobs.pause, "No training is running"),
        (viewer.jobs.resume, "No training is running"),
        (viewer.jobs.stop, "No training is running"),
        (viewer.jobs.checkpoint, "No training is running"),
        (lambda: viewer.jobs.cancel("job:1"), "not waiting any more"),
    ]
    for ask, words in refusals:
        with pytest.raises(ValueError, match=words) as refused:
            ask()
        assert "\n" not in str(refused.value)
    assert viewer.as_dict()["jobs"] == []
    assert viewer.scene() is None
    assert viewer.photo(0) is None


def test_a_ply_is_shown_and_a_hostile_one_is_a_note(viewer):
    viewer.show(id_of(viewer, "splats.ply"))
    state = until(viewer, lambda state: state["shown"])
    first = viewer.scene()
    assert first is not None
    assert (state["shown"]["splats"], state["shown"]["first_view"]["up"]) == (20, [0, -1, 0])
    assert (first.context.cameras, first.step, first.context.background) == ((), 0, (0, 0, 0))

    viewer.show(id_of(viewer, "hostile.ply"))
    state = until(viewer, lambda state: not state["opening"])
    state = until(viewer, lambda state: notes_of(state, "error"))
    assert len(notes_of(state, "error")) == 1
    assert "hostile.ply" in notes_of(state, "error")[0]
    assert viewer.scene() is first, "what was shown stays"


def test_listeners_hear_of_changes_and_may_fail(viewer):
    heard = []

    def fail() -> None:
        raise RuntimeError("no")

    viewer.subscribe(fail)
    leave = viewer.subscribe(lambda: heard.append(1))
    version = viewer.as_dict()["version"]
    thread = threading.Timer(0.0, lambda: viewer.note("info", "hello"))
    thread.start()
    assert viewer.wait(version, timeout=60) > version
    thread.join()
    leave()
    for _ in range(2 * NOTES):
        viewer.note("error", "x" * 5000)
    assert heard == [1]
    assert len(viewer.as_dict()["notes"]) == NOTES
    assert len(viewer.as_dict()["notes"][-1]["text"]) == 1000
    assert viewer.wait(viewer.as_dict()["version"], timeout=0) == viewer.as_dict()["version"]


def test_trainings_come_one_after_the_other_whatever_happens_to_them(viewer, folder):
    descriptors = len(os.listdir("/dev/fd"))
    capture = id_of(viewer, "pavilion")
    viewer.start(id_of(viewer, "broken"))
    viewer.start(capture, ENDLESS)
    last = viewer.start(capture, TrainOptions("quick", changes={"steps": 30}))
    viewer.jobs.cancel(viewer.start(capture))
    assert job_states(viewer.as_dict())[-1] == "stopped"

    # The broken capture says why, and the next one begins.
    state = until(viewer, lambda state: state["shown"], watched=True)
    assert job_states(state) == ["failed", "training", "waiting", "stopped"]
    assert "transforms.json" in state["jobs"][0]["sentence"]
    assert len([n for n in notes_of(state, "error") if "broken" in n]) == 1

    check_live(viewer)

    # The trainer is killed: that is said, and the last one has its turn.
    run = folder.parent / "runs" / "pavilion" / "001"
    until(viewer, lambda state: checkpoints(open_run(run)))
    pid = viewer.jobs.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    state = until(viewer, lambda state: state["jobs"][1]["state"] == "failed", watched=True)
    assert "was ended by the signal SIGKILL" in state["jobs"][1]["sentence"]
    assert viewer.scene() is not None
    state = until(viewer, lambda s: s["jobs"][2]["state"] == "finished", watched=True)
    assert state["current"]["id"] == last
    assert state["current"]["psnr"] > 5

    # What is shown in the end is what lies in its folder.
    until(
        viewer, lambda _: "pavilion/002" in {source["name"] for source in viewer.library.as_dicts()}
    )
    state = until(viewer, lambda s: s["shown"]["step"] == 30 and "psnr" in s["shown"])
    assert state["shown"]["source"] == id_of(viewer, "pavilion/002")
    shown = viewer.scene()
    assert shown is not None
    kept = open_run(folder.parent / "runs" / "pavilion" / "002").scene()
    assert torch.equal(shown.scene.means, kept.means)
    check_photos(viewer)
    runs = {s["name"]: s["stopped"] for s in viewer.library.as_dicts() if s["kind"] == "run"}
    assert runs == {"pavilion/001": True, "pavilion/002": False}
    # The trainings' pipes and buffers are gone.
    until(viewer, lambda state: not state["opening"])
    assert len(os.listdir("/dev/fd")) == descriptors


def check_live(viewer: ViewerState) -> None:
    """The scene of the running training is here with its cameras, and follows what is changed."""
    first = viewer.scene()
    assert first is not None
    assert len(first.context.cameras) == 32
    assert {shot.split for shot in first.context.cameras} == {"train", "test"}
    assert first.context.up.norm() == pytest.approx(1)
    until(viewer, lambda state: state["shown"]["step"] > first.step, watched=True)
    until(viewer, lambda state: state["shown"]["degree"] > 0, watched=True)
    viewer.jobs.change(degree=0, splat_limit=600)
    viewer.jobs.checkpoint()
    state = until(viewer, lambda state: state["shown"]["degree"] == 0, watched=True)
    assert state["current"]["plan"] == {"splat_limit": 600, "degree": 0, "ssim_weight": 0.2}


def check_photos(viewer: ViewerState) -> None:
    """Photos of both splits are there, the right ones, and there are no more."""
    shown = viewer.scene()
    assert shown is not None
    for index in (0, len(shown.context.cameras) - 1):
        photo = viewer.photo(index)
        assert photo is not None
        assert photo.shape == (36, 48, 3)
        assert photo.dtype == torch.uint8
    assert viewer.photo(len(shown.context.cameras)) is None
    assert viewer.photo(-1) is None


@pytest.fixture(scope="module")
def closed(pavilion, tmp_path_factory) -> tuple[ViewerState, Path]:
    """A viewer that was closed while it trained and one more waited, and its folder of runs."""
    runs = tmp_path_factory.mktemp("closed") / "runs"
    viewer = ViewerState([pavilion], runs)
    try:
        viewer.start(id_of(viewer, "pavilion"), ENDLESS)
        viewer.start(id_of(viewer, "pavilion"))
        until(viewer, lambda state: state["current"] and state["current"]["state"] == "training")
        viewer.jobs.pause()
        until(viewer, lambda state: state["current"]["state"] == "paused")
    finally:
        viewer.close()
    return viewer, runs


@pytest.fixture
def stopped(closed, folder) -> Path:
    """A run that was stopped."""
    shutil.copytree(closed[1], folder.parent / "runs")
    return folder.parent / "runs" / "pavilion" / "001"


def test_closing_the_viewer_saves_the_training_and_begins_no_other(closed):
    viewer, runs = closed
    assert job_states(viewer.as_dict()) == ["stopped", "stopped"]
    assert open_run(runs / "pavilion" / "001").state == "stopped"
    assert not (runs / "pavilion" / "002").exists()
    assert viewer.scene() is None
    with pytest.raises(ValueError, match="closing"):
        viewer.start(id_of(viewer, "pavilion"))
    viewer.close()


def test_a_closed_viewer_leaves_a_run_that_another_viewer_shows_and_resumes(stopped, folder):
    run = open_run(stopped)
    assert (run.state, len(checkpoints(run))) == ("stopped", 1)
    viewer = ViewerState([folder / "captures"], stopped.parent.parent)
    try:
        source = id_of(viewer, "pavilion/001")
        viewer.show(source)
        until(viewer, lambda state: state["shown"])
        check_photos(viewer)
        viewer.resume_run(source)
        until(viewer, lambda s: s["current"] and s["current"].get("step", 0) > run.record["step"])
        viewer.jobs.stop()
        until(viewer, lambda state: state["current"]["state"] == "stopped")
    finally:
        viewer.close()
    assert open_run(stopped).record["step"] > run.record["step"]


def test_a_run_whose_files_lead_out_is_not_opened(stopped, folder, tmp_path):
    viewer = ViewerState([folder / "broken"], stopped.parent.parent)
    try:
        source = id_of(viewer, "pavilion/001")
        with pytest.raises(ValueError, match="The capture of pavilion/001 is in none of"):
            viewer.resume_run(source)
        (stopped / "scene.safetensors").rename(tmp_path / "elsewhere")
        (stopped / "scene.safetensors").symlink_to(tmp_path / "elsewhere")
        viewer.show(source)
        state = until(viewer, lambda state: notes_of(state, "error"))
        assert "scene.safetensors leads out of the folders" in notes_of(state, "error")[0]
        assert viewer.scene() is None
    finally:
        viewer.close()


def estimated(run: Path, *, rate: float, **more: Any) -> None:
    """Leaves in a run what `lumigraph uncertainty` leaves there, as far as a page reads it."""
    estimate = {"rate": rate, "margin": 0.05, "base_ssim": 0.9, "trials": None, **more}
    (run / "uncertainty").mkdir(exist_ok=True)
    (run / "uncertainty" / "estimate.json").write_text(json.dumps(estimate))


def shown_again(viewer: ViewerState, ask: Callable[[], object]) -> SceneUncertainty:
    """What is known of the scene shown once it is another one than before."""
    before = viewer.scene()
    ask()
    until(viewer, lambda state: state["shown"] and viewer.scene() is not before)
    shown = viewer.scene()
    assert shown
    return shown.uncertainty


def test_rescan_finds_uncertainty_estimated_while_a_run_is_open(stopped):
    viewer = ViewerState([], stopped.parent.parent)
    try:
        source = id_of(viewer, "pavilion/001")
        uncertainty = shown_again(viewer, lambda: viewer.show(source))
        assert (uncertainty.rate, uncertainty.calibrated) == (DROP_RATE, False)
        assert (uncertainty.calibration, uncertainty.confidence) == (None, None)
        run = open_run(stopped)
        scene, calibration = run.scene(), Calibration(0.1, 0.2, 3.0, 9)
        digest = scene_digest(scene)
        estimated(stopped, rate=0.21, scene=digest, intervals=calibration.plain())
        save_confidence(run, scene, torch.linspace(0, 1, len(scene)))
        for ask in (viewer.rescan, lambda: viewer.show(source)):
            uncertainty = shown_again(viewer, ask)
            assert (uncertainty.rate, uncertainty.calibrated, uncertainty.calibration) == (
                0.21,
                True,
                calibration,
            )
            assert uncertainty.confidence is not None
            assert torch.equal(uncertainty.confidence, torch.linspace(0, 1, len(scene)))
        # What was estimated for another scene is not known of this one: its rate is uncalibrated.
        estimated(stopped, rate=0.3, scene="other", intervals=calibration.plain())
        uncertainty = shown_again(viewer, viewer.rescan)
        assert (uncertainty.rate, uncertainty.calibrated, uncertainty.calibration) == (
            0.3,
            False,
            None,
        )
    finally:
        viewer.close()


@pytest.mark.parametrize("name", ["estimate.json", "confidence.safetensors"])
@pytest.mark.parametrize("how", ["damaged", "outside"])
def test_an_estimate_that_cannot_be_read_is_a_note_and_the_scene_is_shown(
    stopped, tmp_path, name: str, how: str
):
    estimated(stopped, rate=0.21)
    path = stopped / "uncertainty" / name
    path.unlink(missing_ok=True)
    if how == "damaged":
        path.write_text("{")
    else:
        (tmp_path / "elsewhere").write_text("{}")
        path.symlink_to(tmp_path / "elsewhere")
    viewer = ViewerState([], stopped.parent.parent)
    try:
        uncertainty = shown_again(viewer, lambda: viewer.show(id_of(viewer, "pavilion/001")))
        assert (uncertainty.calibration, uncertainty.confidence) == (None, None)
        (note, *_) = notes_of(viewer.as_dict(), "info")
        assert name in note
        assert ("leads out of the folders" in note) == (how == "outside")
    finally:
        viewer.close()


def test_a_ply_tells_how_far_its_splats_can_be_trusted(viewer, folder):
    assert shown_again(viewer, lambda: viewer.show(id_of(viewer, "splats.ply"))).confidence is None
    scene = load_ply(folder / "splats.ply")
    save_ply(scene, folder / "splats.ply", extra={"confidence": torch.linspace(0, 1, 20)})
    uncertainty = shown_again(viewer, lambda: viewer.show(id_of(viewer, "splats.ply")))
    assert uncertainty.confidence is not None
    assert torch.equal(uncertainty.confidence, torch.linspace(0, 1, 20))
    assert uncertainty.rate == DROP_RATE


def test_cameras_set_aside_to_calibrate_are_shown_with_their_photos(folder, tmp_path):
    capture = folder / "captures" / "pavilion"
    changes = {"steps": 2, "splat_limit": 500, "refine_stop": 1}
    session = start(
        capture, TrainOptions("quick", calibration=3, changes=changes), tmp_path / "run"
    )
    run_session(session)
    whole = Selection(calibration=3).load(capture)
    context = context_of(open_allowed_run(tmp_path / "run", [tmp_path]), "run", "run")
    aside = [shot.name for shot in context.cameras if shot.split == "calibration"]
    assert aside == [frame.name for frame in whole.calibration]
    assert [shot["split"] for shot in frusta_of(context.cameras)].count("calibration") == 3
    # Its capture is found, though views of it were set aside; their photos need it not.
    finder = CaptureFinder(lambda: [source_at(capture, [folder])])
    for find in (finder.capture, lambda run, cache: None):
        photos = PhotoReader(find)
        for index, shot in enumerate(context.cameras):
            photo = photos.photo(context, index)
            frame = next(frame for frame in whole.frames if frame.name == shot.name)
            if shot.split == "train" and find != finder.capture:
                assert photo is None
                continue
            assert photo is not None
            assert torch.equal(photo, frame.image())
    # Photos are not read through links.
    (tmp_path / "run" / "calibration" / "photos" / "link.png").symlink_to(folder / "notes.txt")
    with pytest.raises(ValueError, match="has links in it"):
        open_allowed_run(tmp_path / "run", [tmp_path])


def test_curves_stay_short_and_keep_their_ends():
    curve = Curve()
    for second in range(100_000):
        curve.add(float(second), 2.0 * second)
    columns = curve.columns("seconds", "loss")
    assert POINTS // 2 <= len(columns["seconds"]) <= POINTS
    assert columns["seconds"][0] == 0
    assert columns["seconds"][-1] > 99_000
    assert columns["loss"] == [2 * second for second in columns["seconds"]]
    gaps = {b - a for a, b in zip(columns["seconds"], columns["seconds"][1:], strict=False)}
    assert len(gaps) <= 2


def test_a_job_knows_its_rate_and_the_time_left():
    job = Job("job:1", "x", "x", "train", {})
    message = {"t": "progress", "steps": 1000, "loss": 0.5, "splats": 7, "degree": 1}
    for step in range(1, 501):
        seconds = step / 10 if step < 100 else 10 + (step - 100) / 40
        job.hear({**message, "step": step, "seconds": seconds})
    facts = job.details()
    assert facts["steps_per_second"] == pytest.approx(40)
    assert facts["seconds_left"] == pytest.approx(500 / 40)
    assert facts["loss"] == pytest.approx(0.5)
    assert json.dumps(facts)


def test_a_source_names_the_state_of_its_run(stopped, folder):
    (stopped / "run.json").write_text('{"format": "something else"}')
    with pytest.raises(ValueError, match="no capture, no run"):
        source_at(stopped, [stopped.parent])
