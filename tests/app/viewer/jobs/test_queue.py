"""The queue of trainings: nothing that goes wrong with one, or with who listens, ends it."""

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from lumigraph.app.machine import cores
from lumigraph.app.training.rate import StepRate
from lumigraph.app.viewer.jobs import queue as trainings
from lumigraph.app.viewer.jobs.job import Job
from lumigraph.app.viewer.jobs.queue import JobQueue, QueueCallbacks

PATIENCE = 60
"""Seconds after which something that ought to happen is taken not to; nothing waits that long."""

RESULT = {"t": "result", "state": "finished", "psnr": None, "ssim": None}
PROGRESS = {"t": "progress", "steps": 9, "splats": 7, "degree": 1}

Act = Callable[[], None]


class Actor:
    """In place of a trainer: says and does what its order lists as `script`."""

    pid = 1

    def __init__(self, order: dict[str, Any], descriptors: Sequence[int]) -> None:
        self.script: list[dict[str, Any] | Act] = order["script"]
        self.told: list[dict[str, Any]] = order.setdefault("told", [])

    def do(self, name: str, **values: Any) -> None:
        """Takes note of a command."""
        self.told.append({"do": name, **values})

    def messages(self) -> Iterator[Any]:
        """Plays the script."""
        for part in self.script:
            if callable(part):
                part()
            else:
                yield part

    def leave(self) -> None:
        """Takes note of it."""
        self.told.append({"do": "leave"})

    def kill(self) -> None:
        """Takes note of it."""
        self.told.append({"do": "kill"})

    def wait(self) -> int:
        """Its exit code."""
        return 0


class Audience:
    """Who listens to the queue.

    Attributes:
        notes: It was told.
        over: Names of the jobs that are.
    """

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.notes: list[tuple[str, str]] = []
        self.over: list[str] = []
        self.callbacks = QueueCallbacks(
            note=lambda kind, text: self.notes.append((kind, text)),
            loaded=lambda job: None,
            scene=lambda job, scene, step: None,
            over=self._end,
            changed=lambda: None,
        )

    def _end(self, job: Job) -> None:
        with self.lock:
            self.over.append(job.name)
            self.lock.notify_all()

    def until(self, *names: str) -> None:
        """Returns once these jobs are over, in this order."""
        with self.lock:
            assert self.lock.wait_for(lambda: self.over == list(names), PATIENCE)


@pytest.fixture
def audience(monkeypatch: pytest.MonkeyPatch) -> Audience:
    """Listens to a queue of actors."""
    monkeypatch.setattr(trainings, "TrainingProcess", Actor)
    return Audience()


def add(queue: JobQueue, name: str, *script: Any) -> Job:
    """Puts what the actor is to say in the queue."""
    return queue.add("train", "x", name, {"script": script})


def test_an_error_of_a_listener_does_not_end_the_queue(audience):
    def fail(job: Job) -> None:
        audience._end(job)
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", "/far")

    queue = JobQueue(audience.lock, replace(audience.callbacks, over=fail))
    jobs = [add(queue, name, RESULT) for name in ("one", "two")]
    audience.until("one", "two")
    queue.close()
    assert [job.state for job in jobs] == ["finished", "finished"]
    assert audience.notes == [("error", "/far: Transport endpoint is not connected")] * 2


def test_a_message_that_cannot_be_understood_costs_only_itself(audience):
    queue = JobQueue(audience.lock, audience.callbacks)
    odd = [5, {"no": "kind"}, {"t": "progress"}, {"t": "progress"}, {"t": "loaded"}]
    sound = {**PROGRESS, "step": 3, "seconds": 1.0, "loss": 0.5}
    job = add(queue, "odd", *odd, sound, RESULT)
    audience.until("odd")
    queue.close()
    assert (job.state, job.sentence, job.numbers["loss"]) == ("finished", "", 0.5)
    assert len(set(audience.notes)) == len(audience.notes) == 4, "each thing is noted once"


def test_a_checkpoint_that_was_asked_for_is_noted(audience):
    queue = JobQueue(audience.lock, audience.callbacks)
    ask = lambda: queue.checkpoint()  # noqa: E731
    saved = [{"t": "saved", "step": step, "path": "x"} for step in (300, 1437, 2000)]
    add(queue, "one", saved[0], ask, saved[1], saved[2], ask, RESULT)
    add(queue, "two", saved[2], RESULT)
    audience.until("one", "two")
    queue.close()
    assert audience.notes == [("info", "Checkpoint at step 1,437")]


