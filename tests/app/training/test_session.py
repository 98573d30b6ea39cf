"""The session: listeners change nothing, commands are obeyed, and stopped runs can be resumed."""

import json
import math
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lumigraph.app.commands.evaluate import evaluate_run
from lumigraph.app.commands.export import export_run
from lumigraph.app.machine import cores
from lumigraph.app.run.evaluation import probe
from lumigraph.app.run.folder import Run, create_run, open_run
from lumigraph.app.run.frames import moved_capture
from lumigraph.app.run.metrics import read_log
from lumigraph.app.training import session as sessions
from lumigraph.app.training.events import (
    Changed,
    Channel,
    Ended,
    Probed,
    Saved,
    Scored,
    StepDone,
    Subscription,
    TrainingControl,
    Trouble,
)
from lumigraph.app.training.session import Session, checkpoints, resume_session, run_session
from lumigraph.datasets import Capture, Frame
from lumigraph.recon import Plan, SplatFit, plan_from_json, plan_to_json, start_fit
from lumigraph.recon.files import load_ply
from lumigraph.render import Camera, Similarity, Splats, look_at

PLAN = Plan(steps=12, degree=1, degree_interval=4, refine_start=3, refine_interval=3)


@pytest.fixture(scope="module")
def capture() -> Capture:
    """Six views of a few points; the photos are smooth ramps."""
    random = torch.Generator().manual_seed(1)
    frames = []
    for i in range(6):
        place = 3 * torch.tensor([math.sin(i), 0.3, math.cos(i)], dtype=torch.float64)
        matrix = look_at(place, torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
        ramp = torch.arange(24)[:, None, None] * 4 + torch.arange(32)[:, None] + i
        photo = ramp.expand(24, 32, 3).to(torch.uint8)
        camera = Camera(matrix, (30.0, 30.0), (16.0, 12.0), 32, 24)
        frames.append(Frame(f"{i}.png", camera, lambda photo=photo: photo))
    return Capture(
        name="ramps",
        train=tuple(frames[1:]),
        test=tuple(frames[:1]),
        points=torch.rand(150, 3, generator=random, dtype=torch.float64) - 0.5,
        colors=torch.randint(256, (150, 3), generator=random, dtype=torch.uint8),
        similarity=Similarity.identity(),
    )


def begin(folder: Path, capture: Capture, plan: Plan = PLAN) -> Session:
    """A session of a new run."""
    record = {
        "capture": capture.name,
        "asked": {"device": "cpu"},
        "plan": plan_to_json(plan),
        "steps": plan.steps,
        "inputs": {},
        "versions": {},
    }
    run = create_run(folder, capture=capture, record=record)
    return Session(run, capture, start_fit(capture, plan, seed=3))


def finish(session: Session) -> Splats:
    """The scene of the finished run, read from its folder."""
    run = run_session(session)
    assert run.state == "finished"
    return open_run(run.folder).scene()


def assert_equal(scene: Splats, other: Splats) -> None:
    for name, value in scene.tensors.items():
        assert torch.equal(value, other.tensors[name]), name


@pytest.fixture(scope="module")
def plain(capture, tmp_path_factory) -> tuple[Run, Splats]:
    """A run without commands and listeners."""
    session = begin(tmp_path_factory.mktemp("plain") / "run", capture)
    return session.run, finish(session)


def after(channel: Channel, step: int, do: Callable[[], None]) -> None:
    """Does something as soon as that step is done, from within the session's own thread."""

    class Doer(Subscription):
        def put(self, event):
            if isinstance(event, StepDone) and event.step == step:
                do()

    channel.attach(Doer())


def stop_after(channel: Channel, control: TrainingControl, step: int) -> None:
    after(channel, step, control.stop)


def test_a_finished_run_has_every_piece(plain):
    run = open_run(plain[0].folder)
    names = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*")}
    assert names >= {
        "run.json",
        "cameras.json",
        "scene.safetensors",
        "scene.ply",
        "metrics.jsonl",
        "report.html",
        "checkpoints/00000012.safetensors",
        "eval/metrics.json",
        "eval/photos/0000_0.png",
        "eval/renders/0000_0.png",
    }
    assert not [name for name in names if name.endswith(".part")]
    assert run.record["step"] == run.record["steps"] == 12
    assert run.record["splats"] == len(plain[1])
    assert run.record["peak_memory_mb"] > 0
    assert run.record["metrics"]["images"] == 1
    assert json.loads((run.folder / "eval/metrics.json").read_text())["per_image"][0]["psnr"] > 0


def test_a_stopped_run_leaves_out_splats_that_are_not_finite_and_says_so(capture, tmp_path):
    session = begin(tmp_path / "run", capture)
    listener = Subscription()
    session.channel.attach(listener)
    session.fit.splats.means[3] = math.nan
    session.control.stop()
    run = run_session(session)
    assert len(open_run(run.folder).scene()) == run.record["splats"] == 149
    notes = [event.message for event in listener.take() if isinstance(event, Trouble)]
    assert "The scene leaves out splats with values that are not finite: 1" in notes


def test_a_run_holds_no_absolute_paths(plain):
    folder = plain[0].folder
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".html"):
            assert str(folder.parent) not in path.read_text(), path


