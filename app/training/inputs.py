"""What a run is trained with: its options, the capture at a size that fits, and its hashes."""

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
"""The most pixels along the longer side, unless --downscale is given. 3DGS trains on this size, and
photos of a dozen megapixels would take a laptop's memory, and all night."""

HASHED_BYTES = 1 << 20
"""Bytes from each end of a photo's file. Most files are no larger than both ends, to read thousands
of large files takes minutes, and no usual edit keeps a file's size and both its ends."""


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
    """The capture, and the selection with our choices in it; prints notes on both.

    Without a `downscale` the selection gets the smallest one that brings the longer side down to
    `SIDE_WANTED`. The names in a file of test views take the place of the file.
    """
    capture = selection.load(path)
    if selection.downscale is None:
        longest, downscale = longest_side(capture), automatic_downscale(capture)
        selection = replace(selection, downscale=downscale)
        if downscale > 1:
            capture = selection.load(path)
            notice(
                f"The longer side of the photos has {longest} pixels, so their sides are divided "
                f"by {downscale} (--downscale 1 keeps their size)"
            )
    for sentence in capture.notes:
        notice(sentence)
    if any(frame.mask is not None for frame in capture.frames):
        warn("The capture has masks, which are not used yet: the scene will show what they hide")
    if not capture.test:
        warn("No photos are held out, so the result will not be evaluated")
    if selection.test is not None:
        selection = replace(selection, test=[frame.name for frame in capture.test])
    return capture, selection


def automatic_downscale(capture: Capture) -> int:
    """The smallest divisor of the photos' sides that brings them down to `SIDE_WANTED`."""
    return max(1, math.ceil(longest_side(capture) / SIDE_WANTED))


def longest_side(capture: Capture) -> int:
    """The longest side of all photos, in pixels."""
    return max((max(f.camera.width, f.camera.height) for f in capture.frames), default=1)


def inputs_of(capture: Capture, heed: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Hashes that tell whether two runs are trained on the same capture, and what they cover.

    `heed` is called between photos, and can end this by an exception.
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
        # Only if there are some, so that runs of earlier versions can be resumed.
        **({"calibration": aside} if aside else {}),
    }


def _cameras_hash(capture: Capture) -> str:
    """SHA-256 over the frames and points of a capture."""
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
    """BLAKE2b over the files of the photos."""
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
