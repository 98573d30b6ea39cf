"""Events out of a session and commands into it; neither side ever waits for the other."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lumigraph.app.machine import cores
from lumigraph.recon import SplatFit, Try, checked_changes


@dataclass(frozen=True)
class StepDone:
    """A training step is done."""

    step: int
    steps: int
    loss: float
    splats: int
    degree: int
    seconds: float
    """Spent in training steps since step 0, earlier sittings included."""
    tried: Try | None = None
    """What the iteration of Levenberg-Marquardt came to that the step was, or ended."""


@dataclass(frozen=True)
class Probed:
    """Some of the test views were rendered on the way."""

    step: int
    psnr: float
    seconds: float


@dataclass(frozen=True)
class Changed:
    """An entry of the plan is another one after this step."""

    step: int
    name: str
    before: int | float
    now: int | float


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on the disk."""

    step: int
    path: str


@dataclass(frozen=True)
class Scored:
    """So many test views of all are evaluated."""

    done: int
    views: int


@dataclass(frozen=True)
class Trouble:
    """Something went wrong that the session can live with; one sentence for the user."""

    message: str


@dataclass(frozen=True)
class Ended:
    """The last event."""

    state: Literal["finished", "stopped"]
    step: int


Event = StepDone | Probed | Changed | Saved | Scored | Trouble | Ended

QUEUE_SIZE = 64
"""Events a listener may lag behind before it misses the oldest."""


class Subscription:
    """One listener's queue: bounded, and the oldest event gives way to the newest."""

    def __init__(self, size: int = QUEUE_SIZE) -> None:
        """A queue for `size` events."""
        self._events: deque[Event] = deque(maxlen=size)
        self._filled = threading.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        """Adds an event; never waits."""
        self._events.append(event)
        self._filled.set()

    def close(self) -> None:
        """Says that no event will follow; those in the queue can still be taken."""
        self._closed = True
        self._filled.set()

    def take(self, timeout: float | None = None) -> list[Event]:
        """All events in the queue, oldest first; waits up to `timeout` seconds for the first."""
        self._filled.wait(timeout)
        self._filled.clear()
        if self._closed:  # perhaps since the wait ended: nobody is to wait again
            self._filled.set()
        taken = []
        while self._events:
            taken.append(self._events.popleft())
        return taken

    def __iter__(self) -> Iterator[Event]:
        """Events as they come, until the session ends."""
        while not self._closed or self._events:
            yield from self.take()


class Listener(Protocol):
    """What a channel hands its events to."""

    def put(self, event: Event) -> None:
        """Takes an event; never waits."""

    def close(self) -> None:
        """Hears that no event will follow."""


class Channel:
    """Republishes events to any number of listeners."""

    def __init__(self) -> None:
        """A channel nobody listens to yet."""
        self._subscriptions: tuple[Listener, ...] = ()

    def subscribe(self, size: int = QUEUE_SIZE) -> Subscription:
        """A queue that gets every event from now on."""
        subscription = Subscription(size)
        self.attach(subscription)
        return subscription

    def attach(self, listener: Listener) -> None:
        """Lets a listener with a queue of its own kind have every event from now on."""
        self._subscriptions = (*self._subscriptions, listener)

    def publish(self, event: Event) -> None:
        """Hands the event to every listener's queue; never waits."""
        for subscription in self._subscriptions:
            subscription.put(event)

    def close(self) -> None:
        """Says to every listener that no event will follow."""
        for subscription in self._subscriptions:
            subscription.close()


FitReader = Callable[[SplatFit], None]

POLL_SECONDS = 0.05
"""Between two looks at the commands while a training holds."""


class TrainingControl:
    """Commands for a session, given from any thread or signal handler, read between steps.

    Plain attributes and deques: a signal handler that took a lock would wait for ever for the very
    thread that it interrupts.
    """

    def __init__(self) -> None:
        """No command given."""
        self._stop = False
        self._pause = False
        self._checkpoint = False
        self._changes: deque[dict[str, Any]] = deque()
        self._looks: deque[FitReader] = deque()
        self._threads: int | None = None

    def pause(self) -> None:
        """Holds the training after the step it is in."""
        self._pause = True

    def resume(self) -> None:
        """Lets a paused training go on."""
        self._pause = False

    def stop(self) -> None:
        """Ends the training after the step it is in, with a checkpoint."""
        self._stop = True

    def checkpoint(self) -> None:
        """Asks for a checkpoint after the step the training is in."""
        self._checkpoint = True

    def change(self, **values: Any) -> None:
        """Changes entries of the plan after the step the training is in; `LIVE` names which.

        Raises ValueError, and changes nothing, if one cannot be that.
        """
        self._changes.append(checked_changes(values))

    def threads(self, count: int) -> None:
        """Lets the training use so many threads from the next step on; its result is the same.

        Raises ValueError if the machine has fewer cores.
        """
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= cores():
            raise ValueError(
                f"{repr(count)[:40]} threads cannot be: take a whole number from 1 to {cores()}, "
                "the cores there are"
            )
        self._threads = count

    def look(self, look: FitReader) -> None:
        """Has `look` called once with the fit, between two steps; it is to change nothing."""
        self._looks.append(look)

    @property
    def paused(self) -> bool:
        """Whether the training is to hold."""
        return self._pause

    @property
    def stopped(self) -> bool:
        """Whether the training is to end."""
        return self._stop

    def take_checkpoint(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        asked, self._checkpoint = self._checkpoint, False
        return asked

    def take_changes(self) -> dict[str, Any]:
        """The entries of the plan to change since the last call, the latest value of each."""
        values: dict[str, Any] = {}
        while self._changes:
            values |= self._changes.popleft()
        return values

    def take_threads(self) -> int | None:
        """The number of threads asked for since the last call."""
        asked, self._threads = self._threads, None
        return asked

    def take_looks(self) -> list[FitReader]:
        """Who asked to look since the last call."""
        return [self._looks.popleft() for _ in range(len(self._looks))]

    def wait(self, seconds: float) -> None:
        """Returns after so many seconds, or soon when told to stop."""
        end = time.monotonic() + seconds
        while not self._stop and time.monotonic() < end:
            time.sleep(min(POLL_SECONDS, seconds))
