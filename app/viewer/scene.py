"""What a page shows: a scene, and around it the cameras and photos it was made from."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from lumigraph.app.run.cameras import PHOTOS, Split
from lumigraph.app.run.files import is_number
from lumigraph.app.run.film import NEAR, PLY_UP, middle_of
from lumigraph.app.run.folder import Run, open_run
from lumigraph.app.run.metrics import read_log
from lumigraph.app.run.record import LOG
from lumigraph.app.viewer.library import is_inside
from lumigraph.app.viewer.trust import Trust
from lumigraph.datasets import Capture, Frame, ImageCache
from lumigraph.recon.files import load_trusted_ply
from lumigraph.render import Camera, Splats
from lumigraph.render.paths import up_of

PHOTO_BYTES = 128 << 20
"""Decoded photos that the page keeps: a few dozen, for who steps from camera to camera."""


@dataclass(frozen=True)
class Shot:
    """A camera of the capture, in the frame of the scene that is shown."""

    name: str
    split: Split
    camera: Camera


@dataclass(frozen=True)
class Setting:
    """What stays around a scene while it changes.

    Attributes:
        source: Id of what it was opened or trained from.
        name: To show to people.
        background: The colour behind the scene, in [0, 1].
        cameras: Of the photos to learn from, of those held out, then of those to calibrate on.
        up: Direction away from the ground, in the scene's frame. float64 [3]
        near: Splats nearer than this to the eye are not drawn, in the scene's units.
        frames: Of the cameras, with the photos that are in the run folder.
        run: It lies in; None for a PLY file.
    """

    source: str
    name: str
    background: tuple[float, float, float]
    cameras: tuple[Shot, ...]
    up: Tensor
    near: float
    frames: tuple[Frame, ...] = ()
    run: Run | None = None


@dataclass(frozen=True)
class Shown:
    """A scene as it is now.

    Attributes:
        scene: It must not be written to; its memory is its own as long as it is held.
        version: Another one for every other scene.
        step: Of its training; 0 for a PLY file.
        setting: What is around it.
        trust: What is known of its uncertainty.
        numbers: What the record of a run that was opened says of it: `steps`, `seconds`, `psnr`,
            `ssim` and the last `loss`, as far as they are known.
    """

    scene: Splats
    version: int
    step: int
    setting: Setting
    trust: Trust = field(default_factory=Trust)
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def background(self) -> tuple[float, float, float]:
        """The colour behind the scene, in [0, 1]."""
        return self.setting.background

    @property
    def near(self) -> float:
        """Splats nearer than this to the eye are not drawn, in the scene's units."""
        return self.setting.near

    @property
    def cameras(self) -> tuple[Shot, ...]:
        """Of the capture."""
        return self.setting.cameras

    @property
    def up(self) -> Tensor:
        """Direction away from the ground. float64 [3]"""
        return self.setting.up


def open_ply(path: Path, source: str, name: str) -> tuple[Splats, Setting, Trust]:
    """The scene of a PLY file, whose y axis points down as tools have it; ValueError or OSError."""
    scene, confidence = load_trusted_ply(path)
    if len(scene) == 0:
        raise ValueError(f"{path} holds no splats, so there is nothing to see")
    near = NEAR * middle_of(scene)[1]
    setting = Setting(source, name, (0.0, 0.0, 0.0), (), PLY_UP, near)
    return scene, setting, Trust(confidence=confidence)


def open_setting(folder: Path, source: str, name: str, allowed: Sequence[Path]) -> Setting:
    """What is around the scene of a run.

    Raises:
        ValueError: A file of it is malformed, or leads out of the allowed folders.
        OSError: One cannot be read.
    """
    for part in ("run.json", "cameras.json", "scene.safetensors", *PHOTOS.values()):
        if not is_inside(folder / part, allowed):
            raise ValueError(f"{folder / part} leads out of the folders that may be opened here")
    for photos in (folder / place for place in PHOTOS.values()):
        if photos.is_dir() and any(photo.is_symlink() for photo in photos.iterdir()):
            raise ValueError(f"{photos} has links in it, and photos are not read through those")
    run = open_run(folder)
    capture = run.views()
    splits: tuple[tuple[Split, tuple[Frame, ...]], ...] = (
        ("train", capture.train),
        ("test", capture.test),
        ("calibration", capture.calibration),
    )
    shots = tuple(Shot(f.name, split, f.camera) for split, frames in splits for f in frames)
    if capture.up is not None:
        up = capture.up.double() / capture.up.double().norm()
    elif shots:
        up = up_of([shot.camera for shot in shots])
    else:
        up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    near = min((shot.camera.near for shot in shots), default=Camera.near)
    return Setting(source, name, capture.background, shots, up, near, capture.frames, run)


def numbers_of(run: Run) -> dict[str, float]:
    """What is known of a run, see `Shown`."""
    record, metrics = run.record, run.record.get("metrics", {})
    numbers = {name: record.get(name) for name in ("steps", "seconds")}
    numbers |= {name: metrics.get(name) for name in ("psnr", "ssim")}
    with suppress(OSError):
        path = run.folder / LOG
        entries = [] if path.is_symlink() else read_log(path)  # it may lead out of the folders
        if not is_number(numbers["psnr"]):  # it was stopped: as when it was last looked at
            numbers["psnr"] = _last(entries, "psnr")
        numbers["loss"] = _last(entries, "loss")
    return {name: number for name, number in numbers.items() if is_number(number)}


def _last(entries: list[dict[str, Any]], name: str) -> float | None:
    """The last number of that name in a log; None if there is none."""
    return next((e[name] for e in reversed(entries) if is_number(e.get(name))), None)


class Photos:
    """The photos of one run at a time, read when they are asked for."""

    def __init__(self, find: Callable[[Run, ImageCache], Capture | None]) -> None:
        """Photos of the captures that `find` returns for runs, with decoded photos in the cache."""
        self._find = find
        self._lock = Lock()
        self._frames: dict[str, Frame] = {}
        self._of: Path | None = None

    def photo(self, setting: Setting, index: int) -> Tensor | None:
        """The photo of a camera, where it can be found. uint8 [height, width, 3]

        Raises:
            ValueError: It is there, but damaged.
            OSError: It cannot be read.
        """
        run = setting.run
        if run is None or not 0 <= index < len(setting.frames):
            return None
        frame = setting.frames[index]
        if setting.cameras[index].split == "train":
            found = self._of_capture(run).get(frame.name)
            if found is None:
                return None
            frame = found
        photo = frame.image()
        camera = setting.cameras[index].camera
        return photo if photo.shape[:2] == (camera.height, camera.width) else None

    def _of_capture(self, run: Run) -> dict[str, Frame]:
        """The frames of the run's capture by their names; empty where it is not to be found."""
        with self._lock:
            if self._of != run.folder:
                capture = self._find(run, ImageCache(PHOTO_BYTES))
                frames = () if capture is None else capture.train
                self._frames = {frame.name: frame for frame in frames}
                self._of = run.folder  # not before: what went wrong is said for every photo
            return self._frames
