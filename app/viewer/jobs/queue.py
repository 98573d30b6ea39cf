"""The queue of training jobs: they run one after the other, each in a process of its own."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from signal import Signals
from typing import Any, Literal

from lumigraph.app.console import sentence_of
from lumigraph.app.machine import cores
from lumigraph.app.viewer.jobs.job import OVER, Job
from lumigraph.app.viewer.jobs.process import TrainingProcess
from lumigraph.app.viewer.jobs.shared_memory import SceneBuffers
from lumigraph.datasets.files import printable
from lumigraph.recon import checked_changes
from lumigraph.render import Splats

JOBS = 50
"""The most jobs that are kept after their end."""

SNAPSHOT_SECONDS, SNAPSHOT_SHARE = 0.1, 20
"""Between two copies of the scene: at least this time, and this multiple of the time that a copy
took, so that copies cost the training a twentieth at most."""

FAILED_SECONDS = 5.0
"""From a copy that failed to the next one: memory that was short may be free by then."""

CLOSE_SECONDS = 120.0
"""The longest time that a training may take for its last checkpoint; then it is killed."""

NoteKind = Literal["info", "error"]


@dataclass(frozen=True)
class QueueCallbacks:
    """The functions that a queue calls, in its own thread.

    Attributes:
        note: With a note for people.
        loaded: With a job that has read its capture and made its run folder.
        scene: With a job, its scene, and the scene's step.
        over: With a job that has ended.
        changed: After every change of a job; under the lock.
    """

    note: Callable[[NoteKind, str], None]
    loaded: Callable[[Job], None]
    scene: Callable[[Job, Splats, int], None]
    over: Callable[[Job], None]
    changed: Callable[[], None]


class JobQueue:
    """All training jobs; any thread may call it.

    Attributes:
        jobs: The jobs that wait, the current one and the last ones that ended, oldest first.
        job: The current job, or the last one if none runs.
    """

    def __init__(self, lock: threading.Condition, callbacks: QueueCallbacks) -> None:
        """An empty queue, guarded by the owner's lock."""
        self._lock, self._callbacks = lock, callbacks
        self.jobs: list[Job] = []
        self.job: Job | None = None
        self._process: TrainingProcess | None = None
        self._buffers: SceneBuffers | None = None
        self._asked, self._next_ask, self._took = False, 0.0, 0.0
        self._threads: int | None = None
        self._made, self._closed, self._abandoned = 0, False, False
        self._saving = False  # the current job was asked for a checkpoint
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The id of the training process; None if there is none."""
        process = self._process
        return None if process is None else process.pid

    @property
    def training(self) -> bool:
        """Whether the current job needs the processor now."""
        job = self.job
        return job is not None and job.state in ("training", "evaluating")

    def add(
        self, what: Literal["train", "resume"], source: str, name: str, order: dict[str, Any]
    ) -> Job:
        """A new job at the end of the queue; ValueError if the queue is closed."""
        with self._lock:
            if self._closed:
                raise ValueError("Lumigraph is closing: no new training can be started")
            self._made += 1
            job = Job(f"job:{self._made}", source, name, what, order)
            over = [each for each in self.jobs if each.state in OVER]
            for old in over[: max(0, len(over) - JOBS)]:
                self.jobs.remove(old)
            self.jobs.append(job)
            self._changed()
            return job

    def find(self, job_id: str) -> Job:
        """The job of that id, which is kept up to date; ValueError if there is none."""
        with self._lock:
            job = next((job for job in self.jobs if job.id == job_id), None)
        if job is None:
            raise ValueError(f"There is no job {printable(job_id)[:40]} any more")
        return job

    def cancel(self, job_id: str) -> None:
        """Takes a waiting job out of the queue; ValueError if there is none of that id."""
        with self._lock:
            job = next((job for job in self.jobs if job.id == job_id), None)
            if job is None or job.state != "waiting":
                raise ValueError("That training is not waiting any more")
            job.state, job.sentence = "stopped", "Cancelled before it began"
            self._changed()

    # Commands to the current job; each raises ValueError if nothing is being trained.

    def pause(self) -> None:
        """Pauses the current job after the step that it is in."""
        self._hold(True)

    def resume(self) -> None:
        """Resumes the current job after a pause."""
        self._hold(False)

    def stop(self) -> None:
        """Ends the current job with a checkpoint."""
        self._tell("stop")

    def checkpoint(self) -> None:
        """Has the current job write a checkpoint."""
        with self._lock:
            self._tell("checkpoint")
            self._saving = True

    def change(self, **values: Any) -> None:
        """Changes `splat_limit`, `degree` or `ssim_weight` of the current job.

        Raises ValueError if a value is not valid.
        """
        self._tell("change", values=checked_changes(values))

    def limit_threads(self, count: int | None) -> None:
        """Lets the current and all later jobs use this number of threads; None lets them use all.

        Nothing happens if nothing is being trained.
        """
        with self._lock:
            self._threads = count
            if self._process is not None:
                self._process.do("threads", count=count or cores())

    def want_scene(self) -> None:
        """Asks the current job for its scene, unless it was asked or gave one a moment ago."""
        with self._lock:
            process, buffers = self._process, self._buffers
            early = self._asked or time.monotonic() < self._next_ask
            if process is None or buffers is None or early:
                return
            if lent := buffers.lend():
                self._asked = True
                process.do("snapshot", buffer=lent[0], size=lent[1])

    def abandon(self) -> None:
        """Kills the current job, without a checkpoint.

        It takes no lock: a signal handler may call it while another function waits in `close`.
        """
        self._abandoned = True
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """Ends the current job with a checkpoint, and drops the jobs that wait."""
        with self._lock:
            self._closed = True
            for job in self.jobs:
                if job.state == "waiting":
                    job.state = "stopped"
            if self._process is not None:
                self._process.leave()
            self._changed()
        self._thread.join(CLOSE_SECONDS)
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self._thread.join()

    # Inside.

    def _tell(self, command: str, **values: Any) -> Job:
        """Gives the current job a command, and returns the job."""
        with self._lock:
            if self._process is None or self.job is None:
                raise ValueError("No training is running")
            self._process.do(command, **values)
            return self.job

    def _hold(self, pausing: bool) -> None:
        with self._lock:
            job = self._tell("pause" if pausing else "resume")
            job.pausing = pausing
            if job.state in ("training", "paused"):
                job.state = "paused" if pausing else "training"
            self._changed()

    def _changed(self) -> None:
        self._lock.notify_all()
        self._callbacks.changed()

    def _work(self) -> None:
        """Runs the jobs one after the other until the queue is closed."""
        while (job := self._next()) is not None:
            try:
                self._run(job)
            except Exception as error:  # the next job is to have its turn in any case
                self._fail(job, sentence_of(error))
            try:
                self._callbacks.over(job)
            except Exception as error:
                self._callbacks.note("error", sentence_of(error))

    def _next(self) -> Job | None:
        """Waits for the next job and returns it; None once the queue is closed."""
        with self._lock:
            while not self._closed:
                for job in self.jobs:
                    if job.state == "waiting":
                        job.state, self.job = "loading", job
                        self._changed()
                        return job
                self._lock.wait()
        return None

    def _run(self, job: Job) -> None:
        """Runs a job, from the start of its process to its end."""
        buffers = SceneBuffers()
        try:
            process = TrainingProcess(job.order, buffers.descriptors)
            with self._lock:
                self._process, self._buffers = process, buffers
                self._asked, self._next_ask, self._saving = False, 0.0, False
                if self._closed:
                    process.leave()
            if self._abandoned:
                process.kill()
            try:
                self._listen(job, process)
            finally:
                with self._lock:
                    self._process = self._buffers = None
                    process.leave()
                code = process.wait()
        finally:
            buffers.close()
        if job.state not in OVER:
            self._fail(job, _ended(code))

    def _fail(self, job: Job, sentence: str) -> None:
        with self._lock:
            job.hear({"t": "failed", "sentence": sentence})
            self._changed()
        self._callbacks.note("error", f"{job.name}: {sentence}")

    def _listen(self, job: Job, process: TrainingProcess) -> None:
        """Handles the messages of a process until it ends; an error is noted once."""
        noted: set[str] = set()
        for message in process.messages():
            try:
                self._hear(job, message)
            except Exception as error:  # the training itself goes on
                sentence = sentence_of(error)
                if sentence not in noted:
                    noted.add(sentence)
                    self._callbacks.note("error", f"{job.name}: {sentence}")

    def _hear(self, job: Job, message: dict[str, Any]) -> None:
        """Handles a message of the process."""
        match message:
            case {"t": "notice", "message": text}:
                self._callbacks.note("info", text)
            case {"t": "trouble", "message": text}:
                self._callbacks.note("error", text)
            case {"t": "failed", "sentence": sentence}:
                self._fail(job, sentence)
            case {"t": "snapshot"}:
                self._take(job, message)
            case {"t": "saved", "step": step}:
                with self._lock:
                    asked, self._saving = self._saving, False
                if asked:  # automatic checkpoints get no note
                    self._callbacks.note("info", f"Checkpoint at step {step:,}")
            case _:
                with self._lock:
                    job.hear(message)
                    self._changed()
                    if message["t"] == "loaded" and self._threads and self._process:
                        self._process.do("threads", count=self._threads)
                if message["t"] == "loaded":
                    self._callbacks.loaded(job)

    def _take(self, job: Job, message: dict[str, Any]) -> None:
        """Takes the scene that was written, or lends more memory for it; OSError if it cannot."""
        with self._lock:
            process, buffers = self._process, self._buffers
            if process is None or buffers is None:
                return
            try:
                if "trouble" in message:
                    raise OSError(f"The scene cannot be shown now: {message['trouble']}")
                if "needs" in message:
                    buffer, size = buffers.grow(message["needs"])
                    process.do("snapshot", buffer=buffer, size=size)
                    return
                scene = buffers.take(message["splats"], message["degree"], message["filter"])
            except Exception:
                buffers.give_back()
                self._asked, self._next_ask = False, time.monotonic() + FAILED_SECONDS
                raise
            # The first copy into new memory takes longest: of two times the shorter one counts.
            took, self._took = min(self._took, message["took"]), message["took"]
            pause = max(SNAPSHOT_SECONDS, SNAPSHOT_SHARE * took)
            self._asked, self._next_ask = False, time.monotonic() + pause
        self._callbacks.scene(job, scene, message["step"])


def _ended(code: int) -> str:
    """The reason why a training process ended that gave none itself, by its exit code."""
    if code >= 0:
        return f"The training process stopped unexpectedly (exit code {code}). Start it again."
    name = Signals(-code).name
    reason = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return (
        f"The training process was ended by the signal {name}{reason}. Resume it from its last "
        "checkpoint, or start it again."
    )
