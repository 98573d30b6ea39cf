"""What the pages' controls do: the form of the next run, the buttons, and files that are sent."""

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.viewer.client import IncomingFile
from lumigraph.app.viewer.controls import OPTIMIZERS, Control, page_controls, server_controls
from lumigraph.app.viewer.library import NOTHING_SAVED, STAMP, UNSAVED
from lumigraph.app.viewer.protocol import Scalar
from lumigraph.app.viewer.state import ViewerState
from lumigraph.app.viewer.uploads import IMAGES, Sitting
from lumigraph.recon import PRESETS


class Actions:
    """What the pages' controls do; any thread may call it.

    The form of the next run is the same on all pages.

    Attributes:
        changed: Called when the form has changed. The state reports its own changes.
    """

    def __init__(self, viewer: ViewerState, uploads: Path) -> None:
        """The actions on a state.

        Args:
            viewer: The state.
            uploads: The folder of files that pages send, in a new folder for each server; the
                state must be allowed to open it.
        """
        self._viewer, self._lock = viewer, threading.Lock()
        self._sitting = Sitting(uploads / datetime.now().strftime(STAMP))
        self._gathered = ""  # source of the capture that was last sent in parts
        self._told: dict[Path, str] = {}  # the last note on each capture that was sent in parts
        self._form: dict[str, Any] = {
            "source": "demo:small",
            "preset": "quick",
            "minutes": 0,
            "optimizer": "adam",
            "downscale": 0,
        }
        viewer.stopped = self.choose
        self.changed: Callable[[], None] = lambda: None

    def choose(self, source: str) -> None:
        """Chooses a source in the form."""
        with self._lock:
            self._form["source"] = source
        self.changed()

    def controls(self) -> list[Control]:
        """All controls with their present values."""
        with self._lock:
            form = dict(self._form)
        scene = self._viewer.scene()
        return [
            *server_controls(form, self._viewer.as_dict(), self._viewer.library.as_dicts()),
            *page_controls(confidence=scene is None or scene.uncertainty.confidence is not None),
        ]

    def do(self, id: str, value: Scalar) -> None:
        """Does what a control says; ValueError tells in a sentence why it cannot be done."""
        viewer, jobs = self._viewer, self._viewer.jobs
        buttons: dict[str, Callable[[], object]] = {
            "start": self._start,
            "rescan": viewer.rescan,
            "open": lambda: viewer.show(self._form["source"]),
            "follow": viewer.follow,
            "resume_run": lambda: viewer.resume_run(self._form["source"]),
            "pause": jobs.pause,
            "resume": jobs.resume,
            "stop": jobs.stop,
            "checkpoint": jobs.checkpoint,
        }
        if id in buttons:
            buttons[id]()
        elif id.startswith("cancel:"):
            jobs.cancel(id.removeprefix("cancel:"))
        elif id == "degree":
            if value not in ("0", "1", "2", "3"):
                raise ValueError("The SH degree must be 0, 1, 2 or 3")
            jobs.change(degree=int(str(value)))
        elif id == "splat_limit":
            self._limit(_whole("The splat limit", value))
        elif id == "ssim_weight":
            jobs.change(ssim_weight=value)
        else:
            self._fill(id, value)

    def _limit(self, limit: int) -> None:
        """Limits the splats of the running training; a note says so if there are more already."""
        jobs = self._viewer.jobs
        jobs.change(splat_limit=limit)
        splats = (jobs.job.numbers.get("splats") if jobs.job else None) or 0
        if limit < splats:
            self._viewer.note(
                "info",
                f"The scene has {splats:,} splats already, more than {limit:,}: no more are added, "
                "and none are removed",
            )

    def _start(self) -> None:
        """Queues a run of the chosen capture as the form says."""
        with self._lock:
            form = dict(self._form)
        optimizer = form["optimizer"]
        self._viewer.start(
            form["source"],
            TrainOptions(
                preset=form["preset"],
                downscale=form["downscale"] or None,
                minutes=(form["minutes"] or None) if optimizer == "adam" else None,
                changes={} if optimizer == "adam" else {"optimizer": optimizer},
            ),
        )
        if form["source"] == self._gathered:
            self._sitting.end_capture()

    def _fill(self, name: str, value: Scalar) -> None:
        """Sets a field of the form."""
        source = None
        if name == "source":
            sources = self._viewer.library.sources()
            source = next((each for each in sources if each.id == value), None)
            if source is None:
                raise ValueError(
                    "The chosen capture or run was not found: press Rescan, then choose"
                )
        elif name == "preset":
            if value not in PRESETS:
                raise ValueError(f"The preset must be one of {', '.join(PRESETS)}")
        elif name == "optimizer":
            if value not in OPTIMIZERS:
                raise ValueError(f"The optimizer must be one of {', '.join(OPTIMIZERS)}")
        elif name in self._form:
            field = next(c for c in server_controls(self._form, {}, ()) if c["id"] == name)
            value = _whole(field["label"], value, field["low"], field["high"])
        else:
            raise ValueError("The page has no such control: load the page again")
        with self._lock:
            self._form[name] = value
        self.changed()
        if source is not None and source.kind == UNSAVED:
            self._viewer.note("info", NOTHING_SAVED)

    # Files that pages send.

    def upload(self, name: str, size: int) -> IncomingFile:
        """A file of `size` bytes will come; ValueError or OSError says why it is refused."""
        upload = self._sitting.begin(name, size)
        return IncomingFile(
            upload.add, partial(self._received, upload.path), partial(self._sitting.drop, upload)
        )

    def _received(self, path: Path) -> None:
        """Handles a file that has come, by its kind."""
        match path.suffix.lower():
            case ".zip":
                self._unpack(path)
            case ".ply":
                self._show(path)
            case _:
                self._gather(self._sitting.capture_of(path))

    def _show(self, path: Path) -> None:
        """Shows and chooses the splats in a PLY file; a file that cannot be opened is deleted."""
        source = self._viewer.library.add(path).id
        try:
            self._viewer.show_now(source)
        except ValueError:
            self._sitting.remove(path)
            self._viewer.library.refresh()
            raise
        self.choose(source)

    def _unpack(self, path: Path) -> None:
        """Chooses the capture that is in a zip; a zip without cameras is deleted."""
        library = self._viewer.library
        unpacked = self._sitting.unpack(path)
        folder = unpacked.folder
        library.refresh()
        for place in [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]:
            with suppress(ValueError):
                self.choose(library.add(place).id)
                self._viewer.note("info", f"{path.name}: {unpacked.files} files, ready to start")
                return
        self._sitting.remove(folder)
        raise ValueError(
            f"{path.name} holds no cameras (a transforms.json or a COLMAP model) beside its "
            "photos: finding cameras from photos alone is not built yet"
        )

    def _gather(self, capture: Path) -> None:
        """Chooses a capture that is sent in parts once it has photos and cameras."""
        images = capture / IMAGES
        if not images.is_dir() or not any(images.iterdir()):
            return
        try:
            source = self._viewer.library.add(capture).id
            text = f"{capture.name} has photos and cameras: start it when all files have come"
        except ValueError:
            source = None
            text = (
                f"{capture.name} has photos and no cameras yet: send their transforms.json or "
                "COLMAP model (cameras, images and points3D) too, for finding cameras from photos "
                "alone is not built yet"
            )
        if self._told.get(capture) == text:
            return
        self._told[capture] = text
        if source is not None:
            self._gathered = source
            self.choose(source)
        self._viewer.note("info", text)


def _whole(name: str, value: Scalar, low: float = -math.inf, high: float = math.inf) -> int:
    """The value as a whole number in that range; ValueError if it is not one."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value != int(value)
        or not low <= value <= high
    ):
        limits = "" if low == -math.inf else f" from {low} to {high}"
        raise ValueError(f"{name} must be a whole number{limits}")
    return int(value)
