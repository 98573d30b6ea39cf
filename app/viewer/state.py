"""What the pages drive: sources, a queue of trainings, the one in work, and the scene shown.

Any thread may call it. What it tells is plain data, and so is what is asked of it.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.viewer.errors import sentence_of
from lumigraph.app.viewer.jobs.job import Job
from lumigraph.app.viewer.jobs.queue import Ears, NoteKind, Trainings
from lumigraph.app.viewer.library import (
    UNSAVED,
    Source,
    built_in,
    find_sources,
    is_inside,
    named,
    source_at,
)
from lumigraph.app.viewer.opener import Opener
from lumigraph.app.viewer.origins import Origins, place_of
from lumigraph.app.viewer.readouts import readouts
from lumigraph.app.viewer.scene import Photos, Setting, Shown, open_setting
from lumigraph.app.viewer.trust import Trust, trust_of
from lumigraph.datasets.files import printable
from lumigraph.recon import checked_changes, plan_from, plan_from_json, plan_to_json
from lumigraph.render import Splats

NOTES, NOTE_LIMIT = 50, 1000
"""The newest are kept, at most so many, of so many characters."""

NOTHING_SAVED = (
    "This run has neither a scene nor a checkpoint: its training has just begun, or was cut off "
    "before the first save. If so, train its capture again; the run's folder can be removed"
)


class Desk:
    """The state of the product, as all pages see it."""

    def __init__(self, folders: Sequence[Path], runs: Path) -> None:
        """A desk with nothing on it.

        Args:
            folders: What may be opened: folders, runs or files. Nothing outside them is.
            runs: Where new runs go; what is in it may be opened too.
        """
        self._allowed, self._runs = (*folders, runs), runs
        self._lock = threading.Condition()
        self._version = 0
        self._listeners: list[Callable[[], None]] = []
        self._sources: dict[str, Source] = {}
        self._notes: deque[dict[str, Any]] = deque(maxlen=NOTES)
        self._noted = 0
        self._shown: Shown | None = None
        self._scenes = 0
        self._setting: Setting | None = None  # of the training in work, as is what is known of it
        self._trust = Trust()
        self._follows, self._stale = True, False
        self._origins = Origins(self._found)
        self._photos = Photos(self._origins.capture)
        self._closed = False
        self.stopped: Callable[[str], None] = lambda source: None
        """Called with the source of a run that was stopped, and can go on."""
        self.refresh()
        self._opener = Opener(self._lock, self._allowed, self.note, self._opened)
        ears = Ears(self.note, self._loaded, self._arrived, self._over, self._changed)
        self._trainings = Trainings(self._lock, ears)

    # What there is.

    def sources(self) -> list[dict[str, Any]]:
        """What can be chosen: `id`, `name`, `kind` (capture, run, ply), `state`, `stopped`."""
        with self._lock:
            return [source.plain() for source in self._sources.values()]

    def refresh(self) -> None:
        """Looks again for what there is in the allowed folders."""
        found = [*built_in(), *find_sources(self._allowed)]
        with self._lock:
            self._sources = named(found)
            self._changed()

    def look_again(self) -> None:
        """Has all that came into the folders meanwhile be found, in a thread: they may be large.

        That is also what was estimated of the run that is shown.
        """
        self._opener.submit(self._look_again)

    def source_at(self, path: Path) -> str:
        """The id of the source at a path; ValueError if it is outside, or there is none."""
        source = source_at(path, self._allowed)
        with self._lock:
            self._sources = named((self._sources | {source.id: source}).values())
            self._changed()
        return source.id

    def given(self) -> str | None:
        """The id of the first capture in the folders that were given, else of a run or a PLY file.

        What lies where new runs go comes last. None if there is nothing.
        """
        found = [source for folder in self._allowed[:-1] for source in find_sources([folder])]
        found.sort(key=lambda source: source.kind != "capture")
        new = [s for s in found if s.path is None or not is_inside(s.path, [self._runs])]
        return next((source.id for source in [*new, *found]), None)

    def state(self) -> dict[str, Any]:
        """Everything a page draws, as plain data; `version` is a later one after every change.

        `current` is the training in work, or the last that was; `history` are its curves.
        """
        with self._lock:
            job, shown = self._trainings.job, self._shown
            current = None if job is None else job.facts()
            known = None if shown is None else self._plain(shown)
            return {
                "version": self._version,
                "jobs": [each.plain() for each in self._trainings.jobs],
                "current": current,
                "numbers": readouts(current, known),
                "history": {} if job is None else job.history(),
                "notes": list(self._notes),
                "opening": self._opener.name,
                "shown": known,
            }

    def wait(self, version: int, timeout: float | None = None) -> int:
        """The version of the state once it is a later one, or when the time is over."""
        with self._lock:
            self._lock.wait_for(lambda: self._version > version or self._closed, timeout)
            return self._version

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Has `listener` called whenever the state is another one; returns what ends that.

        It is called in any thread and under the desk's lock, so it is to pass the news on at once.
        """
        with self._lock:
            self._listeners.append(listener)

        def leave() -> None:
            with self._lock, suppress(ValueError):
                self._listeners.remove(listener)

        return leave

    def note(self, kind: NoteKind, text: str) -> None:
        """Adds a note for the page."""
        with self._lock:
            self._noted += 1
            self._notes.append({"id": self._noted, "kind": kind, "text": text[:NOTE_LIMIT]})
            self._changed()

    # Trainings.

    def start(self, source_id: str, order: TrainOptions | None = None) -> str:
        """Puts a new run of a capture in the queue, and returns the id of its job.

        Raises ValueError if there is no such capture, or the order cannot be.
        """
        source = self._source(source_id, "capture")
        order = order or TrainOptions()
        try:
            plan = plan_from(order.preset or "standard", **order.changes)
            plan_from_json(plan_to_json(plan))
        except (TypeError, KeyError) as error:
            raise ValueError(f"There is no such setting: {error}") from None
        fields = {**asdict(order), "test": order.test and str(order.test)}
        return self._queue("train", source, [place_of(source)], order=fields, resume=None)

    def go_on(self, source_id: str, capture_id: str | None = None) -> str:
        """Puts a run that was stopped in the queue, to go on; returns the id of its job.

        Its capture is looked for among those of its name, unless it is given. Raises ValueError if
        there is no such run, or its capture is not to be found.
        """
        source = self._source(source_id, "run")
        assert source.path
        run = open_setting(source.path, source.id, source.name, self._allowed).run
        assert run
        if capture_id is None:
            captures = self._origins.places(run)
        else:
            captures = [place_of(self._source(capture_id, "capture"))]
        if not captures:
            raise ValueError(
                f"The capture of {source.name} is in none of the folders that may be opened here: "
                "give its folder to lumigraph as well"
            )
        return self._queue("resume", source, captures, order={}, resume=str(source.path))

    def job(self, job_id: str) -> Job:
        """The job of that id, which is kept up to date; ValueError if there is none."""
        with self._lock:
            job = next((job for job in self._trainings.jobs if job.id == job_id), None)
        if job is None:
            raise ValueError(f"There is no job {printable(job_id)[:40]} any more")
        return job

    def cancel(self, job_id: str) -> None:
        """Takes a job out of the queue; ValueError if it is not waiting there."""
        self._trainings.cancel(job_id)

    def pause(self) -> None:
        """Holds the training in work; ValueError if there is none, as for all that follow."""
        self._trainings.hold(True)

    def resume(self) -> None:
        """Lets a training that holds go on."""
        self._trainings.hold(False)

    def stop(self) -> None:
        """Ends the training in work with a checkpoint."""
        self._trainings.tell("stop")

    def checkpoint(self) -> None:
        """Has the training in work write a checkpoint."""
        self._trainings.tell("checkpoint")

    def change(self, **values: Any) -> None:
        """Changes `splat_limit`, `degree` or `ssim_weight`; ValueError if they cannot be that."""
        self._trainings.tell("change", values=checked_changes(values))

    def threads(self, count: int | None) -> None:
        """Lets trainings use so many threads, this one from its next step on; None for all."""
        self._trainings.limit(count)

    @property
    def training(self) -> bool:
        """Whether a training needs the processor just now."""
        job = self._trainings.job
        return job is not None and job.state in ("training", "evaluating")

    # The scene shown.

    def show(self, source_id: str) -> None:
        """Opens a run or a PLY file in a thread; a note says why if that cannot be.

        Raises ValueError if there is no such source.
        """
        source = self._source(source_id, "run", "ply")
        with self._lock:
            self._follows = False
            self._open(source)

    def show_now(self, source_id: str) -> None:
        """Opens a run or a PLY file before it returns; ValueError says why if that cannot be."""
        source = self._source(source_id, "run", "ply")
        with self._lock:
            follows, self._follows = self._follows, False
        try:
            self._opener.load(source)
        except ValueError:
            with self._lock:
                self._follows = follows
                self._changed()
            raise

    def follow(self) -> None:
        """Shows the training in work again, after something else was opened."""
        with self._lock:
            self._follows, self._stale = True, True
            self._opener.forget()
            self._changed()

    def scene(self) -> Shown | None:
        """What is to be seen now."""
        with self._lock:
            return self._shown

    def want_scene(self) -> None:
        """Asks the training in work for its scene, if it is shown and is another one by now.

        To be called as often as somebody looks: most calls do nothing.
        """
        with self._lock:
            job, shown = self._trainings.job, self._shown
            if job is None or self._setting is None or not self._follows:
                return
            if (
                shown is not None
                and shown.setting is self._setting
                and shown.step == job.numbers.get("step")
                and not self._stale
            ):
                return
            self._trainings.want_scene()

    def photo(self, index: int) -> Tensor | None:
        """The photo of a camera of what is shown, None if there is no such camera.

        It may take a while, as it is read from the disk. uint8 [height, width, 3]

        Raises:
            ValueError: The photo is not at hand, or cannot be read; it says what to do.
        """
        shown = self.scene()
        if shown is None or not 0 <= index < len(shown.cameras):
            return None
        try:
            photo = self._photos.photo(shown.setting, index)
        except Exception as error:  # of a file that somebody else made
            raise ValueError(sentence_of(error)) from error
        if photo is None:
            run = shown.setting.run
            capture = printable(str(run.record["capture"]))[:80] if run else "its capture"
            raise ValueError(
                f"The photo of this camera is not at hand: give the folder of {capture} to "
                "lumigraph as well, as in `lumigraph app RUN CAPTURE`"
            )
        return photo

    def abandon(self) -> None:
        """Ends the training in work at once, without a checkpoint; also in a signal handler."""
        self._trainings.abandon()

    def close(self) -> None:
        """Ends the training in work with a checkpoint, forgets the queue, and lets go of all."""
        with self._lock:
            self._closed = True
            self.note("info", "Lumigraph ends; a training in work keeps its checkpoint")
        self._trainings.close()
        self._opener.close()
        with self._lock:
            self._shown = self._setting = None

    # Inside.

    def _changed(self) -> None:
        """Says that the state is another one; under the lock."""
        self._version += 1
        self._lock.notify_all()
        for listener in list(self._listeners):
            with suppress(Exception):  # a listener that fails is its own affair
                listener()

    def _found(self) -> list[Source]:
        with self._lock:
            return list(self._sources.values())

    def _plain(self, shown: Shown) -> dict[str, Any]:
        return {
            **shown.numbers,
            "name": shown.setting.name,
            "source": shown.setting.source,
            "version": shown.version,
            "step": shown.step,
            "splats": len(shown.scene),
            "degree": shown.scene.degree,
            "up": shown.up.tolist(),
            "background": list(shown.background),
            "cameras": len(shown.cameras),
            "following": self._follows,
        }

    def _source(self, source_id: str, *kinds: str) -> Source:
        """The source of that id; ValueError if there is none of these kinds any more."""
        with self._lock:
            source = self._sources.get(source_id)
        if source is None or (source.path and not is_inside(source.path, self._allowed)):
            raise ValueError("That is not to be found here any more: choose again")
        if source.kind == UNSAVED:
            raise ValueError(f"{source.name}: {NOTHING_SAVED}")
        if source.kind not in kinds:
            raise ValueError(f"{source.name} is a {source.kind}, not a {' or a '.join(kinds)}")
        return source

    def _queue(self, what: Any, source: Source, captures: list[str], **order: Any) -> str:
        order |= {"capture": captures[0], "others": captures[1:]}
        order |= {"folder": None, "runs": str(self._runs.absolute())}
        job = self._trainings.add(what, source.id, source.name, order)
        with self._lock:
            self._follows = True
        return job.id

    def _loaded(self, job: Job) -> None:
        """A training has its run folder: what is in it will be around its scenes."""
        folder = Path(job.folder)
        with self._lock:
            self._origins.learn(folder, job.order["capture"])
            self._setting = None
        try:
            source = source_at(folder, self._allowed)
            setting = open_setting(folder, source.id, source.name, self._allowed)
            assert setting.run
            # Before it is trained on: of the scenes to come no more can be known.
            trust = trust_of(setting.run, None, self._allowed, self._warn)
        except Exception as error:  # somebody meddled with the folder: it trains, but is not shown
            self.note("error", sentence_of(error))
            return
        with self._lock:
            self._setting, self._trust = setting, trust
            self._changed()

    def _arrived(self, job: Job, scene: Splats, step: int) -> None:
        """A training gave its scene."""
        with self._lock:
            if self._setting is not None and self._follows:
                self._present(scene, step, self._setting, self._trust)

    def _over(self, job: Job) -> None:
        """A training is over: what it left in its run folder is shown from there."""
        self.refresh()
        with self._lock:
            self._setting = None
            kept = job.folder and job.state != "failed"
            if kept and self._follows and not self._closed:
                with suppress(ValueError):  # a run that was begun and not kept
                    source = source_at(Path(job.folder), self._allowed)
                    self._open(source)
            stopped = job.state == "stopped" and not self._closed
        if stopped:
            self._say_stopped(job)

    def _say_stopped(self, job: Job) -> None:
        """Says where a training was stopped, and how to go on with it."""
        try:
            source = self._source(self.source_at(Path(job.folder or os.devnull)), "run")
        except ValueError:
            self.note("info", f"{job.name} was stopped before its first step: nothing is kept")
            return
        at = f"step {job.numbers['step']:,} of {job.numbers['steps']:,}"
        self.note("info", f"{source.name} is stopped at {at}: press Go on to go on with it")
        self.stopped(source.id)

    def _present(
        self,
        scene: Splats,
        step: int,
        setting: Setting,
        trust: Trust,
        numbers: dict[str, float] | None = None,
    ) -> None:
        self._scenes += 1
        self._shown = Shown(scene, self._scenes, step, setting, trust, numbers or {})
        self._stale = False
        self._changed()

    def _look_again(self) -> None:
        """Finds what is new, in the opener's thread."""
        self.refresh()
        shown = self.scene()
        if shown is None or shown.setting.run is None or shown.setting is self._setting:
            return
        trust = trust_of(shown.setting.run, shown.scene, self._allowed, self._warn)
        with self._lock:
            if self._shown is shown:
                self._present(shown.scene, shown.step, shown.setting, trust, shown.numbers)

    def _warn(self, text: str) -> None:
        self.note("info", text)

    def _opened(
        self, scene: Splats, setting: Setting, trust: Trust, numbers: dict[str, float]
    ) -> None:
        """A run or a PLY file is open; under the lock."""
        step = setting.run.record.get("step", 0) if setting.run else 0
        self._present(scene, step, self._known(setting), trust, numbers)

    def _open(self, source: Source) -> None:
        """Has a run or a PLY file loaded and shown, unless another one is asked for meanwhile."""
        self._opener.open(source)
        self._changed()

    def _known(self, setting: Setting) -> Setting:
        """The setting that is shown, if this one is the same: pages need not draw it anew."""
        old = None if self._shown is None else self._shown.setting
        if old is None or old.run is None or setting.run is None or old.source != setting.source:
            return setting
        same = old.run.record["inputs"] == setting.run.record["inputs"]
        return old if same else setting
