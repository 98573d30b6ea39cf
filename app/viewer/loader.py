"""Opens runs and PLY files in a thread: a scene, its cameras, and its estimates.

The newest request wins: a source that waits to be opened is dropped when another one is asked for.
"""

import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lumigraph.app.console import sentence_of
from lumigraph.app.run.cameras import PHOTOS, Split
from lumigraph.app.run.estimate import (
    CONFIDENCE,
    ESTIMATE,
    FOLDER,
    stored_calibration,
    stored_confidence,
    stored_rate,
)
from lumigraph.app.run.files import is_number
from lumigraph.app.run.film import NEAR, PLY_UP, middle_of
from lumigraph.app.run.folder import Run, open_run
from lumigraph.app.run.metrics import read_log
from lumigraph.app.run.record import LOG
from lumigraph.app.viewer.library import Source, is_inside
from lumigraph.app.viewer.scene import (
    CaptureCamera,
    SceneContext,
    SceneUncertainty,
    first_view_of,
)
from lumigraph.datasets import Capture, Frame, ImageCache
from lumigraph.recon.files import load_trusted_ply
from lumigraph.render import Camera, Splats
from lumigraph.render.paths import up_of

PHOTO_BYTES = 128 << 20
"""Decoded photos that the page keeps: a few dozen, for people who step from camera to camera."""

T = TypeVar("T")


@dataclass(frozen=True)
class Opened:
    """A run or a PLY file that was opened; the fields are those of `CurrentScene`."""

    scene: Splats
    context: SceneContext
    uncertainty: SceneUncertainty
    numbers: dict[str, float]


