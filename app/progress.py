"""How far a session is, drawn on the terminal from its events."""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lumigraph.app.channel import Ended, Event, Saved, Scored, Subscription, Trouble
from lumigraph.app.channel import Progress as Step

REDRAW_SECONDS = 0.25
"""Between two drawings: each takes milliseconds that the training could use."""

PLAIN_LINES = 10
"""Over a whole training, where the output is no terminal."""

RATE_STEPS = 200
"""The rate and the time left are measured over as many last events."""


class _Left(ProgressColumn):
    """The time left, or what it took."""

    def render(self, task: Any) -> Text:
        return Text(duration(task.fields["left"]) + " left" if task.fields["left"] else "")


def duration(seconds: float) -> str:
    """Seconds as people say them: 4.5 s, 45 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Drawing:
    """Draws the events of a subscription in a thread of its own, on standard error.

    A bar on a terminal, else a plain line now and then.
    """

    def __init__(self, events: Subscription) -> None:
        """Starts drawing at once."""
        self._events = events
        self._console = Console(stderr=True)
        self._draw = self._bar if self._console.is_terminal else self._lines
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Waits until the last event is drawn; a terminal that hangs is left."""
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
        recent: deque[tuple[float, int]] = deque(maxlen=RATE_STEPS)
        with bar:
            training = bar.add_task("Training", total=None, facts="", left=None)
            scoring = bar.add_task("Evaluating", total=None, facts="", left=None, visible=False)
            ended = False
            while not ended:
                batch = self._events.take(timeout=REDRAW_SECONDS)
                for event in batch:
                    _update(bar, training, scoring, event, recent)
                    ended = ended or isinstance(event, Ended)
                bar.refresh()
                # Events come faster than anyone can read: let them gather.
                threading.Event().wait(0 if ended else REDRAW_SECONDS)

    def _lines(self) -> None:
        due = 0
        for event in self._events:
            match event:
                case Step() if event.step >= due or event.step == event.steps:
                    due = event.step - event.step % (spacing := _spacing(event.steps)) + spacing
                    rate = event.step / event.seconds if event.seconds > 0 else 0.0
                    _say(
                        f"step {event.step}/{event.steps}  loss {event.loss:.4f}  "
                        f"{event.splats} splats  {rate:.1f} steps/s"
                    )
                case Trouble():
                    _say(f"Warning: {event.message}")
                case _:
                    pass


@contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """Draws how much of some work is done, with the time left, on standard error.

    What it gives is told what is being done, how much of it is done, and of how much. Where the
    output is no terminal each kind of work is said once.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    quiet = not console.is_terminal
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=quiet) as bar:

        def told(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=of)
                if quiet:
                    _say(what)
            bar.update(tasks[what], completed=done)

        yield told


def _spacing(steps: int) -> int:
    return max(1, steps // PLAIN_LINES)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _update(
    bar: Progress, training: TaskID, scoring: TaskID, event: Event, recent: deque[tuple[float, int]]
) -> None:
    """Brings the bars up to an event."""
    match event:
        case Step():
            recent.append((event.seconds, event.step))
            rate = _rate(recent)
            left = (event.steps - event.step) / rate if rate else None
            facts = f"loss {event.loss:.4f}  {event.splats:,} splats  {rate:.1f} steps/s"
            bar.update(training, total=event.steps, completed=event.step, facts=facts, left=left)
        case Scored():
            bar.update(
                scoring, total=event.views, completed=event.done, facts="test views", visible=True
            )
        case Saved():
            bar.refresh()
            bar.console.print(f"Checkpoint of step {event.step}", highlight=False, markup=False)
        case Trouble():
            bar.console.print(f"Warning: {event.message}", style="yellow", markup=False)
        case Ended():
            pass


def _rate(recent: deque[tuple[float, int]]) -> float:
    """Steps per second between the first and the last of these."""
    (start, first), (end, last) = recent[0], recent[-1]
    return (last - first) / (end - start) if end > start else 0.0