def test_photos_set_aside_are_neither_trained_on_nor_reported_on(capture, tmp_path):
    fewer = replace(capture, train=capture.train[::2])
    aside = replace(fewer, calibration=capture.train[1::2])
    session = begin(tmp_path / "run", aside)
    stop_after(session.channel, session.control, 5)
    run_session(session)
    run = open_run(session.run.folder)
    scene = finish(resume_session(run, aside))
    assert_equal(scene, finish(begin(tmp_path / "fewer", fewer)))
    run = open_run(run.folder)
    assert [frame.name for frame in run.capture().calibration] == ["2.png", "4.png"]
    assert evaluate_run(run, split="test", data=None)["images"] == 1


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_stopped_run_is_resumed_bit_for_bit(stop, plain, capture, tmp_path):
    first = begin(tmp_path / "run", capture)
    stop_after(first.channel, first.control, stop)
    stopped = run_session(first)
    assert stopped.state == "stopped"
    assert stopped.record["step"] == stop
    moved = stopped.folder.rename(tmp_path / "moved")
    assert len(open_run(moved).scene()) == stopped.record["splats"]

    second = resume_session(open_run(moved), capture)
    assert second.fit.step == stop
    assert second.seconds == pytest.approx(first.seconds)
    assert_equal(finish(second), plain[1])
    steps = [entry["step"] for entry in read_log(moved / "metrics.jsonl")]
    assert steps == list(range(1, 13))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(plain, capture, tmp_path):
    session = begin(tmp_path / "run", capture)
    session.checkpoint_seconds = 0
    stop_after(session.channel, session.control, 6)
    run = run_session(session)
    assert [path.name for path in checkpoints(run)] == [
        "00000005.safetensors",
        "00000006.safetensors",
    ]
    checkpoints(run)[-1].write_bytes(b"torn")
    again = resume_session(run, capture)
    assert again.fit.step == 5
    assert_equal(finish(again), plain[1])


