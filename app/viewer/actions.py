"""What the pages see of the desk: controls as data, the form of the next run, uploads."""

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.viewer.controls import OPTIMIZERS, Control, desk_controls, page_controls
from lumigraph.app.viewer.home import frusta_of, home_of
from lumigraph.app.viewer.library import STAMP, UNSAVED
from lumigraph.app.viewer.protocol import Scalar
from lumigraph.app.viewer.scene import Setting, Shown
from lumigraph.app.viewer.state import NOTHING_SAVED, Desk
from lumigraph.app.viewer.uploads import IMAGES, Sitting, Upload
from lumigraph.recon import PRESETS


class Board:
    """The desk as both pages draw it; any thread may call it.

    What is chosen for the next run is the same on all pages: two people who look at one desk see
    one form.
    """

    def __init__(self, desk: Desk, uploads: Path) -> None:
        """The board of a desk.

        Args:
            desk: Does the work.
            uploads: Where files go that pages send, in a new folder for each sitting; it must be
                in a folder that the desk may open.
        """
        self._desk, self._lock = desk, threading.Lock()
        stamp = datetime.now().strftime(STAMP)
        self._sitting = Sitting(uploads / stamp)
        self._gathered = ""  # source of the capture that was last sent in parts
        self._told: dict[Path, str] = {}  # what was said of each capture that was sent in parts
        self._form: dict[str, Any] = {
            "source": "demo:small",
            "preset": "quick",
            "minutes": 0,
            "optimizer": "adam",
            "downscale": 0,
        }
        self._drawn: tuple[Setting, dict[str, Any], list[dict[str, Any]]] | None = None
        desk.stopped = self.choose
        self.changed: Callable[[], None] = lambda: None
        """Called when the form is another one; what the desk itself changes it tells by itself."""

    def choose(self, source: str) -> None:
        """Has the form name a source."""
        with self._lock:
            self._form["source"] = source
        self.changed()

    def scene(self) -> Shown | None:
        """What is to be seen now."""
        return self._desk.scene()

    def want_scene(self) -> None:
        """Somebody looks."""
        self._desk.want_scene()

    def photo(self, index: int) -> Tensor | None:
        """The photo of a camera, see `Desk.photo`. uint8 [height, width, 3]"""
        return self._desk.photo(index)

    def state(self) -> dict[str, Any]:
        """What goes on, with where to look from at first."""
        state = self._desk.state()
        del state["version"]  # of every change, also of what is not in the rest
        shown = self._desk.scene()
        if shown is None or state["shown"] is None:
            return {**state, "shown": None}
        home, _ = self._around(shown)
        return {**state, "shown": {**state["shown"], "home": home}}

    def cameras(self) -> Sequence[dict[str, Any]]:
        """Those of the capture, as plain data."""
        shown = self._desk.scene()
        return [] if shown is None else self._around(shown)[1]

    def controls(self) -> list[Control]:
        """All controls as they are now."""
        with self._lock:
            form = dict(self._form)
        shown = self._desk.scene()
        return [
            *desk_controls(form, self._desk.state(), self._desk.sources()),
            *page_controls(confidence=shown is None or shown.trust.confidence is not None),
        ]

    def do(self, id: str, value: Scalar) -> None:
        """A control was used; ValueError says in a sentence why nothing came of it."""
        desk = self._desk
        actions: dict[str, Callable[[], object]] = {
            "start": self._start,
            "refresh": desk.look_again,
            "open": lambda: desk.show(self._form["source"]),
            "follow": desk.follow,
            "go_on": lambda: desk.go_on(self._form["source"]),
            "pause": desk.pause,
            "resume": desk.resume,
            "stop": desk.stop,
            "checkpoint": desk.checkpoint,
        }
        if id in actions:
            actions[id]()
        elif id.startswith("cancel:"):
            desk.cancel(id.removeprefix("cancel:"))
        elif id == "degree":
            if value not in ("0", "1", "2", "3"):
                raise ValueError("The degree of the harmonics is 0, 1, 2 or 3")
            desk.change(degree=int(str(value)))
        elif id == "splat_limit":
            self._limit(_whole("The limit of splats", value))
        elif id == "ssim_weight":
            desk.change(ssim_weight=value)
        else:
            self._fill(id, value)

    def _limit(self, most: int) -> None:
        """Bounds the splats of the training in work, and says what that does if there are more."""
        self._desk.change(splat_limit=most)
        splats = (self._desk.state()["current"] or {}).get("splats") or 0
        if most < splats:
            self._desk.note(
                "info",
                f"There are {splats:,} splats already, more than {most:,}: none are added from "
                "here on, and those there are stay",
            )

    def upload(self, name: str, size: int) -> "Incoming":
        """A file of so many bytes is to come; ValueError or OSError says why it is not taken."""
        return Incoming(self._sitting, self._sitting.begin(name, size), self._received)

    def _received(self, path: Path) -> None:
        """A file has come: what it is decides what becomes of it."""
        if path.suffix.lower() == ".zip":
            self._unpack(path)
        elif path.suffix.lower() == ".ply":
            self._show(path)
        else:
            self._gather(self._sitting.capture_of(path))

    def _show(self, path: Path) -> None:
        """Shows and chooses the splats in a PLY; one that cannot be opened is not kept."""
        source = self._desk.source_at(path)
        try:
            self._desk.show_now(source)
        except ValueError:
            self._sitting.remove(path)
            self._desk.refresh()
            raise
        self.choose(source)

    def _unpack(self, path: Path) -> None:
        """Chooses the capture that is in a zip; nothing of one without cameras is kept."""
        desk = self._desk
        unpacked = self._sitting.unpack(path)
        folder = unpacked.folder
        desk.refresh()
        for place in [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]:
            with suppress(ValueError):
                self.choose(desk.source_at(place))
                desk.note("info", f"{path.name}: {unpacked.files} files, ready to start")
                return
        self._sitting.remove(folder)
        raise ValueError(
            f"{path.name} holds no cameras (a transforms.json or a COLMAP model) beside its "
            "photos: finding them from photos alone is not built yet"
        )

    def _gather(self, capture: Path) -> None:
        """Chooses a capture that is sent in parts once it has photos and cameras; says so once."""
        images = capture / IMAGES
        if not images.is_dir() or not any(images.iterdir()):
            return
        try:
            source = self._desk.source_at(capture)
            told = f"{capture.name} has photos and cameras: start it when all have come"
        except ValueError:
            source = None
            told = (
                f"{capture.name} has photos and no cameras yet: send their transforms.json or "
                "COLMAP model (cameras, images and points3D) too, for finding cameras from photos "
                "alone is not built yet"
            )
        if self._told.get(capture) == told:
            return
        self._told[capture] = told
        if source is not None:
            self._gathered = source
            self.choose(source)
        self._desk.note("info", told)

    def _start(self) -> None:
        with self._lock:
            form = dict(self._form)
        optimizer = form["optimizer"]
        self._desk.start(
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
        if name == "source":
            if value not in {source["id"] for source in self._desk.sources()}:
                raise ValueError("That is not to be found here any more: choose again")
        elif name == "preset":
            if value not in PRESETS:
                raise ValueError(f"The preset is one of {', '.join(PRESETS)}")
        elif name == "optimizer":
            if value not in OPTIMIZERS:
                raise ValueError(f"The optimizer is one of {', '.join(OPTIMIZERS)}")
        elif name in self._form:
            field = next(c for c in desk_controls(self._form, {}, ()) if c["id"] == name)
            value = _whole(field["label"], value, field["low"], field["high"])
        else:
            raise ValueError("There is no such control")
        with self._lock:
            self._form[name] = value
        self.changed()
        chosen = [s for s in self._desk.sources() if s["id"] == value]
        if name == "source" and chosen[0]["kind"] == UNSAVED:
            self._desk.note("info", NOTHING_SAVED)

    def _around(self, shown: Shown) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The first view and the cameras, computed once for a setting."""
        with self._lock:
            drawn = self._drawn
        if drawn is None or drawn[0] is not shown.setting:
            cameras = [shot.camera for shot in shown.cameras]
            home = home_of(shown.scene, cameras, shown.up)
            drawn = (shown.setting, home, frusta_of(shown.cameras))
            with self._lock:
                self._drawn = drawn
        return drawn[1], drawn[2]


class Incoming:
    """An upload, and what is done when it is whole."""

    def __init__(self, sitting: Sitting, upload: Upload, received: Callable[[Path], None]) -> None:
        """Nothing has come yet."""
        self._sitting, self._upload, self._received = sitting, upload, received

    def add(self, data: bytes) -> bool:
        """Takes the next piece; True if it was the last."""
        return self._upload.add(data)

    def finish(self) -> None:
        """Does what is to follow when all of it has come."""
        self._received(self._upload.path)

    def drop(self) -> None:
        """Forgets it, unless it is whole."""
        self._sitting.drop(self._upload)


def _whole(name: str, value: Scalar, low: float = -math.inf, high: float = math.inf) -> int:
    """The value as a whole number in that range; ValueError if it is none."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value != int(value)
        or not low <= value <= high
    ):
        limits = "" if low == -math.inf else f" from {low} to {high}"
        raise ValueError(f"{name} is a whole number{limits}")
    return int(value)
