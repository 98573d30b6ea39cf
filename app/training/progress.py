"""The progress of a session, drawn on the terminal from its events."""

import threading
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.text import Text

from lumigraph.app.console import duration, say, warn
from lumigraph.app.training.events import (
    Ended,
    Event,
    Saved,
    Scored,
    StepDone,
    Subscription,
    Trouble,
)
from lumigraph.app.training.rate import StepRate
from lumigraph.datasets.files import printable
from lumigraph.recon import Try

REDRAW_SECONDS = 0.25
"""Seconds between two drawings, each of which takes milliseconds from the training."""

PLAIN_LINES = 10
"""Lines over a whole training, if the output is no terminal."""


class _Left(ProgressColumn):
    """The time that is left."""

    def render(self, task: Any) -> Text:
        return Text(duration(task.fields["left"]) + " left" if task.fields["left"] else "")


class Drawing:
    """Draws the events of a subscription on standard error, in a thread of its own.

    On a terminal it draws a bar, elsewhere it prints a few plain lines.
    """

    def __init__(self, events: Subscription) -> None:
        """Starts drawing at once."""
        self._events = events
        self._console = Console(stderr=True)
        self._draw = self._bar if self._console.is_terminal else self._lines
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Waits until the last event is drawn, but not for a terminal that hangs."""
        self._thread.join(timeout=2)

    def _bar(self) -> None:
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[facts]}"),
            _Left(),
            console=self._console,
            auto_refresh=False,
        )
        pace = StepRate()
        with bar:
            training = bar.add_task("Training", total=None, facts="", left=None)
            scoring = bar.add_task("Evaluating", total=None, facts="", left=None, visible=False)
            ended = False
            while not ended:
                batch = self._events.take(timeout=REDRAW_SECONDS)
                for event in batch:
                    _update(bar, training, scoring, event, pace)
                    ended = ended or isinstance(event, Ended)
                bar.refresh()
                # Events come faster than people can read, so let some gather.
                threading.Event().wait(0 if ended else REDRAW_SECONDS)

    def _lines(self) -> None:
        due = 0
        for event in self._events:
            match event:
                case StepDone() if event.step >= due or event.step == event.steps:
                    due = event.step - event.step % (spacing := _spacing(event.steps)) + spacing
                    rate = event.step / event.seconds if event.seconds > 0 else 0.0
                    say(
                        f"step {event.step}/{event.steps}  loss {event.loss:.4f}  "
                        f"{event.splats} splats  {rate:.1f} steps/s"
                    )
                case Trouble():
                    warn(event.message)
                case _:
                    pass
            if isinstance(event, StepDone) and event.tried and _is_told(event.tried):
                say(iteration_line(event.tried))


def _is_told(tried: Try) -> bool:
    """Whether to print it: every tenth of many iterations, and refused ones; the report has all."""
    return tried.number <= PLAIN_LINES or tried.number % 10 == 0 or not tried.accepted


def iteration_line(tried: Try) -> str:
    """An iteration of Levenberg-Marquardt as one line."""
    return (
        f"iteration {tried.number}: cost {tried.before:.4g} -> {tried.tried:.4g}, "
        f"{'taken' if tried.accepted else 'refused'}, gain {tried.gain:.2f}, damping "
        f"{tried.damping:.4g}, {tried.products} products, step {tried.length:.2f}, "
        f"{tried.seconds:.1f} s"
    )


def _spacing(steps: int) -> int:
    return max(1, steps // PLAIN_LINES)


def _update(bar: Progress, training: TaskID, scoring: TaskID, event: Event, pace: StepRate) -> None:
    """Brings the bars up to an event."""
    match event:
        case StepDone():
            pace.add(event.step, event.steps, event.seconds)
            rate = pace.rate or 0.0
            facts = f"loss {event.loss:.4f}  {event.splats:,} splats  {rate:.1f} steps/s"
            done: dict[str, Any] = {"completed": event.step, "facts": facts, "left": pace.left}
            bar.update(training, total=event.steps, **done)
            if event.tried and _is_told(event.tried):
                bar.console.print(iteration_line(event.tried), highlight=False, markup=False)
        case Scored():
            bar.update(
                scoring, total=event.views, completed=event.done, facts="test views", visible=True
            )
        case Saved():
            bar.refresh()
            bar.console.print(f"Checkpoint of step {event.step}", highlight=False, markup=False)
        case Trouble():
            text = Text(f"Warning: {printable(event.message)}", style="yellow")
            bar.console.print(text, soft_wrap=True)
        case _:
            pass