def test_a_run_without_a_sound_checkpoint_says_so(capture, tmp_path):
    session = begin(tmp_path / "run", capture)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        resume_session(session.run, capture)
    (session.run.part("checkpoints") / "00000003.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="00000003"):
        resume_session(session.run, capture)


@pytest.mark.parametrize("device", ["tpu", None, ["cpu"], "cuda:7"])
def test_a_run_with_an_unknown_device_does_not_go_on(device, plain, capture, tmp_path):
    shutil.copytree(plain[0].folder, tmp_path / "run")
    run = open_run(tmp_path / "run")
    run = run.with_record(asked={"device": device})
    with pytest.raises(ValueError, match=r'run\.json has .* under "device"'):
        resume_session(run, capture)


def far_away(capture: Capture, offset: Tensor) -> Capture:
    """The same capture in a frame with its origin far away."""
    shift = Similarity(-offset, 1.0)
    moved = moved_capture(replace(capture, similarity=shift))
    return replace(moved, similarity=Similarity(offset, 1.0))


def test_a_run_far_from_the_origin_scores_the_same(plain, capture, tmp_path):
    far = far_away(capture, torch.tensor([4e6, -2e6, 1e6], dtype=torch.float64))
    session = begin(tmp_path / "run", far)
    events = session.channel.subscribe(size=1000)
    finish(session)
    run = open_run(tmp_path / "run")
    scores = [evaluate_run(each, split="test", data=None)["psnr"] for each in (plain[0], run)]
    assert scores[0] == pytest.approx(scores[1], abs=0.1)
    assert scores[1] == pytest.approx(run.record["metrics"]["psnr"])
    assert read_log(run.folder / "metrics.jsonl")[-1]["splats"] == len(run.scene())
    troubles = [event.message for event in events if isinstance(event, Trouble)]
    assert len(troubles) == 1
    assert "scene.ply was not written" in troubles[0]
    assert not (run.folder / "scene.ply").exists()


def test_values_that_a_ply_cannot_hold_are_an_error_and_the_old_file_stays(capture, tmp_path):
    far = far_away(capture, torch.tensor([4e6, -2e6, 1e6], dtype=torch.float64))
    finish(begin(tmp_path / "run", far))
    file = tmp_path / "out.ply"
    file.write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"out\.ply .* dB in the worst view.*--frame fit"):
        export_run(tmp_path / "run", file)
    assert file.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir() if path.name != "run"] == ["out.ply"]
    assert export_run(tmp_path / "run", file, "fit")["psnr"] > 100
    assert_equal(load_ply(file), open_run(tmp_path / "run").scene())


def test_a_ply_is_in_the_capture_s_frame(capture, tmp_path):
    similarity = Similarity(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), 0.25)
    scene = finish(begin(tmp_path / "run", replace(capture, similarity=similarity)))
    written = load_ply(tmp_path / "run" / "scene.ply")
    assert torch.allclose(written.means, scene.moved(similarity.inverse()).means)
    assert export_run(tmp_path / "run", None)["psnr"] > 50


def test_a_run_keeps_the_colour_behind_its_scene(capture, tmp_path):
    photo = torch.full((24, 32, 3), 255, dtype=torch.uint8)
    white = [replace(frame, image=lambda: photo) for frame in capture.test]
    points = capture.points + 100  # that no camera sees
    white = replace(capture, test=tuple(white), points=points)
    for background, low, high in (((1.0, 1.0, 1.0), 60, math.inf), ((0.0, 0.0, 0.0), 0, 1)):
        folder = tmp_path / str(background)
        session = begin(folder, replace(white, background=background))
        assert low <= probe(session.fit.scene(), white.test, 1, background) <= high
        session.control.stop()
        run_session(session)
        score = evaluate_run(open_run(folder), split="test", data=None)["psnr"]
        assert low <= score <= high


def test_a_listener_that_hangs_changes_nothing(plain, capture, tmp_path):
    session = begin(tmp_path / "run", capture)
    hanging = session.channel.subscribe(size=4)
    assert_equal(finish(session), plain[1])
    events = list(hanging)
    assert len(events) == 4, "the oldest gave way"
    assert isinstance(events[-1], Ended)


def test_a_listener_that_dies_changes_nothing(plain, capture, tmp_path):
    session = begin(tmp_path / "run", capture)
    events = session.channel.subscribe()
    seen = []

    def listen() -> None:
        seen.append(next(iter(events)))

    thread = threading.Thread(target=listen)
    thread.start()
    scene = finish(session)
    thread.join(timeout=10)
    assert isinstance(seen[0], StepDone)
    assert_equal(scene, plain[1])


def test_a_pause_holds_the_training_and_can_be_left(plain, capture, tmp_path):
    session = begin(tmp_path / "run", capture)
    control, events = session.control, session.channel.subscribe()
    control.pause()
    control.checkpoint()
    scenes = []
    thread = threading.Thread(target=lambda: scenes.append(finish(session)))
    thread.start()
    while not any(isinstance(event, Saved) for event in events.take(timeout=10)):
        assert thread.is_alive()
    assert session.fit.step == 1, "the checkpoint came while the training held"
    control.resume()
    thread.join(timeout=60)
    assert_equal(scenes[0], plain[1])


