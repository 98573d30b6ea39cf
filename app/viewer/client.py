"""What is known of a client of the stream: its wishes, and what waits to be sent to it."""

import asyncio
import json
import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumigraph.app.viewer.picture import Look
from lumigraph.app.viewer.protocol import View
from lumigraph.app.viewer.scheduling import Order, Pace

NOTES = 8
"""That wait for a client at most; it needs no more to know that something is wrong."""


@dataclass(eq=False)
class Client:
    """What is known of a client; guarded by the painter's lock.

    Attributes:
        loop: That serves it.
        wake: Set when there may be something to send.
        pace: Decides what it gets.
        view: It looks through; None before it has said.
        view_id: Its own number for that.
        look: What it wants to see; None if it has not said.
        photo: Number of the camera whose photo it wants.
        photo_waits: One is being read or waits to be sent: the next one is not begun.
        photo_read: It waits to be sent.
        place: Whose numbers it wants, in parts of the picture's width and height.
        probed: What they were last read of, in this view.
        probe_at: When that was.
        probe_read: They wait to be sent.
        frames: That were sent.
        final: The final picture in work, which `stop` gives up.
        stop: One byte.
        out: Waits to be sent.
        notes: Wait to be sent, before that.
        told: Errors it knows of.
        news: The source may have changed since it was told.
        said: The last message of each kind; of the state without its notes and curves.
        noted: The last of the desk's notes that it was sent.
        history: The curves that it was sent.
        cameras: That it was sent.
        dropped: Messages that were no wishes.
    """

    loop: asyncio.AbstractEventLoop
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    pace: Pace = field(default_factory=Pace)
    view: View | None = None
    view_id: int = 0
    look: Look | None = None
    photo: int | None = None
    photo_waits: bool = False
    photo_read: bytes | None = None
    place: tuple[float, float] | None = None
    probed: object = None
    probe_at: float = -math.inf
    probe_read: str | None = None
    frames: int = 0
    final: Order | None = None
    stop: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.uint8))
    out: deque[str | bytes] = field(default_factory=deque)
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=NOTES))
    told: set[str] = field(default_factory=set)
    news: bool = True
    said: dict[str, str] = field(default_factory=dict)
    noted: int = 0
    history: dict[str, list[float]] | None = None
    cameras: object = None
    dropped: int = 0

    def saying(self, kind: str, content: dict[str, Any]) -> list[str]:
        """The message with that content, if it is another one than the last of its kind."""
        message = json.dumps({**content, "t": kind})
        if self.said.get(kind) == message:
            return []
        self.said[kind] = message
        return [message]

    def stir(self) -> None:
        """Has its coroutine look for what is to be sent; from any thread."""
        with suppress(RuntimeError):  # its loop has ended, and so will it
            self.loop.call_soon_threadsafe(self.wake.set)
