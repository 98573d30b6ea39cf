"""The trainer is a process of its own: it obeys, shows its scene, and ends with its parent."""

import gc
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from lumigraph.app.commands.demo import demo_options
from lumigraph.app.console import SENTENCE_LIMIT, sentence_of
from lumigraph.app.run.folder import open_run
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.training.session import checkpoints, run_session
from lumigraph.app.training.start import start
from lumigraph.app.viewer.jobs import shared_memory as snapshots
from lumigraph.app.viewer.jobs.process import TrainingProcess
from lumigraph.app.viewer.jobs.shared_memory import SceneBuffers, SceneWriter
from lumigraph.app.viewer.jobs.worker import Outbox, Worker, of_demo
from lumigraph.datasets.demo import make_demo
from lumigraph.recon import SplatFit, load_checkpoint
from lumigraph.render import Splats

CHANGES = {"steps": 60, "splat_limit": 2000}
ENDLESS = {"steps": 1_000_000, "splat_limit": 500, "refine_stop": 1}


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    """The folder of the built-in scene."""
    return make_demo(tmp_path_factory.mktemp("captures") / "pavilion", "tiny")


def order_for(capture: Path, runs: Path, changes: dict[str, Any]) -> dict[str, Any]:
    order = {"preset": "quick", "changes": changes}
    return {"capture": str(capture), "order": order, "folder": None, "runs": str(runs)} | {
        "resume": None
    }


def splats(count: int, degree: int = 3) -> Splats:
    """Any splats."""
    return Splats(
        means=torch.randn(count, 3),
        quaternions=torch.randn(count, 4),
        log_scales=torch.randn(count, 3),
        opacity_logits=torch.randn(count),
        base=torch.randn(count, 3),
        rest=torch.randn(count, (degree + 1) ** 2 - 1, 3),
        filter="antialiased" if degree == 2 else "classic",
    )


def assert_equal(scene: Splats, other: Splats) -> None:
    assert scene.filter == other.filter
    for name, value in scene.tensors.items():
        assert torch.equal(value, other.tensors[name]), name


def written(buffers: SceneBuffers, writer: SceneWriter, scene: Splats) -> Splats:
    """The scene after it went through the memory that both sides share."""
    lent = buffers.lend()
    assert lent
    told = writer.write(scene, *lent)
    if "needs" in told:
        lent = buffers.grow(told["needs"])
        told = writer.write(scene, *lent)
    return buffers.take(told["splats"], told["degree"], told["filter"])


@pytest.fixture
def buffers() -> Iterator[SceneBuffers]:
    """The buffers of a training."""
    made = SceneBuffers()
    yield made
    made.close()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_scene_goes_through_shared_memory_bit_for_bit(degree, buffers):
    writer = SceneWriter(buffers.descriptors)
    for count in (0, 1, 33, 1000, 50, 4000):
        scene = splats(count, degree)
        assert_equal(written(buffers, writer, scene), scene)


def test_a_scene_in_use_keeps_its_memory(buffers, monkeypatch):
    monkeypatch.setattr(snapshots, "PATIENCE", math.inf)
    writer, first, second = SceneWriter(buffers.descriptors), splats(100), splats(120)
    one, other = written(buffers, writer, first), written(buffers, writer, second)
    assert buffers.lend() is None, "both are held"
    assert_equal(one, first)
    row = other.means[3]
    del other
    gc.collect()
    assert buffers.lend() is None, "a row of it is memory of it"
    del row
    gc.collect()
    third = splats(300)
    assert_equal(written(buffers, writer, third), third)
    assert_equal(one, first)


def test_a_reader_that_keeps_old_scenes_does_not_stop_the_others(buffers, monkeypatch):
    writer = SceneWriter(buffers.descriptors)
    held = [written(buffers, writer, splats(10)) for _ in range(2)]
    assert buffers.lend() is None
    monkeypatch.setattr(snapshots, "PATIENCE", 0.0)
    held += [written(buffers, writer, splats(10)) for _ in range(2)]
    assert buffers.lend() is None, "memory is bounded"
    del held


def test_one_buffer_is_lent_at_a_time(buffers):
    assert buffers.lend() is not None
    assert buffers.lend() is None