@pytest.mark.parametrize("views", [43, 300])
def test_the_time_left_is_not_estimated_from_steps_that_decode_photos(views):
    job, told, seconds = Job("job:1", "x", "x", "train", {}), [], 0.0
    loaded = {"capture": "x", "plan": {}, "folder": "/x", "step": 0, "steps": 3000}
    job.hear({"t": "loaded", **loaded, "views": views})
    for step in range(1, 3001):
        seconds += 0.15 if step <= views else 0.01
        job.hear({**PROGRESS, "steps": 3000, "step": step, "seconds": seconds, "loss": 0.5})
        if (left := job.numbers["seconds_left"]) is not None:
            told.append((step, left))
    assert views < told[0][0] <= max(views, 60) + 62
    assert all(left == pytest.approx((3000 - step) / 100) for step, left in told)


def test_a_slow_training_that_becomes_slower_tells_by_its_last_seconds():
    pace, seconds = StepRate(), 0.0
    for step in range(1, 101):
        seconds += 1.0 if step < 50 else 2.0
        pace.add(step, 100, seconds)
        assert (pace.left is None) == (step < 5), "two steps say nothing of the others"
        if step > 55:
            assert pace.left == pytest.approx(2 * (100 - step))


def test_a_loss_that_is_no_number_is_left_out_of_the_curve():
    job = Job("job:1", "x", "x", "train", {})
    for step, loss in enumerate([None, 0.5, None, 0.5], 1):
        job.hear({**PROGRESS, "step": step, "seconds": float(step), "loss": loss})
    for psnr in (20.0, None):
        job.hear({"t": "probed", "step": 4, "psnr": psnr, "seconds": 4.0})
    assert job.history() == {
        "seconds": [2.0, 4.0],
        "loss": [0.5, 0.5],
        "splats": [7, 7],
        "psnr_seconds": [4.0],
        "psnr": [20.0],
    }
    assert (job.numbers["step"], job.numbers["loss"], job.numbers["psnr"]) == (4, 0.5, 20.0)


def test_the_curves_of_a_run_without_a_readable_log_begin_now(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").mkdir()
    job = Job("job:1", "x", "x", "resume", {})
    told = {"capture": "x", "plan": {}, "folder": str(tmp_path), "step": 5, "steps": 9}
    job.hear({"t": "loaded", **told})
    assert (job.state, job.numbers["step"]) == ("training", 5)


def test_a_training_that_begins_while_a_view_moves_leaves_cores_to_the_pictures(audience):
    queue = JobQueue(audience.lock, audience.callbacks)
    loaded = {"t": "loaded", "capture": "x", "plan": {}, "folder": "/x", "step": 0, "steps": 9}
    queue.limit_threads(1)
    first = add(queue, "first", loaded, lambda: queue.limit_threads(None), RESULT)
    second = add(queue, "second", loaded, RESULT)
    audience.until("first", "second")
    queue.close()
    counts = [
        [told["count"] for told in job.order["told"] if told["do"] == "threads"]
        for job in (first, second)
    ]
    assert counts == [[1, cores()], []]


@pytest.mark.parametrize(
    "message",
    [
        {"t": "snapshot", "step": 1, "needs": 4096},
        {"t": "snapshot", "step": 1, "splats": 1, "degree": 0, "filter": "classic", "took": 0.1},
        {"t": "snapshot", "step": 1, "trouble": "Cannot allocate memory"},
    ],
    ids=["to grow", "to map", "to write"],
)
def test_a_snapshot_for_which_memory_is_short_costs_only_itself(message, audience, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(trainings, "FAILED_SECONDS", 0.0)
    monkeypatch.setattr(os, "ftruncate", fail)
    monkeypatch.setattr("lumigraph.app.viewer.jobs.shared_memory.mmap.mmap", fail)
    queue = JobQueue(audience.lock, audience.callbacks)
    script = [queue.want_scene, message, queue.want_scene, message, RESULT]
    job = add(queue, "short", *script)
    audience.until("short")
    queue.close()
    asked = [told for told in job.order["told"] if told["do"] == "snapshot"]
    assert len(asked) == 2, "it is asked for again"
    assert job.state == "finished"
    (note,) = audience.notes
    assert "Cannot allocate memory" in note[1]
