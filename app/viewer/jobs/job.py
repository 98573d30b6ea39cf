"""A training job as pages see it: its state, its numbers and its curves."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lumigraph.app.run.files import is_number
from lumigraph.app.run.metrics import read_log
from lumigraph.app.run.record import LOG
from lumigraph.app.training.rate import StepRate

JobState = Literal[
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
RUNNING = ("loading", "training", "paused", "evaluating")

POINTS = 500
"""The most points of a curve: a plot on a page has fewer pixels."""

SMOOTHING = 0.1
"""Weight of the newest loss in the one that is shown: each loss is of another photo."""


class Curve:
    """Values over seconds; every other point is dropped when there are more than `POINTS`."""

    def __init__(self) -> None:
        """A curve without points."""
        self._points: list[tuple[float, ...]] = []
        self._every, self._skipped = 1, 0

    def add(self, *point: float) -> None:
        """Adds seconds and values, unless the last point is too near."""
        self._skipped += 1
        if self._skipped >= self._every:
            self._skipped = 0
            self._points.append(point)
        if len(self._points) > POINTS:
            self._points, self._every = self._points[::2], 2 * self._every

    def columns(self, *names: str) -> dict[str, list[float]]:
        """The points as a list of numbers for each name."""
        return {name: [point[i] for point in self._points] for i, name in enumerate(names)}


@dataclass
class Job:
    """One training, from the queue to its end.

    Attributes:
        id: The id of the job.
        source: The id of the capture or run that it was started from.
        name: For people to read.
        what: "train" for a new run, "resume" for a run that was stopped.
        order: The order that the worker process gets.
        state: How far it is.
        sentence: The reason if it failed or was cancelled.
        plan: The plan of the fit, as it is now.
        folder: The run folder, once it exists.
        numbers: The numbers that a page shows.
        losses: The curve of seconds, loss and splats.
        scores: The curve of seconds and PSNR.
        pausing: Whether it pauses as soon as it trains.
    """

    id: str
    source: str
    name: str
    what: Literal["train", "resume"]
    order: dict[str, Any]
    state: JobState = "waiting"
    sentence: str = ""
    plan: dict[str, Any] = field(default_factory=dict)
    folder: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    losses: Curve = field(default_factory=Curve)
    scores: Curve = field(default_factory=Curve)
    pausing: bool = False
    _pace: StepRate = field(default_factory=StepRate)

    def summary(self) -> dict[str, Any]:
        """The job as it stands in the list of jobs."""
        return {
            "id": self.id,
            "source": self.source,
            "name": self.name,
            "what": self.what,
            "state": self.state,
            "sentence": self.sentence,
        }

    def details(self) -> dict[str, Any]:
        """The job with its plan and its numbers, as the current job is shown."""
        plan = {name: self.plan.get(name) for name in ("splat_limit", "degree", "ssim_weight")}
        plan = plan if self.plan else {}
        return {**self.summary(), "plan": plan, **self.numbers}

    def history(self) -> dict[str, list[float]]:
        """Its curves: loss and splats over `seconds`, PSNR over `psnr_seconds`."""
        return {
            **self.losses.columns("seconds", "loss", "splats"),
            **self.scores.columns("psnr_seconds", "psnr"),
        }

    def hear(self, message: dict[str, Any]) -> None:
        """Updates the job by a message of its worker process."""
        match message:
            case {"t": "loaded"}:
                self.plan, self.folder = message["plan"], message["folder"]
                self.order = {**self.order, "capture": message["capture"]}
                self.state = "paused" if self.pausing else "training"
                self._pace = StepRate(
                    message.get("views", 0)
                )  # each photo is decoded when it is first used
                self.numbers |= {"step": message["step"], "steps": message["steps"]}
                self._remember()
            case {"t": "progress"}:
                self._progress(message)
            case {"t": "probed"}:
                if is_number(message["psnr"]):  # null where the scene has diverged
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
        """Begins the curves with what the log of a resumed run holds."""
        entries: list[dict[str, Any]] = []
        with suppress(OSError):  # the curves begin here then
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
        if is_number(message["loss"]):  # null where the scene has diverged
            last = self.numbers.get("loss", message["loss"])
            self.numbers["loss"] = loss = last + SMOOTHING * (message["loss"] - last)
            self.losses.add(seconds, loss, message["splats"])
        if step == steps and not self.pausing:
            self.state = "evaluating"