class SceneLoader:
    """The thread that opens runs and PLY files.

    Attributes:
        name: The name of the source that is being opened; "" if none is.
    """

    def __init__(
        self,
        lock: threading.Condition,
        allowed: Sequence[Path],
        note: Callable[[Any, str], None],
        opened: Callable[[Opened], None],
    ) -> None:
        """A loader that waits for its first request.

        Args:
            lock: The owner's, which guards `name`.
            allowed: The folders that may be opened.
            note: Is called with the kind and the text of a note for people.
            opened: Is given what was opened last, under the lock.
        """
        self.name = ""
        self._lock, self._allowed, self._note, self._opened = lock, allowed, note, opened
        self._tickets = 0  # the number of the newest request
        self._thread = ThreadPoolExecutor(1, "loader")

    def open(self, source: Source) -> None:
        """Opens a run or a PLY file; a note says why if it cannot be opened."""
        self._request(source, skip=True).add_done_callback(self._complain)

    def open_now(self, source: Source) -> None:
        """Opens a run or a PLY file before it returns; ValueError says why if it cannot."""
        self._request(source, skip=False).result()

    def forget(self) -> None:
        """Drops the source that is being opened."""
        with self._lock:
            self._tickets += 1
            self.name = ""

    def submit(self, call: Callable[[], None]) -> None:
        """Has something else done in the thread."""
        self._thread.submit(call)

    def close(self) -> None:
        """Returns when the thread has ended; requests that wait are dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _request(self, source: Source, *, skip: bool) -> Future[None]:
        """Queues a source; with `skip` it is not read if another one is asked for meanwhile."""
        with self._lock:
            self._tickets += 1
            self.name = source.name
            return self._thread.submit(self._load, source, self._tickets, skip)

    def _complain(self, loading: Future[None]) -> None:
        if not loading.cancelled() and (error := loading.exception()) is not None:
            self._note("error", sentence_of(error))

    def _load(self, source: Source, ticket: int, skip: bool) -> None:
        if skip and ticket != self._tickets:
            return
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                opened = open_source(source, self._allowed)
        except Exception as error:  # files from other programs may cause any error
            with self._lock:
                if ticket == self._tickets:
                    self.name = ""
            raise ValueError(sentence_of(error)) from error
        for warning in caught:
            self._note("info", str(warning.message))
        with self._lock:
            if ticket == self._tickets:
                self.name = ""
                self._opened(opened)


def open_source(source: Source, allowed: Sequence[Path]) -> Opened:
    """The scene of a run or a PLY file; warns of every part that cannot be read.

    Raises:
        ValueError: A file is malformed, empty, or leads out of the allowed folders.
        OSError: A file cannot be read.
    """
    assert source.path
    if source.kind == "ply":
        return _open_ply(source)
    run = open_allowed_run(source.path, allowed)
    context, scene = context_of(run, source.id, source.name), run.scene()
    uncertainty = read_uncertainty(run, scene, allowed, warnings.warn)
    return Opened(scene, context, uncertainty, numbers_of(run))


def _open_ply(source: Source) -> Opened:
    """The scene of a PLY file; its y axis points down as in other tools."""
    assert source.path
    scene, confidence = load_trusted_ply(source.path)
    if len(scene) == 0:
        raise ValueError(f"{source.path} holds no splats, so there is nothing to show")
    near = NEAR * middle_of(scene)[1]
    view = first_view_of(scene, (), PLY_UP)
    context = SceneContext(source.id, source.name, (0.0, 0.0, 0.0), (), PLY_UP, near, view)
    return Opened(scene, context, SceneUncertainty(confidence=confidence), {})


def open_allowed_run(folder: Path, allowed: Sequence[Path]) -> Run:
    """The run in a folder.

    Raises:
        ValueError: A file of it is malformed, or leads out of the allowed folders.
        OSError: A file cannot be read.
    """
    for part in ("run.json", "cameras.json", "scene.safetensors", *PHOTOS.values()):
        if not is_inside(folder / part, allowed):
            raise ValueError(f"{folder / part} leads out of the folders that may be opened here")
    for photos in (folder / place for place in PHOTOS.values()):
        if photos.is_dir() and any(photo.is_symlink() for photo in photos.iterdir()):
            raise ValueError(f"{photos} has links in it, and photos are not read through links")
    return open_run(folder)


def context_of(run: Run, source: str, name: str) -> SceneContext:
    """The context of a run's scenes; `source` and `name` are the id and the name it is given.

    Raises ValueError if cameras.json is malformed, OSError if it cannot be read.
    """
    capture = run.views()
    splits: tuple[tuple[Split, tuple[Frame, ...]], ...] = (
        ("train", capture.train),
        ("test", capture.test),
        ("calibration", capture.calibration),
    )
    cameras = tuple(
        CaptureCamera(frame.name, split, frame.camera)
        for split, frames in splits
        for frame in frames
    )
    if capture.up is not None:
        up = capture.up.double() / capture.up.double().norm()
    elif cameras:
        up = up_of([each.camera for each in cameras])
    else:
        up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    near = min((each.camera.near for each in cameras), default=Camera.near)
    view = first_view_of(None if cameras else run.scene(), cameras, up)
    frames = capture.frames
    return SceneContext(source, name, capture.background, cameras, up, near, view, frames, run)


def read_uncertainty(
    run: Run, scene: Splats | None, allowed: Sequence[Path], warn: Callable[[str], None]
) -> SceneUncertainty:
    """The estimates of a run's scene; if there is no scene yet, only the rate.

    Args:
        run: The run.
        scene: Its scene as it is shown; estimates of another scene do not count.
        allowed: Nothing outside these folders is read.
        warn: Is called for every file that cannot be read: the scene can be shown without it.
    """
    for name in (ESTIMATE, f"{FOLDER}/{CONFIDENCE}"):
        if not is_inside(run.folder / name, allowed):
            warn(f"{run.folder / name} leads out of the folders that may be opened here")
            return SceneUncertainty()

    def read(reads: Callable[[], T]) -> T | None:
        try:
            return reads()
        except (ValueError, OSError) as error:
            warn(sentence_of(error))
            return None

    rate = read(lambda: stored_rate(run, scene))
    if rate is None:
        return SceneUncertainty()
    if scene is None:
        return SceneUncertainty(rate.value, rate.calibrated)
    calibration = read(lambda: stored_calibration(run, scene))
    confidence = read(lambda: stored_confidence(run, scene))
    return SceneUncertainty(rate.value, rate.calibrated, calibration, confidence)


def numbers_of(run: Run) -> dict[str, float]:
    """The numbers of a run, see `CurrentScene`."""
    record, metrics = run.record, run.record.get("metrics", {})
    numbers = {name: record.get(name) for name in ("steps", "seconds")}
    numbers |= {name: metrics.get(name) for name in ("psnr", "ssim")}
    with suppress(OSError):
        path = run.folder / LOG
        entries = [] if path.is_symlink() else read_log(path)  # it may lead out of the folders
        if not is_number(numbers["psnr"]):  # the run was stopped before its evaluation
            numbers["psnr"] = _last(entries, "psnr")
        numbers["loss"] = _last(entries, "loss")
    return {name: number for name, number in numbers.items() if is_number(number)}


def _last(entries: list[dict[str, Any]], name: str) -> float | None:
    """The last number of that name in a log; None if there is none."""
    return next((e[name] for e in reversed(entries) if is_number(e.get(name))), None)


class PhotoReader:
    """The photos of one run at a time, read when they are asked for."""

    def __init__(self, find: Callable[[Run, ImageCache], Capture | None]) -> None:
        """Photos of the captures that `find` returns for runs, decoded photos in its cache."""
        self._find = find
        self._lock = threading.Lock()
        self._frames: dict[str, Frame] = {}
        self._folder: Path | None = None

    def photo(self, context: SceneContext, index: int) -> Tensor | None:
        """The photo of a camera; None if it is not to be found. uint8 [height, width, 3]

        Raises:
            ValueError: The photo is damaged.
            OSError: The photo cannot be read.
        """
        run = context.run
        if run is None or not 0 <= index < len(context.frames):
            return None
        frame, shot = context.frames[index], context.cameras[index]
        if shot.split == "train":
            found = self._of_capture(run).get(frame.name)
            if found is None:
                return None
            frame = found
        photo = frame.image()
        same = photo.shape[:2] == (shot.camera.height, shot.camera.width)
        return photo if same else None

    def _of_capture(self, run: Run) -> dict[str, Frame]:
        """The training frames of the run's capture by name; empty if there is no capture."""
        with self._lock:
            if self._folder != run.folder:
                capture = self._find(run, ImageCache(PHOTO_BYTES))
                frames = () if capture is None else capture.train
                self._frames = {frame.name: frame for frame in frames}
                self._folder = run.folder  # not before: every photo reports the error
            return self._frames
