"""The queue of trainings, worked off one after the other, each in a process of its own."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from signal import Signals
from typing import Any, Literal

from lumigraph.app.machine import cores
from lumigraph.app.viewer.errors import sentence_of
from lumigraph.app.viewer.jobs.job import OVER, Job
from lumigraph.app.viewer.jobs.process import Child
from lumigraph.app.viewer.jobs.shared_memory import Buffers
from lumigraph.render import Splats

JOBS = 50
"""Kept at most of those that are over."""

SNAPSHOT_SECONDS, SNAPSHOT_SHARE = 0.1, 20
"""Between two snapshots: at least so long, and so many times what copying one took, so that the
training loses a twentieth at most."""

FAILED_SECONDS = 5.0
"""After a snapshot that failed until the next is asked for: what was short may be there by then."""

CLOSE_SECONDS = 120.0
"""A training may take so long to write its last checkpoint; then it is ended without."""

NoteKind = Literal["info", "error"]


@dataclass(frozen=True)
class Ears:
    """Who is told what; each is called in the thread that works off the queue.

    Attributes:
        note: Of a note for people.
        loaded: Of a job whose capture is read and whose run folder is there.
        scene: Of a scene that was asked for, and the step it is of.
        over: Of a job that is over.
        changed: That anything about the jobs is not as it was; under the lock.
    """

    note: Callable[[NoteKind, str], None]
    loaded: Callable[[Job], None]
    scene: Callable[[Job, Splats, int], None]
    over: Callable[[Job], None]
    changed: Callable[[], None]


class Trainings:
    """All trainings there are; any thread may call it.

    Attributes:
        jobs: Those that wait, the one in work and the last that are over, oldest first.
        job: The one in work, or the last that was.
    """

    def __init__(self, lock: threading.Condition, ears: Ears) -> None:
        """An empty queue, guarded by the lock of whoever owns it."""
        self._lock, self._ears = lock, ears
        self.jobs: list[Job] = []
        self.job: Job | None = None
        self._child: Child | None = None
        self._buffers: Buffers | None = None
        self._asked, self._next_ask, self._took = False, 0.0, 0.0
        self._threads: int | None = None
        self._made, self._closed, self._abandoned = 0, False, False
        self._saving = False  # the job in work was asked for a checkpoint
        self._thread = threading.Thread(target=self._work, name="trainings", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the process that trains, if there is one."""
        child = self._child
        return None if child is None else child.pid

    def add(
        self, what: Literal["train", "resume"], source: str, name: str, order: dict[str, Any]
    ) -> Job:
        """A new job at the end of the queue; ValueError if that is closed."""
        with self._lock:
            if self._closed:
                raise ValueError("The program is closing, so nothing new is begun")
            self._made += 1
            job = Job(f"job:{self._made}", source, name, what, order)
            over = [each for each in self.jobs if each.state in OVER]
            for old in over[: max(0, len(over) - JOBS)]:
                self.jobs.remove(old)
            self.jobs.append(job)
            self._changed()
            return job

    def cancel(self, job_id: str) -> None:
        """Takes a job out of the queue; ValueError if it is not waiting there."""
        with self._lock:
            job = next((job for job in self.jobs if job.id == job_id), None)
            if job is None or job.state != "waiting":
                raise ValueError("That training is not waiting any more")
            job.state, job.sentence = "stopped", "Cancelled before it began"
            self._changed()

    def tell(self, command: str, **values: Any) -> Job:
        """Gives the job in work a command, and returns it; ValueError if there is none."""
        with self._lock:
            if self._child is None or self.job is None:
                raise ValueError("Nothing is being trained now")
            self._child.do(command, **values)
            self._saving = self._saving or command == "checkpoint"
            return self.job

    def hold(self, pausing: bool) -> None:
        """Holds the job in work or lets it go on; ValueError if there is none."""
        with self._lock:
            job = self.tell("pause" if pausing else "resume")
            job.pausing = pausing
            if job.state in ("training", "paused"):
                job.state = "paused" if pausing else "training"
            self._changed()

    def limit(self, threads: int | None) -> None:
        """Lets the job in work, and those that follow, use so many threads; None for all."""
        with self._lock:
            self._threads = threads
            if self._child is not None:
                self._child.do("threads", count=threads or cores())

    def want_scene(self) -> None:
        """Asks the job in work for its scene, unless it was asked or gave one just now."""
        with self._lock:
            child, buffers = self._child, self._buffers
            early = self._asked or time.monotonic() < self._next_ask
            if child is None or buffers is None or early:
                return
            if lent := buffers.lend():
                self._asked = True
                child.do("snapshot", buffer=lent[0], size=lent[1])

    def abandon(self) -> None:
        """Ends the job in work at once, without a checkpoint.

        It takes no lock: a signal handler may call it while somebody waits in `close`.
        """
        self._abandoned = True
        if (child := self._child) is not None:
            child.kill()

    def close(self) -> None:
        """Ends the job in work with a checkpoint, and forgets those that wait."""
        with self._lock:
            self._closed = True
            for job in self.jobs:
                if job.state == "waiting":
                    job.state = "stopped"
            if self._child is not None:
                self._child.leave()
            self._changed()
        self._thread.join(CLOSE_SECONDS)
        with self._lock:
            if self._child is not None:
                self._child.kill()
        self._thread.join()

    def _changed(self) -> None:
        self._lock.notify_all()
        self._ears.changed()

    def _work(self) -> None:
        """Works off the queue until it is closed."""
        while (job := self._next()) is not None:
            try:
                self._conduct(job)
            except Exception as error:  # whatever it was, the next one is to have its turn
                self._fail(job, sentence_of(error))
            try:
                self._ears.over(job)
            except Exception as error:
                self._ears.note("error", sentence_of(error))

    def _next(self) -> Job | None:
        """The next job, waited for; None once the queue is closed."""
        with self._lock:
            while not self._closed:
                for job in self.jobs:
                    if job.state == "waiting":
                        job.state, self.job = "loading", job
                        self._changed()
                        return job
                self._lock.wait()
        return None

    def _conduct(self, job: Job) -> None:
        """Has a job done, from its process's start to its end."""
        buffers = Buffers()
        try:
            child = Child(job.order, buffers.descriptors)
            with self._lock:
                self._child, self._buffers = child, buffers
                self._asked, self._next_ask, self._saving = False, 0.0, False
                if self._closed:
                    child.leave()
            if self._abandoned:
                child.kill()
            try:
                self._listen(job, child)
            finally:
                with self._lock:
                    self._child = self._buffers = None
                    child.leave()
                code = child.wait()
        finally:
            buffers.close()
        if job.state not in OVER:
            self._fail(job, _last_words(code))

    def _fail(self, job: Job, sentence: str) -> None:
        with self._lock:
            job.hear({"t": "failed", "sentence": sentence})
            self._changed()
        self._ears.note("error", f"{job.name}: {sentence}")

    def _listen(self, job: Job, child: Child) -> None:
        """Hears all that a process says; what cannot be made use of is noted, each thing once."""
        noted: set[str] = set()
        for message in child.messages():
            try:
                self._hear(job, message)
            except Exception as error:  # the training itself is sound
                sentence = sentence_of(error)
                if sentence not in noted:
                    noted.add(sentence)
                    self._ears.note("error", f"{job.name}: {sentence}")

    def _hear(self, job: Job, message: dict[str, Any]) -> None:
        """Takes note of what the process says."""
        match message:
            case {"t": "notice", "message": text}:
                self._ears.note("info", text)
            case {"t": "trouble", "message": text}:
                self._ears.note("error", text)
            case {"t": "failed", "sentence": sentence}:
                self._fail(job, sentence)
            case {"t": "snapshot"}:
                self._take(job, message)
            case {"t": "saved", "step": step}:
                with self._lock:
                    asked, self._saving = self._saving, False
                if asked:  # those that are written now and then are nobody's concern
                    self._ears.note("info", f"Checkpoint at step {step:,}")
            case _:
                with self._lock:
                    job.hear(message)
                    self._changed()
                    if message["t"] == "loaded" and self._threads and self._child:
                        self._child.do("threads", count=self._threads)
                if message["t"] == "loaded":
                    self._ears.loaded(job)

    def _take(self, job: Job, message: dict[str, Any]) -> None:
        """Takes the scene that was written, or lends more memory for it; OSError if it cannot."""
        with self._lock:
            child, buffers = self._child, self._buffers
            if child is None or buffers is None:
                return
            try:
                if "trouble" in message:
                    raise OSError(f"The scene cannot be shown now: {message['trouble']}")
                if "needs" in message:
                    buffer, size = buffers.grow(message["needs"])
                    child.do("snapshot", buffer=buffer, size=size)
                    return
                scene = buffers.take(message["splats"], message["degree"], message["filter"])
            except Exception:
                buffers.give_back()
                self._asked, self._next_ask = False, time.monotonic() + FAILED_SECONDS
                raise
            # The first copy into new memory takes longest, so that of two the shorter one counts.
            took, self._took = min(self._took, message["took"]), message["took"]
            pause = max(SNAPSHOT_SECONDS, SNAPSHOT_SHARE * took)
            self._asked, self._next_ask = False, time.monotonic() + pause
        self._ears.scene(job, scene, message["step"])


def _last_words(code: int) -> str:
    """Why a training ended that did not say why."""
    if code >= 0:
        return f"The training ended without a word (exit code {code}): start it again"
    reason = ", as when memory runs out" if Signals(-code).name == "SIGKILL" else ""
    return (
        f"The training was ended by {Signals(-code).name}{reason}: it goes on from its last "
        "checkpoint, if there is one"
    )