def test_shared_memory_has_no_name_and_goes_with_its_last_holder():
    before = len(os.listdir("/dev/fd"))
    buffers = SceneBuffers()
    assert {os.fstat(number).st_nlink for number in buffers.descriptors} == {0}
    writer, scene = SceneWriter(buffers.descriptors), splats(10)
    held = written(buffers, writer, scene)
    buffers.close()
    assert_equal(held, scene)
    del held, writer, buffers
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before


def test_pauses_and_snapshots_change_nothing(capture, tmp_path, buffers):
    plain = run_session(start(capture, TrainOptions("quick", changes=CHANGES), tmp_path / "plain"))

    child = TrainingProcess(order_for(capture, tmp_path / "runs", CHANGES), buffers.descriptors)
    child.do("pause")
    child.do("checkpoint")
    saved, seen, steps = Path(), [], []
    for message in child.messages():
        match message:
            case {"t": "saved", "step": 1}:
                saved = Path(message["path"])
                ask(child, buffers.lend())
            case {"t": "snapshot", "needs": size}:
                ask(child, buffers.grow(size))
            case {"t": "snapshot", "step": step}:
                facts = (message[name] for name in ("splats", "degree", "filter"))
                seen.append((step, buffers.take(*facts)))
                if step == 1:
                    assert_equal(seen[0][1], load_checkpoint(saved).splats)
                    child.do("resume")
                ask(child, buffers.lend())
            case {"t": "progress", "step": step}:
                steps.append(step)
    assert child.wait() == 0
    assert seen[0][0] == 1
    assert steps == sorted(set(steps))
    assert steps[-1] == 60
    run = open_run(tmp_path / "runs" / "pavilion" / "001")
    assert run.state == "finished"
    assert_equal(run.scene(), plain.scene())


def ask(child: TrainingProcess, lent: tuple[int, int] | None) -> None:
    """Asks for a snapshot if there is a buffer for it."""
    if lent:
        child.do("snapshot", buffer=lent[0], size=lent[1])


def test_the_worker_obeys_its_commands_and_leaves_ctrl_c_to_its_parent(capture, tmp_path):
    child = TrainingProcess(order_for(capture, tmp_path, ENDLESS), [])
    told: list[dict[str, Any]] = []
    for message in child.messages():
        told.append(message)
        match message:
            case {"t": "loaded"}:
                os.kill(child.pid, signal.SIGINT)
                assert os.getpgid(child.pid) == child.pid, "a terminal's Ctrl-C is the parent's"
                assert os.getpriority(os.PRIO_PROCESS, child.pid) == os.nice(0) + 5
                child.do("change", values={"ssim_weight": 7})
                child.do("nonsense")
            case {"t": "trouble"} if sum(each["t"] == "trouble" for each in told) == 2:
                child.do("threads", count=1)
                child.do("change", values={"ssim_weight": 0.5})
            case {"t": "changed"}:
                child.do("stop")
    assert child.wait() == 0
    troubles = [message["message"] for message in told if message["t"] == "trouble"]
    assert troubles[0] == "ssim_weight is 7: take a number from 0 to 1"
    assert len(troubles) == 2
    assert told[-1]["t"] == "result"
    assert told[-1]["state"] == "stopped"
    notices = [message["message"] for message in told if message["t"] == "notice"]
    assert any(notice.startswith("On the CPU") for notice in notices)
    run = open_run(tmp_path / "pavilion" / "001")
    assert run.record["changes"][0]["name"] == "ssim_weight"
    assert len(checkpoints(run)) == 1


def test_a_scene_that_cannot_be_written_is_reported():
    reading, writing = os.pipe()
    outbox = Outbox(writing)
    trainer = Worker({"buffers": [reading]}, outbox)  # a pipe is no memory to share
    trainer._show(0, 1 << 20, cast(SplatFit, SimpleNamespace(splats=splats(10), step=7)))
    outbox.finish()
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = json.loads(pipe.readline())
    assert (told["t"], told["step"]) == ("snapshot", 7)
    assert told["trouble"]


