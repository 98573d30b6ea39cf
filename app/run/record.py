"""The content of run.json, and the selection of photos that a run uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypedDict

import msgspec
from msgspec import Meta

from lumigraph.datasets import Capture, ImageCache, load_capture

FORMAT = "lumigraph run"
VERSION = 2
"""The version of the layout. In version 1 the scene was in the capture's frame."""

LOG = "metrics.jsonl"

RunState = Literal["running", "stopped", "finished"]

Amount = Annotated[float, Meta(ge=0, le=1e15)]
BOUNDS = Meta(ge=-(10**15), le=10**15)
OptionalNumber = Annotated[int, BOUNDS] | Annotated[float, BOUNDS] | None
"""A number, or null if it is not known."""


class Record(TypedDict, total=False):
    """The entries of run.json that commands rely on; others may be there too."""

    capture: Required[str]
    state: Required[RunState]
    asked: Required[dict[str, Any]]
    plan: Required[dict[str, Any]]
    versions: Required[dict[str, Any]]
    inputs: Required[dict[str, Any]]
    step: Amount
    steps: Amount
    seconds: Amount
    splats: Amount | None
    steps_per_second: Amount | None
    peak_memory_mb: Amount | None
    timings: dict[str, OptionalNumber]
    metrics: dict[str, OptionalNumber]


class AskedPhotos(msgspec.Struct):
    """The entries of `asked` in run.json that select photos."""

    downscale: Annotated[int, Meta(ge=1, le=1_000_000)]
    test_every: Annotated[int, Meta(ge=0, le=1_000_000)]
    test: list[str] | None = None
    calibration: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


@dataclass(frozen=True)
class Selection:
    """Which photos of a capture are used, and how.

    Attributes:
        downscale: Each side of a photo is divided by this; None leaves the choice to us.
        test: The names of the photos to hold out, or a file with one name a line.
        test_every: Every Nth photo is held out if neither `test` nor the capture gives a list; 0
            holds out none.
        calibration: The number of training photos to set aside to calibrate intervals on, or their
            names.
    """

    downscale: int | None = None
    test: Sequence[str] | Path | None = None
    test_every: int = 8
    calibration: int | Sequence[str] = 0

    def load(self, path: Path, cache: ImageCache | None = None) -> Capture:
        """The capture with this selection; `cache` as in `load_capture`."""
        return load_capture(
            path,
            downscale=self.downscale or 1,
            test=self.test,
            test_every=self.test_every,
            calibration=self.calibration,
            cache=cache,
        )