def test_a_paused_training_can_be_stopped(capture, tmp_path):
    session = begin(tmp_path / "run", capture)
    session.control.pause()
    thread = threading.Thread(target=run_session, args=(session,))
    thread.start()
    session.control.stop()
    thread.join(timeout=60)
    assert open_run(session.run.folder).state == "stopped"


def test_a_full_disk_on_the_way_costs_only_the_checkpoint(plain, capture, tmp_path, monkeypatch):
    real, tried = sessions.save_checkpoint, []

    def full(fit, path):
        tried.append(fit.step)
        if fit.step == 4:
            raise OSError(28, "No space left on device", str(path))
        real(fit, path)

    monkeypatch.setattr(sessions, "save_checkpoint", full)
    session = begin(tmp_path / "run", capture)
    session.checkpoint_seconds = 0
    events = session.channel.subscribe(size=1000)
    assert_equal(finish(session), plain[1])
    troubles = [event.message for event in events if isinstance(event, Trouble)]
    assert len(troubles) == 1
    assert "step 4" in troubles[0]
    assert "No space left" in troubles[0]


def test_a_stop_without_room_to_save_names_the_checkpoint_that_remains(
    capture, tmp_path, monkeypatch
):
    session = begin(tmp_path / "run", capture)
    session.checkpoint_seconds = 0
    stop_after(session.channel, session.control, 3)
    real = sessions.save_checkpoint

    def full(fit, path):
        if fit.step == 3:
            raise OSError(28, "No space left on device", str(path))
        real(fit, path)

    monkeypatch.setattr(sessions, "save_checkpoint", full)
    with pytest.raises(OSError, match=r"00000002\.safetensors is still there"):
        run_session(session)
    assert resume_session(open_run(session.run.folder), capture).fit.step == 2


def test_a_result_waits_for_free_space_if_the_session_is_patient(
    plain, capture, tmp_path, monkeypatch
):
    real, tried = sessions.save_scene, []

    def full(scene, path):
        tried.append(path)
        if len(tried) < 3:
            raise OSError(f"{path} could not be written: No space left on device")
        real(scene, path)

    monkeypatch.setattr(sessions, "save_scene", full)
    monkeypatch.setattr(sessions, "RETRY_SECONDS", 0.0)
    session = begin(tmp_path / "run", capture)
    session.patient = True
    events = session.channel.subscribe(size=1000)
    assert_equal(finish(session), plain[1])
    troubles = [event.message for event in events if isinstance(event, Trouble)]
    assert len(troubles) == 2
    assert "scene.safetensors could not be written: No space left" in troubles[0]


def test_a_session_that_is_stopped_during_its_evaluation_is_finished_but_not_scored(
    capture, tmp_path
):
    everything = replace(capture, test=capture.train)
    session = begin(tmp_path / "run", everything)

    class Stopper(Subscription):
        def put(self, event):
            if isinstance(event, Scored):
                session.control.stop()

    session.channel.attach(Stopper())
    assert run_session(session).state == "finished"
    assert "metrics" not in open_run(session.run.folder).record


def test_a_run_without_test_views_has_no_scores(capture, tmp_path):
    session = begin(tmp_path / "run", replace(capture, test=()))
    finish(session)
    assert open_run(session.run.folder).record["metrics"] == {
        "psnr": None,
        "ssim": None,
        "images": 0,
    }
    assert "No photos were held out" in (session.run.folder / "report.html").read_text()


