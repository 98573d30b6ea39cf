"""The events of a session, and the commands to it; neither side ever waits for the other."""

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
    """Time spent in training steps since step 0, also before the run was resumed."""
    tried: Try | None = None
    """The iteration of Levenberg-Marquardt that ended with this step."""


@dataclass(frozen=True)
class Probed:
    """The PSNR of some test views, during the training."""

    step: int
    psnr: float
    seconds: float


@dataclass(frozen=True)
class Changed:
    """An entry of the plan was changed after this step."""

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
    """Some of the test views are evaluated."""

    done: int
    views: int


@dataclass(frozen=True)
class Trouble:
    """Something went wrong, but the session continues; one sentence for the user."""

    message: str


@dataclass(frozen=True)
class Ended:
    """The last event."""

    state: Literal["finished", "stopped"]
    step: int


Event = StepDone | Probed | Changed | Saved | Scored | Trouble | Ended

QUEUE_SIZE = 64
"""Events that wait for a listener; if there are more, it misses the oldest."""


class Subscription:
    """A listener's queue of limited size: when it is full, the oldest event is dropped."""

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
        """Ends the queue: no event follows, and those in it can still be taken."""
        self._closed = True
        self._filled.set()

    def take(self, timeout: float | None = None) -> list[Event]:
        """All events in the queue, oldest first; waits up to `timeout` seconds for the first."""
        self._filled.wait(timeout)
        self._filled.clear()
        if self._closed:  # perhaps since the wait ended: no later call may wait
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
    """An object that receives the events of a channel."""

    def put(self, event: Event) -> None:
        """Receives an event; never waits."""

    def close(self) -> None:
        """Is called after the last event."""


class Channel:
    """Passes events on to any number of listeners."""

    def __init__(self) -> None:
        """A channel without listeners."""
        self._subscriptions: tuple[Listener, ...] = ()

    def subscribe(self, size: int = QUEUE_SIZE) -> Subscription:
        """A queue that receives every event from now on."""
        subscription = Subscription(size)
        self.attach(subscription)
        return subscription

    def attach(self, listener: Listener) -> None:
        """Passes every event from now on to the listener."""
        self._subscriptions = (*self._subscriptions, listener)

    def publish(self, event: Event) -> None:
        """Passes the event to every listener; never waits."""
        for subscription in self._subscriptions:
            subscription.put(event)

    def close(self) -> None:
        """Tells every listener that no event follows."""
        for subscription in self._subscriptions:
            subscription.close()


FitReader = Callable[[SplatFit], None]

POLL_SECONDS = 0.05
"""Seconds between two checks for commands while a training is paused."""


class TrainingControl:
    """Commands for a session, given from any thread or signal handler, read between steps.

    It has plain attributes and deques and no lock: a signal handler that took a lock would wait for
    ever for the thread that it interrupts.
    """

    def __init__(self) -> None:
        """No command is given yet."""
        self._stop = False
        self._pause = False
        self._checkpoint = False
        self._changes: deque[dict[str, Any]] = deque()
        self._looks: deque[FitReader] = deque()
        self._threads: int | None = None

    def pause(self) -> None:
        """Pauses the training after the current step."""
        self._pause = True

    def resume(self) -> None:
        """Continues a paused training."""
        self._pause = False

    def stop(self) -> None:
        """Ends the training after the current step, with a checkpoint."""
        self._stop = True

    def checkpoint(self) -> None:
        """Asks for a checkpoint after the current step."""
        self._checkpoint = True

    def change(self, **values: Any) -> None:
        """Changes entries of the plan after the current step; `LIVE` lists those that can change.

        Raises ValueError, and changes nothing, if a value is not allowed.
        """
        self._changes.append(checked_changes(values))

    def threads(self, count: int) -> None:
        """Sets the number of threads from the next step on, which does not change the result.

        Raises ValueError if the machine has fewer cores.
        """
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= cores():
            raise ValueError(
                f"The number of threads is {repr(count)[:40]}: take a whole number from 1 to "
                f"{cores()}, the cores of this machine"
            )
        self._threads = count

    def look(self, look: FitReader) -> None:
        """Calls `look` once with the fit, between two steps; `look` must change nothing."""
        self._looks.append(look)

    @property
    def paused(self) -> bool:
        """Whether the training is to pause."""
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
        """The functions given to `look` since the last call."""
        return [self._looks.popleft() for _ in range(len(self._looks))]

    def wait(self, seconds: float) -> None:
        """Waits for the time, or until `stop` is called."""
        end = time.monotonic() + seconds
        while not self._stop and time.monotonic() < end:
            time.sleep(min(POLL_SECONDS, seconds))
