"""What a run is made from: the capture at a size that fits, and a hash of it."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lumigraph.app.console import notice, warn
from lumigraph.app.run.record import Selection
from lumigraph.datasets import Capture, Frame
from lumigraph.recon import Preset

SIDE_WANTED = 1600
"""Pixels along the longer side, at most, unless --downscale is given: what 3DGS itself trains on,
and what keeps a dozen megapixels from taking a laptop's memory and night."""

HASHED_BYTES = 1 << 20
"""From each end of a photo's file: most are no larger than both, reading thousands of large ones
whole would take minutes, and edits that keep a file's size and both its ends do not just happen."""


@dataclass(frozen=True)
class TrainOptions:
    """What `train` is asked for; None leaves the choice to us.

    Attributes:
        preset: The plan to begin with.
        seed: Of every random choice.
        downscale: Each side of a photo is divided by this.
        test: File with the names of the photos to hold out, one a line.
        test_every: Every Nth photo is held out if neither that file nor the capture gives a list.
        calibration: The number of training photos to set aside to calibrate intervals on.
        device: "auto", "cpu" or "cuda".
        minutes: The time the training should take; None takes the steps of the plan.
        changes: Entries of the plan that differ from the preset.
        name: Of the capture, in place of its folder's.
    """

    preset: Preset | None = None
    seed: int | None = None
    downscale: int | None = None
    test: Path | None = None
    test_every: int | None = None
    calibration: int | None = None
    device: str | None = None
    minutes: float | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    name: str | None = None

    @property
    def selection(self) -> Selection:
        """Which photos to use."""
        every = 8 if self.test_every is None else self.test_every
        return Selection(self.downscale, self.test, every, self.calibration or 0)

    @property
    def given(self) -> list[str]:
        """The names of the options that were given."""
        own = [f.name for f in fields(self)[:-2] if getattr(self, f.name) is not None]
        changed = [name for name, value in self.changes.items() if value is not None]
        return own + ["antialiased" if name == "filter" else name for name in changed]


def open_capture(path: Path, selection: Selection) -> tuple[Capture, Selection]:
    """The capture, and the selection with every choice made; says what is to know of it.

    Without a `downscale` it is the smallest that brings the longer side down to `SIDE_WANTED`, and
    a file of test views becomes the names in it.
    """
    capture = selection.load(path)
    if selection.downscale is None:
        longest, downscale = longest_side(capture), automatic_downscale(capture)
        selection = replace(selection, downscale=downscale)
        if downscale > 1:
            capture = selection.load(path)
            notice(
                f"The photos are {longest} pixels along the longer side: made {downscale} times "
                "smaller (--downscale 1 keeps them as they are)"
            )
    for sentence in capture.notes:
        notice(sentence)
    if any(frame.mask is not None for frame in capture.frames):
        warn("The capture has masks, which are not used yet: what they hide is learned too")
    if not capture.test:
        warn("No views are held out, so the result will not be evaluated")
    if selection.test is not None:
        selection = replace(selection, test=[frame.name for frame in capture.test])
    return capture, selection


def automatic_downscale(capture: Capture) -> int:
    """How many times smaller its photos are to be made to fit `SIDE_WANTED`."""
    return max(1, math.ceil(longest_side(capture) / SIDE_WANTED))


def longest_side(capture: Capture) -> int:
    """Of all photos, in pixels."""
    return max((max(f.camera.width, f.camera.height) for f in capture.frames), default=1)


def inputs_of(capture: Capture, heed: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Hashes that tell whether two runs learned from the same, and what they are taken over.

    `heed` is called between photos, and ends it by what it raises.
    """
    frames, aside = capture.frames, len(capture.calibration)
    return {
        "cameras_sha256": _cameras_hash(capture),
        "cameras_hashed": "each frame's name, split and camera; the points and their colours",
        "photos_blake2b": _photos_hash(frames, heed),
        "photos_hashed": "each photo's name, its file's size, and the first and last MiB of it",
        "photos": len(frames),
        "photo_bytes": sum(frame.path.stat().st_size for frame in frames if frame.path),
        "train": len(capture.train),
        "test": len(capture.test),
        # Only where there are any: runs from before there were can go on.
        **({"calibration": aside} if aside else {}),
    }


def _cameras_hash(capture: Capture) -> str:
    """SHA-256 over all that a capture says of frames and points."""
    digest = hashlib.sha256()
    splits = {"train": capture.train, "test": capture.test, "calibration": capture.calibration}
    for split, frames in splits.items():
        for frame in frames:
            digest.update(repr((split, frame.name, *frame.camera.view)).encode("utf-8", "replace"))
    for tensor in (capture.points, capture.colors):
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _photos_hash(frames: Sequence[Frame], heed: Callable[[], None]) -> str:
    """BLAKE2b over the files of the photos that are used."""
    digest = hashlib.blake2b(digest_size=32)
    for frame in frames:
        heed()
        if frame.path is not None:
            size = frame.path.stat().st_size
            digest.update(repr((frame.name, size)).encode("utf-8", "replace"))
            with open(frame.path, "rb") as file:
                digest.update(file.read(HASHED_BYTES))
                file.seek(max(file.tell(), size - HASHED_BYTES))
                digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()
