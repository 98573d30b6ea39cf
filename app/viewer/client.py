"""A client of the stream: its latest requests, and what waits to be sent to it."""

import asyncio
import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumigraph.app.viewer.protocol import ClientCamera, DisplayOptions, Scalar
from lumigraph.app.viewer.scene import CurrentScene
from lumigraph.app.viewer.scheduling import ClientSchedule, FrameRequest

NOTES = 8
"""The most notes that wait for a client: it needs no more to know that something is wrong."""


@dataclass(frozen=True)
class IncomingFile:
    """A file that a client sends. Threads call the functions, never two at a time.

    Attributes:
        add: Takes the next piece; True if it was the last.
        finish: Handles the whole file, which may take minutes.
        drop: Deletes the file, unless it is whole: the rest will not come.

    `add` and `finish` raise ValueError or OSError with a text for the client.
    """

    add: Callable[[bytes], bool]
    finish: Callable[[], None]
    drop: Callable[[], None]


@dataclass(frozen=True)
class StreamCallbacks:
    """The functions that the stream calls, from any thread.

    Those that may take long, `photo`, `do` and `upload`, are never called on the event loop.

    Attributes:
        scene: The current scene, if there is one.
        want_scene: A client looks, so a training should hand over its scene if it has changed.
        state: What goes on, as JSON.
        frusta: The cameras of the capture, as a text of JSON.
        controls: The controls, as JSON.
        photo: The photo of a camera, None if there is none. uint8 [height, width, 3]
        do: Does what a control says; ValueError has a text for the client.
        upload: A file of this name and size will come; ValueError or OSError if it is refused.
    """

    scene: Callable[[], CurrentScene | None]
    want_scene: Callable[[], None]
    state: Callable[[], dict[str, Any]]
    frusta: Callable[[], str]
    controls: Callable[[], Sequence[dict[str, Any]]]
    photo: Callable[[int], Tensor | None]
    do: Callable[[str, Scalar], None]
    upload: Callable[[str, int], IncomingFile]


@dataclass(eq=False)
class Client:
    """What is known of a client; guarded by the renderer's lock.

    Attributes:
        loop: The event loop that serves it.
        schedule: Decides which pictures it gets.
        wake: Set when there may be something to send.
        camera: It looks through this one; None before it has said.
        camera_id: The client's own number of that camera.
        display: What it wants to see; None if it has not said.
        photo: The number of the camera that took the photo it wants.
        photo_pending: Whether a photo is being read or waits to be sent: the next one has to wait.
        photo_ready: The photo that waits to be sent.
        cursor: The place of its cursor, in parts of the picture's width and height.
        cursor_read: The place and picture that were read last under the cursor.
        cursor_time: When that was.
        cursor_ready: The numbers under the cursor that wait to be sent.
        frames: The number of frames that were sent.
        final: The final picture that is being made; `stop` gives it up.
        stop: One byte; 1 gives up the picture that is being made.
        out: Messages that wait to be sent.
        notes: Notes that wait to be sent, before those.
        sent_errors: The errors that it was sent.
        stale: Whether the state may have changed since it was sent.
        collecting: Whether the state is being collected for it.
        collected: Whether the state is collected, and is to be sent.
        said: The last message of each kind; of the state without its notes and curves.
        noted: The number of the last note of the state that it was sent.
        history: The curves that it was sent.
        dropped: The number of its messages that were dropped.
    """

    loop: asyncio.AbstractEventLoop
    schedule: ClientSchedule = field(default_factory=ClientSchedule)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    camera: ClientCamera | None = None
    camera_id: int = 0
    display: DisplayOptions | None = None
    photo: int | None = None
    photo_pending: bool = False
    photo_ready: bytes | None = None
    cursor: tuple[float, float] | None = None
    cursor_read: object = None
    cursor_time: float = -math.inf
    cursor_ready: str | None = None
    frames: int = 0
    final: FrameRequest | None = None
    stop: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.uint8))
    out: deque[str | bytes] = field(default_factory=deque)
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=NOTES))
    sent_errors: set[str] = field(default_factory=set)
    stale: bool = True
    collecting: bool = False
    collected: bool = False
    said: dict[str, str] = field(default_factory=dict)
    noted: int = 0
    history: dict[str, list[float]] | None = None
    dropped: int = 0

    def changed(self, kind: str, content: dict[str, Any]) -> list[str]:
        """The message with that content, if it differs from the last one of its kind."""
        return self.changed_text(kind, json.dumps({**content, "t": kind}))

    def changed_text(self, kind: str, message: str) -> list[str]:
        """The message, if it differs from the last one of its kind."""
        if self.said.get(kind) == message:
            return []
        self.said[kind] = message
        return [message]

    def wake_up(self) -> None:
        """Has its coroutine look for something to send; from any thread."""
        with suppress(RuntimeError):  # its loop has ended, and so will the coroutine
            self.loop.call_soon_threadsafe(self.wake.set)
