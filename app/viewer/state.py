"""What all pages see and share: sources, notes, the queue of trainings, and the current scene.

Any thread may call it. Everything it tells, and everything it is asked for, is plain data.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from lumigraph.app.console import sentence_of
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.viewer.controls import readouts
from lumigraph.app.viewer.jobs.job import Job
from lumigraph.app.viewer.jobs.queue import JobQueue, NoteKind, QueueCallbacks
from lumigraph.app.viewer.library import (
    CaptureFinder,
    Library,
    Source,
    place_of,
    source_at,
)
from lumigraph.app.viewer.loader import (
    Opened,
    PhotoReader,
    SceneLoader,
    context_of,
    open_allowed_run,
    read_uncertainty,
)
from lumigraph.app.viewer.scene import CurrentScene, SceneContext, SceneUncertainty
from lumigraph.datasets.files import printable
from lumigraph.recon import plan_from, plan_from_json, plan_to_json
from lumigraph.render import Splats

NOTES, NOTE_LIMIT = 50, 1000
"""The number of notes that are kept, the newest ones, and the characters of a note."""


class ViewerState:
    """What all pages see and share.

    Attributes:
        library: The sources that can be chosen.
        jobs: The queue of trainings.
        stopped: Called with the source of a run that was stopped and can be resumed.
    """

    def __init__(self, folders: Sequence[Path], runs: Path) -> None:
        """A state in which nothing is shown and nothing is trained.

        Args:
            folders: Folders, runs and files that may be opened. Nothing outside them may be.
            runs: The folder of new runs, which may be opened too.
        """
        self._lock, self._runs = threading.Condition(), runs
        self._version = 0
        self._listeners: list[Callable[[], None]] = []
        self._notes: deque[dict[str, Any]] = deque(maxlen=NOTES)
        self._noted = 0
        self._scene: CurrentScene | None = None
        self._scenes = 0
        self._context: SceneContext | None = None  # of the running training
        self._uncertainty = SceneUncertainty()  # of the same
        self._follows, self._stale = True, False
        self.library = Library(folders, runs, self._tell)
        self._captures = CaptureFinder(self.library.sources)
        self._photos = PhotoReader(self._captures.capture)
        self._closed = False
        self.stopped: Callable[[str], None] = lambda source: None
        self._loader = SceneLoader(self._lock, self.library.allowed, self.note, self._opened)
        callbacks = QueueCallbacks(
            self.note, self._loaded, self._arrived, self._over, self._changed
        )
        self.jobs = JobQueue(self._lock, callbacks)

    def rescan(self) -> None:
        """Searches the folders, and reads anew what was estimated of the current run.

        A thread does it, since the folders may be large.
        """
        self._loader.submit(self._rescan)

    def as_dict(self) -> dict[str, Any]:
        """Everything a page draws, as plain data; `version` grows with every change.

        `current` is the running training, or the last one; `history` holds its curves.
        """
        with self._lock:
            job, scene = self.jobs.job, self._scene
            current = None if job is None else job.details()
            shown = None if scene is None else self._described(scene)
            return {
                "version": self._version,
                "jobs": [each.summary() for each in self.jobs.jobs],
                "current": current,
                "numbers": readouts(current, shown),
                "history": {} if job is None else job.history(),
                "notes": list(self._notes),
                "opening": self._loader.name,
                "shown": shown,
            }

    def wait(self, version: int, timeout: float | None = None) -> int:
        """The version of the state once it is later than `version`, or after the timeout."""
        with self._lock:
            self._lock.wait_for(lambda: self._version > version or self._closed, timeout)
            return self._version

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Has `listener` called after every change; returns a function that ends this.

        Any thread may call the listener, and it holds the state's lock then: a listener returns at
        once.
        """
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock, suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def note(self, kind: NoteKind, text: str) -> None:
        """Adds a note that all pages show."""
        with self._lock:
            self._noted += 1
            self._notes.append({"id": self._noted, "kind": kind, "text": text[:NOTE_LIMIT]})
            self._changed()

    # Trainings.

    def start(self, source_id: str, order: TrainOptions | None = None) -> str:
        """Queues a new run of a capture, and returns the id of its job.

        Raises ValueError if there is no such capture, or the order is not valid.
        """
        source = self.library.find(source_id, "capture")
        order = order or TrainOptions()
        try:
            plan = plan_from(order.preset or "standard", **order.changes)
            plan_from_json(plan_to_json(plan))
        except (TypeError, KeyError) as error:
            raise ValueError(f"There is no such setting: {error}") from None
        fields = {**asdict(order), "test": order.test and str(order.test)}
        return self._queue("train", source, [place_of(source)], order=fields, resume=None)

    def resume_run(self, source_id: str, capture_id: str | None = None) -> str:
        """Queues a run that was stopped, and returns the id of its job.

        Without `capture_id` its capture is searched for by name. Raises ValueError if there is no
        such run, or its capture is not found.
        """
        source = self.library.find(source_id, "run")
        assert source.path
        run = open_allowed_run(source.path, self.library.allowed)
        if capture_id is None:
            captures = self._captures.places(run)
        else:
            captures = [place_of(self.library.find(capture_id, "capture"))]
        if not captures:
            raise ValueError(
                f"The capture of {source.name} is in none of the folders that may be opened here: "
                "give its folder to lumigraph as well"
            )
        return self._queue("resume", source, captures, order={}, resume=str(source.path))

    # The current scene.

    def show(self, source_id: str) -> None:
        """Opens a run or a PLY file in a thread; a note says why if it cannot be opened.

        Raises ValueError if there is no such source.
        """
        source = self.library.find(source_id, "run", "ply")
        with self._lock:
            self._follows = False
            self._open(source)

    def show_now(self, source_id: str) -> None:
        """Opens a run or a PLY file before it returns; ValueError says why if it cannot."""
        source = self.library.find(source_id, "run", "ply")
        with self._lock:
            follows, self._follows = self._follows, False
        try:
            self._loader.open_now(source)
        except ValueError:
            with self._lock:
                self._follows = follows
                self._changed()
            raise

    def follow(self) -> None:
        """Shows the running training again, after another scene was opened."""
        with self._lock:
            self._follows, self._stale = True, True
            self._loader.forget()
            self._changed()

    def scene(self) -> CurrentScene | None:
        """The scene that pages show now."""
        with self._lock:
            return self._scene

    def frusta(self) -> str:
        """The cameras of the current scene's capture, as JSON."""
        scene = self.scene()
        return "[]" if scene is None else scene.context.frusta

    def want_scene(self) -> None:
        """Asks the running training for its scene, if it is shown and has changed.

        Callers may ask as often as they like: most calls do nothing.
        """
        with self._lock:
            job, scene = self.jobs.job, self._scene
            if job is None or self._context is None or not self._follows:
                return
            if (
                scene is not None
                and scene.context is self._context
                and scene.step == job.numbers.get("step")
                and not self._stale
            ):
                return
            self.jobs.want_scene()

    def photo(self, index: int) -> Tensor | None:
        """The photo of a camera of the current scene; None if there is no such camera.

        It may take long, as the photo is read from the disk. uint8 [height, width, 3]

        Raises:
            ValueError: The photo was not found, or cannot be read; the text says what to do.
        """
        scene = self.scene()
        if scene is None or not 0 <= index < len(scene.context.cameras):
            return None
        try:
            photo = self._photos.photo(scene.context, index)
        except Exception as error:  # files from other programs may cause any error
            raise ValueError(sentence_of(error)) from error
        if photo is None:
            run = scene.context.run
            capture = printable(str(run.record["capture"]))[:80] if run else "its capture"
            raise ValueError(
                f"The photo of this camera was not found: give the folder of {capture} to "
                "lumigraph as well, as in `lumigraph app RUN CAPTURE`"
            )
        return photo

    def close(self) -> None:
        """Ends the running training with a checkpoint, drops the queue, and frees the scene."""
        with self._lock:
            self._closed = True
            self.note("info", "Lumigraph is closing. A running training saves a checkpoint")
        self.jobs.close()
        self._loader.close()
        with self._lock:
            self._scene = self._context = None

    # Inside.

    def _tell(self) -> None:
        """Tells everybody that the state has changed."""
        with self._lock:
            self._changed()

    def _changed(self) -> None:
        """Tells everybody that the state has changed; under the lock."""
        self._version += 1
        self._lock.notify_all()
        for listener in list(self._listeners):
            with suppress(Exception):  # a listener that fails harms only itself
                listener()

    def _described(self, scene: CurrentScene) -> dict[str, Any]:
        """The description of the current scene for pages."""
        context = scene.context
        return {
            **scene.numbers,
            "name": context.name,
            "source": context.source,
            "version": scene.version,
            "step": scene.step,
            "splats": len(scene.scene),
            "degree": scene.scene.degree,
            "background": list(context.background),
            "cameras": len(context.cameras),
            "following": self._follows,
            "first_view": context.first_view,
        }

    def _queue(self, what: Any, source: Source, captures: list[str], **order: Any) -> str:
        order |= {"capture": captures[0], "others": captures[1:]}
        order |= {"folder": None, "runs": str(self._runs.absolute())}
        job = self.jobs.add(what, source.id, source.name, order)
        with self._lock:
            self._follows = True
        return job.id

    def _loaded(self, job: Job) -> None:
        """A training has its run folder: the cameras in it are shown around its scenes."""
        folder = Path(job.folder)
        with self._lock:
            self._captures.learn(folder, job.order["capture"])
            self._context = None
        try:
            source = source_at(folder, self.library.allowed)
            run = open_allowed_run(folder, self.library.allowed)
            context = context_of(run, source.id, source.name)
            # Of the scenes to come only the rate can be known.
            warn = partial(self.note, "info")
            uncertainty = read_uncertainty(run, None, self.library.allowed, warn)
        except Exception as error:  # the folder was changed: it trains, but is not shown
            self.note("error", sentence_of(error))
            return
        with self._lock:
            self._context, self._uncertainty = context, uncertainty
            self._changed()

    def _arrived(self, job: Job, scene: Splats, step: int) -> None:
        """The running training has handed over its scene."""
        with self._lock:
            if self._context is not None and self._follows:
                self._present(Opened(scene, self._context, self._uncertainty, {}), step)

    def _over(self, job: Job) -> None:
        """A training is over: the scene in its run folder is opened."""
        self.library.refresh()
        with self._lock:
            self._context = None
            kept = job.folder and job.state != "failed"
            if kept and self._follows and not self._closed:
                with suppress(ValueError):  # a run that was begun and not kept
                    self._open(source_at(Path(job.folder), self.library.allowed))
            stopped = job.state == "stopped" and not self._closed
        if stopped:
            self._say_stopped(job)

    def _say_stopped(self, job: Job) -> None:
        """Says where a training was stopped, and how to resume it."""
        try:
            source = self.library.find(self.library.add(Path(job.folder or os.devnull)).id, "run")
        except ValueError:
            self.note("info", f"{job.name} was stopped before its first step: nothing was saved")
            return
        at = f"step {job.numbers['step']:,} of {job.numbers['steps']:,}"
        self.note("info", f"{source.name} is stopped at {at}: press Resume run to go on with it")
        self.stopped(source.id)

    def _present(self, opened: Opened, step: int) -> None:
        """Shows a scene; under the lock."""
        self._scenes += 1
        scene, context, numbers = opened.scene, opened.context, opened.numbers
        self._scene = CurrentScene(scene, self._scenes, step, context, opened.uncertainty, numbers)
        self._stale = False
        self._changed()

    def _rescan(self) -> None:
        """Does what `rescan` says, in the loader's thread."""
        self.library.refresh()
        scene = self.scene()
        if scene is None or scene.context.run is None or scene.context is self._context:
            return
        run, warn = scene.context.run, partial(self.note, "info")
        uncertainty = read_uncertainty(run, scene.scene, self.library.allowed, warn)
        with self._lock:
            if self._scene is scene:
                opened = Opened(scene.scene, scene.context, uncertainty, scene.numbers)
                self._present(opened, scene.step)

    def _opened(self, opened: Opened) -> None:
        """A run or a PLY file is open; under the lock."""
        run = opened.context.run
        step = run.record.get("step", 0) if run else 0
        context = self._known(opened.context)
        self._present(Opened(opened.scene, context, opened.uncertainty, opened.numbers), step)

    def _open(self, source: Source) -> None:
        """Has a run or a PLY file opened and shown; under the lock."""
        self._loader.open(source)
        self._changed()

    def _known(self, context: SceneContext) -> SceneContext:
        """The current context, if this one is the same: pages need not draw it anew."""
        old = None if self._scene is None else self._scene.context
        if old is None or old.run is None or context.run is None or old.source != context.source:
            return context
        same = old.run.record["inputs"] == context.run.record["inputs"]
        return old if same else context
