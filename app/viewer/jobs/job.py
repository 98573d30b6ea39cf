"""A training as the page knows it: its state and its numbers, kept up to date by its messages."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lumigraph.app.run.files import is_number
from lumigraph.app.run.metrics import read_log
from lumigraph.app.run.record import LOG
from lumigraph.app.training.progress import StepRate

State = Literal[
    "waiting",
    "loading",
    "training",
    "paused",
    "evaluating",
    "finished",
    "stopped",
    "failed",
]

OVER = ("finished", "stopped", "failed")

POINTS = 500
"""Of a curve: more than a plot on a page has pixels for, in a few kilobytes."""

SMOOTHING = 0.1
"""Weight of the newest loss in the one that is shown: each is of another photo, and they differ."""


class Curve:
    """Values over seconds: at most `POINTS`, every other one dropped when there are more."""

    def __init__(self) -> None:
        """No point yet."""
        self._points: list[tuple[float, ...]] = []
        self._every, self._skipped = 1, 0

    def add(self, *point: float) -> None:
        """Adds seconds and values, unless the points are far enough apart without."""
        self._skipped += 1
        if self._skipped >= self._every:
            self._skipped = 0
            self._points.append(point)
        if len(self._points) > POINTS:
            self._points, self._every = self._points[::2], 2 * self._every

    def columns(self, *names: str) -> dict[str, list[float]]:
        """The points, with their columns named."""
        return {name: [point[i] for point in self._points] for i, name in enumerate(names)}


@dataclass
class Job:
    """One training, from the queue to its end.

    Attributes:
        id: Of the job.
        source: Id of what it was started from.
        name: To show to people.
        what: "train" for a new run, "resume" for one that goes on.
        order: What the trainer is told.
        state: Where it is.
        sentence: Why it failed or was never begun.
        plan: The fit's, as it is now.
        folder: Of its run, once there is one.
        numbers: What a page shows of it.
        losses: Seconds, loss and splats.
        scores: Seconds and PSNR.
        pausing: Whether it is to hold as soon as it trains.
    """

    id: str
    source: str
    name: str
    what: Literal["train", "resume"]
    order: dict[str, Any]
    state: State = "waiting"
    sentence: str = ""
    plan: dict[str, Any] = field(default_factory=dict)
    folder: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    losses: Curve = field(default_factory=Curve)
    scores: Curve = field(default_factory=Curve)
    pausing: bool = False
    _pace: StepRate = field(default_factory=StepRate)

    def plain(self) -> dict[str, Any]:
        """What the list of jobs says of it."""
        return {
            "id": self.id,
            "source": self.source,
            "name": self.name,
            "what": self.what,
            "state": self.state,
            "sentence": self.sentence,
        }

    def facts(self) -> dict[str, Any]:
        """All that is known of it, as the job in work."""
        plan = {name: self.plan.get(name) for name in ("splat_limit", "degree", "ssim_weight")}
        plan = plan if self.plan else {}
        return {**self.plain(), "plan": plan, **self.numbers}

    def history(self) -> dict[str, list[float]]:
        """Its curves: loss and splats over `seconds`, PSNR over `psnr_seconds`."""
        return {
            **self.losses.columns("seconds", "loss", "splats"),
            **self.scores.columns("psnr_seconds", "psnr"),
        }

    def hear(self, message: dict[str, Any]) -> None:
        """Brings it up to a message of its trainer."""
        match message:
            case {"t": "loaded"}:
                self.plan, self.folder = message["plan"], message["folder"]
                self.order = {**self.order, "capture": message["capture"]}
                self.state = "paused" if self.pausing else "training"
                # Each photo is decoded when it is first seen.
                self._pace = StepRate(message.get("views", 0))
                self.numbers |= {"step": message["step"], "steps": message["steps"]}
                self._remember()
            case {"t": "progress"}:
                self._progress(message)
            case {"t": "probed"}:
                if is_number(message["psnr"]):  # null: of a scene that has gone astray
                    self.numbers["psnr"] = message["psnr"]
                    self.scores.add(message["seconds"], message["psnr"])
            case {"t": "changed"}:
                self.plan[message["name"]] = message["now"]
            case {"t": "scored"}:
                self.state = "evaluating"
                self.numbers |= {"scored": message["done"], "views": message["views"]}
            case {"t": "failed"}:
                self.state, self.sentence = "failed", message["sentence"]
            case {"t": "result"}:
                self.state = message["state"]
                scores = {name: message[name] for name in ("psnr", "ssim")}
                self.numbers |= {name: score for name, score in scores.items() if score is not None}

    def _remember(self) -> None:
        """Begins the curves of a run that goes on with what was noted of it before."""
        entries: list[dict[str, Any]] = []
        with suppress(OSError):  # its curves begin here then
            entries = read_log(Path(self.folder) / LOG)
        for entry in entries:
            seconds, loss, splats, psnr = (
                entry.get(name) for name in ("seconds", "loss", "splats", "psnr")
            )
            if is_number(seconds) and is_number(loss) and is_number(splats):
                self.losses.add(seconds, loss, splats)
            if is_number(seconds) and is_number(psnr):
                self.scores.add(seconds, psnr)

    def _progress(self, message: dict[str, Any]) -> None:
        step, steps, seconds = message["step"], message["steps"], message["seconds"]
        self._pace.add(step, steps, seconds)
        self.numbers |= {
            "step": step,
            "steps": steps,
            "splats": message["splats"],
            "degree": message["degree"],
            "seconds": seconds,
            "steps_per_second": self._pace.rate,
            "seconds_left": self._pace.left,
        }
        if is_number(message["loss"]):  # null: of a scene that has gone astray
            last = self.numbers.get("loss", message["loss"])
            self.numbers["loss"] = loss = last + SMOOTHING * (message["loss"] - last)
            self.losses.add(seconds, loss, message["splats"])
        if step == steps and not self.pausing:
            self.state = "evaluating"