def test_names_in_the_report_are_escaped(capture, tmp_path):
    frame = replace(capture.test[0], name="<script>alert(1)</script>.png")
    hostile = replace(capture, name="<b>&", test=(frame,))
    session = begin(tmp_path / "run", hostile)
    finish(session)
    page = (session.run.folder / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;&amp;" in page
    assert "http" not in page, "the page needs nothing from elsewhere"


def test_a_subscription_ends_with_its_channel():
    channel = Channel()
    events = channel.subscribe(size=2)
    for step in range(5):
        channel.publish(Saved(step, ""))
    channel.close()
    assert [event.step for event in events if isinstance(event, Saved)] == [3, 4]
    assert events.take(timeout=None) == []


def test_looking_at_the_fit_between_steps_changes_nothing(plain, capture, tmp_path):
    session = begin(tmp_path / "run", capture)
    control, seen = session.control, []

    def look(fit: SplatFit) -> None:
        seen.append((fit.step, fit.scene()))
        control.look(look)

    def fail(fit: SplatFit) -> None:
        raise RuntimeError("no window")

    control.look(look)
    control.look(fail)
    control.pause()
    after(session.channel, 1, lambda: threading.Timer(0.0, control.resume).start())
    events = session.channel.subscribe(size=1000)
    assert_equal(finish(session), plain[1])
    assert {step for step, _ in seen} == set(range(1, 13))
    assert_equal(seen[-1][1], plain[1])
    messages = [event.message for event in events if isinstance(event, Trouble)]
    assert messages == ["The scene could not be shown: no window"]


def test_the_number_of_threads_changes_nothing(plain, capture, tmp_path):
    before, session, seen = torch.get_num_threads(), begin(tmp_path / "run", capture), []
    after(session.channel, 4, lambda: session.control.threads(1))
    after(session.channel, 6, lambda: seen.append(torch.get_num_threads()))
    try:
        assert_equal(finish(session), plain[1])
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def changes_of(run: Run) -> list[tuple[int, str, float, float]]:
    """The changes in its run.json."""
    record = open_run(run.folder).record
    return [(c["step"], c["name"], c["before"], c["now"]) for c in record.get("changes", [])]


def test_a_lower_limit_of_splats_ends_their_growth(plain, capture, tmp_path):
    plan = replace(PLAN, grow_gradient=1e-9)
    counts = {}
    for limit in (None, 10):
        session = begin(tmp_path / str(limit), capture, plan)
        if limit:
            after(session.channel, 6, partial(session.control.change, splat_limit=10))
        events = session.channel.subscribe(size=1000)
        finish(session)
        counts[limit] = [event.splats for event in events if isinstance(event, StepDone)]
    assert counts[None][:6] == counts[10][:6]
    assert counts[None][8] > counts[None][5] > 150
    assert counts[10][11] <= counts[10][5]
    run = open_run(tmp_path / "10")
    assert changes_of(run) == [(6, "splat_limit", 1_000_000, 10)]
    assert plan_from_json(run.record["plan"]) == replace(plan, splat_limit=10)
    assert "changes" not in open_run(tmp_path / "None").record


def test_a_lower_degree_cuts_harmonics_at_once_and_a_higher_one_grows_them(capture, tmp_path):
    session = begin(tmp_path / "run", capture)
    degrees, shapes = {}, set()

    def look(fit: SplatFit) -> None:
        degrees[fit.step] = fit.splats.degree
        shapes.update({fit.splats.rest.shape == fit.first["rest"].shape})
        shapes.update({fit.splats.rest.shape == fit.second["rest"].shape})
        session.control.look(look)

    session.control.look(look)
    after(session.channel, 6, lambda: session.control.change(degree=0))
    after(session.channel, 7, lambda: session.control.change(degree=2))
    finish(session)
    assert [degrees[step] for step in range(1, 13)] == [0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 2]
    assert shapes == {True}
    assert changes_of(session.run) == [(6, "degree", 1, 0), (7, "degree", 0, 2)]


def test_another_weight_of_structure_is_another_loss(capture, tmp_path):
    session = begin(tmp_path / "run", capture)
    events = session.channel.subscribe(size=1000)
    after(session.channel, 5, lambda: session.control.change(ssim_weight=1))
    finish(session)
    events = list(events)
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    assert min(losses[5:]) > max(losses[:5])
    assert [event for event in events if isinstance(event, Changed)] == [
        Changed(5, "ssim_weight", 0.2, 1.0)
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"splat_limit": 0}, "splat_limit is 0: take a whole number from 1"),
        ({"splat_limit": 10.5}, "take a whole number"),
        ({"splat_limit": True}, "splat_limit is True"),
        ({"degree": 4}, "degree is 4: take a whole number from 0 to 3"),
        ({"degree": "2"}, "degree is '2'"),
        ({"ssim_weight": math.nan}, "ssim_weight is nan: take a number from 0 to 1"),
        ({"ssim_weight": -0.1}, "from 0 to 1"),
        ({"ssim_weight": None}, "ssim_weight is None"),
        ({"steps": 5}, "'steps' cannot be changed while a fit runs"),
        ({"splat_limit": 5, "degree": -1}, "degree is -1"),
    ],
)
def test_an_invalid_change_is_refused_before_it_reaches_the_fit(values, words):
    control = TrainingControl()
    with pytest.raises(ValueError, match=words):
        control.change(**values)
    assert control.take_changes() == {}