STUBBORN = """
import os, sys
os.read(int(sys.argv[1]), 1)
sys.stdout.buffer.write(sys.stdin.buffer.read())
"""
"""Reads nothing of what it is told until it may, and says it all again."""


def test_the_server_does_not_wait_for_a_training_process_that_does_not_read(monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setattr(
        "lumigraph.app.viewer.jobs.process.COMMAND", (sys.executable, "-Pc", STUBBORN, str(reading))
    )
    child = TrainingProcess({"more": "x" * (1 << 20)}, [reading])  # than a pipe holds

    def steer() -> None:
        for count in (1, 2):
            child.do("threads", count=count)
            child.do("change", values={"degree": count})
            child.do("change", values={"splat_limit" if count == 1 else "ssim_weight": count})
            child.do("pause")
            child.do("resume")
        child.do("checkpoint")
        child.leave()

    steering = threading.Thread(target=steer)
    steering.start()
    steering.join(60)
    waited = steering.is_alive()
    os.write(writing, b".")
    told = list(child.messages())
    steering.join()
    assert child.wait() == 0
    os.close(reading)
    os.close(writing)
    assert not waited
    assert told[0]["buffers"] == [reading]
    assert told[1:] == [
        {"do": "threads", "count": 2},
        {"do": "change", "values": {"degree": 2, "splat_limit": 1, "ssim_weight": 2}},
        {"do": "resume"},
        {"do": "checkpoint"},
    ], "of each kind the newest, and of changes all"


def test_a_trainer_that_is_stopped_can_be_ended(monkeypatch):
    command = (sys.executable, "-Pc", "import signal; signal.pause()")
    monkeypatch.setattr("lumigraph.app.viewer.jobs.process.COMMAND", command)
    child = TrainingProcess({"more": "x" * (1 << 20)}, [])
    os.kill(child.pid, signal.SIGSTOP)
    child.leave()
    child.kill()
    assert list(child.messages()) == []
    assert child.wait() == -signal.SIGKILL


PARENT = """
import json, sys
from lumigraph.app.viewer.jobs.process import TrainingProcess
child = TrainingProcess(json.loads(sys.argv[1]), [int(sys.argv[2])])
for message in child.messages():
    if message["t"] == "progress":
        print(message["step"], flush=True)
"""


def test_the_worker_ends_with_a_checkpoint_when_its_parent_dies(capture, tmp_path):
    reading, writing = os.pipe()  # the trainer holds the other end for as long as it lives
    order = json.dumps(order_for(capture, tmp_path, ENDLESS))
    command = [sys.executable, "-P", "-c", PARENT, order, str(writing)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[writing])
    os.close(writing)
    assert parent.stdout
    with parent.stdout, os.fdopen(reading, "rb") as alive:
        step = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        assert select.select([alive], [], [], 60)[0], "it lives on"
        assert alive.read() == b""
    run = open_run(tmp_path / "pavilion" / "001")
    assert run.state == "stopped"
    assert run.record["step"] >= step
    assert checkpoints(run)


def test_the_built_in_scene_is_trained_with_the_options_of_demo_and_those_given():
    assert of_demo(TrainOptions(), "tiny") == demo_options("tiny")
    asked = TrainOptions("standard", seed=3, downscale=2, changes={"degree": 1, "steps": None})
    assert of_demo(asked, "full") == replace(asked, changes={"degree": 1}, name="demo_full")
    assert of_demo(TrainOptions(changes={"steps": 7}), "small").changes == {"steps": 7}


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("a\nb\x1b c"), "a b? c"),
        (MemoryError(), "Out of memory: use a larger downscale or a smaller splat limit"),
        (RuntimeError("can't allocate memory: 9 bytes"), "Out of memory: use a larger"),
        (OSError(28, "No space left on device", "/a/b"), "The disk is full (/a/b): free some"),
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: Permission denied"),
        (KeyError("x"), "This is an error in Lumigraph itself; please report it: KeyError('x')"),
    ],
)
def test_an_error_is_one_sentence(error, sentence):
    assert sentence_of(error).startswith(sentence)
    assert len(sentence_of(ValueError("x" * 10_000))) == SENTENCE_LIMIT