@pytest.mark.parametrize("count", [0, True, 1.5, None, 10**6])
def test_threads_that_there_are_not_are_refused(count):
    control = TrainingControl()
    with pytest.raises(ValueError, match=f"from 1 to {cores()}, the cores of this machine"):
        control.threads(count)
    assert control.take_threads() is None


def test_changes_survive_being_stopped_and_those_after_the_checkpoint_do_not(capture, tmp_path):
    def changing(folder: Path) -> Session:
        session = begin(folder, capture)
        after(session.channel, 3, lambda: session.control.change(ssim_weight=0.5))
        after(session.channel, 8, lambda: session.control.change(degree=0, splat_limit=20))
        return session

    whole = finish(changing(tmp_path / "whole"))
    first = changing(tmp_path / "run")
    after(first.channel, 5, first.control.checkpoint)
    stop_after(first.channel, first.control, 9)
    stopped = run_session(first)
    assert len(changes_of(stopped)) == 3
    shutil.copytree(stopped.folder, tmp_path / "crashed")

    assert_equal(finish(resume_session(open_run(stopped.folder), capture)), whole)
    assert len(changes_of(stopped)) == 3

    crashed = open_run(tmp_path / "crashed")
    checkpoints(crashed)[-1].unlink()
    session = resume_session(crashed, capture)
    assert session.fit.step == 5
    after(session.channel, 8, lambda: session.control.change(degree=0, splat_limit=20))
    assert_equal(finish(session), whole)
    assert changes_of(crashed) == changes_of(stopped)


def test_a_change_during_a_pause_is_in_the_checkpoint(capture, tmp_path):
    session = begin(tmp_path / "run", capture)
    control, events = session.control, session.channel.subscribe()
    control.pause()
    thread = threading.Thread(target=run_session, args=(session,))
    thread.start()
    try:
        for weight in (0.5, 0.7):
            control.change(ssim_weight=weight)
            while not any(isinstance(event, Changed) for event in events.take(timeout=10)):
                assert thread.is_alive()
    finally:
        control.stop()
        thread.join(timeout=60)
    assert changes_of(session.run) == [(1, "ssim_weight", 0.2, 0.5), (1, "ssim_weight", 0.5, 0.7)]
    run = open_run(tmp_path / "run")
    again = resume_session(run, capture)
    assert again.fit.plan.ssim_weight == 0.7
    assert again.changes == [{"step": 1, "name": "ssim_weight", "before": 0.2, "now": 0.7}]
    hostile = run.with_record(changes=[7, {"name": ["degree"]}, {"step": 1, "name": "degree"}])
    again = resume_session(hostile, capture)
    assert (again.fit.plan.ssim_weight, again.changes) == (0.7, [])


def test_scores_during_training_are_sent_as_events_and_logged(capture, tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "PROBE_STEPS", 6)
    session = begin(tmp_path / "run", capture)
    events = session.channel.subscribe(size=1000)
    finish(session)
    told = [(event.step, event.psnr) for event in events if isinstance(event, Probed)]
    log = read_log(session.run.folder / "metrics.jsonl")
    assert told == [(entry["step"], entry["psnr"]) for entry in log if "psnr" in entry]
    assert [step for step, _ in told] == [6, 12]
