"""What may come through a socket, and how fast: limits on size and rate, before anybody reads.

`StreamSocket` is what our own protocol is spoken through, `ViserSocket` what viser is handed in
place of the connection.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from lumigraph.app.viewer.gate import Role
from lumigraph.app.viewer.messages import checked

RATE, BURST = 500.0, 1000.0
"""Messages per second, and at once. A page on the fastest screens sends 300 a second while its
camera moves and every frame is acknowledged.
"""

TEXT_LIMIT = 64 << 10
"""Characters, or bytes, of a message other than a piece of a file; a camera has 400."""

PIECE_LIMIT = 1 << 20
"""Bytes of a piece of a file. websockets itself ends a connection over a longer message, with close
code 1009, and reads at most 16 ahead for each client.
"""


REASON_LIMIT = 123
"""Bytes that a closing frame has room for (RFC 6455, section 5.5)."""

GRACE_SECONDS = 1.0
"""For a client, or a stream, to take its leave before it is cut off."""


class Closed(Exception):
    """The socket is closed, by whichever side: there is nothing more to read, nobody to write to.

    Its text is the reason.
    """


class Socket(Protocol):
    """A client of the stream."""

    @property
    def role(self) -> Role:
        """What the client may do."""
        ...

    @property
    def waiting(self) -> int:
        """Bytes that were sent and that the network has not taken yet."""
        ...

    async def recv(self) -> str | bytes:
        """The next message: text of at most 64 KiB, or from those in control a piece of a file.

        Raises Closed at the end.
        """
        ...

    async def send(self, message: str | bytes) -> None:
        """Sends a message; returns when the network has taken nearly all of it.

        Raises Closed if the client is gone.
        """
        ...

    async def close(self, reason: str) -> None:
        """Closes the socket; `reason`, one sentence, is for the page."""
        ...


@dataclass
class Allowance:
    """How many messages somebody may send now; it grows by `rate` a second, up to `burst`."""

    rate: float = RATE
    burst: float = BURST
    clock: Callable[[], float] = time.monotonic
    left: float = field(init=False)
    seen: float = field(init=False)

    def __post_init__(self) -> None:
        self.left, self.seen = self.burst, self.clock()

    def take(self) -> float:
        """Takes one; seconds until there is one again, 0.0 if there was."""
        now = self.clock()
        self.left = min(self.burst, self.left + (now - self.seen) * self.rate)
        self.seen = now
        self.left -= 1
        return max(0.0, -self.left / self.rate)


@dataclass(eq=False)
class StreamSocket:
    """The `Socket` of a connection.

    Attributes:
        refused: Where refusals are counted, by their reason.
    """

    connection: ServerConnection
    role: Role
    refused: Counter[str]
    allowance: Allowance = field(default_factory=Allowance)

    @property
    def waiting(self) -> int:
        """See `Socket`."""
        return self.connection.transport.get_write_buffer_size()

    async def recv(self) -> str | bytes:
        """See `Socket`. Pieces of files that come too fast are held up, anything else ends it."""
        while True:
            message = await _received(self.connection)
            piece = isinstance(message, bytes) and self.role == "control"
            late = self.allowance.take()
            if late and not piece:
                await _end(self.connection, self.refused, "Too many messages")
            elif len(message) > TEXT_LIMIT and not piece:
                await _end(self.connection, self.refused, "Too long a message")
            elif isinstance(message, bytes) and not piece:
                self.refused["Only those in control send files"] += 1
            else:
                if late:
                    await asyncio.sleep(late)
                return message

    async def send(self, message: str | bytes) -> None:
        """See `Socket`."""
        try:
            await self.connection.send(message)
        except ConnectionClosed as end:
            raise Closed(_reason(end)) from None

    async def close(self, reason: str) -> None:
        """See `Socket`. Who does not answer in a moment is cut off."""
        short = reason.encode()[:REASON_LIMIT].decode(errors="ignore")
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self.connection.close(CloseCode.NORMAL_CLOSURE, short)
        self.connection.transport.abort()


@dataclass(eq=False)
class ViserSocket:
    """What viser uses of a connection, and nothing else: it reads only messages that are allowed.

    Attributes:
        refused: Where refusals are counted, by their reason.
        control_of: viser's handle of the control with a uuid, if there is one.
    """

    connection: ServerConnection
    role: Role
    refused: Counter[str]
    control_of: Callable[[str], Any | None]
    allowance: Allowance = field(default_factory=Allowance)

    @property
    def subprotocol(self) -> str | None:
        """By which viser tells versions apart."""
        return self.connection.subprotocol

    async def recv(self) -> bytes:
        """The next message that is allowed; websockets' ConnectionClosed, as viser expects."""
        while True:
            message = await self.connection.recv()
            if self.allowance.take():
                await _end(self.connection, self.refused, "Too many messages")
            elif len(message) > TEXT_LIMIT:
                await _end(self.connection, self.refused, "Too long a message")
            elif (allowed := checked(message, self.role, self.control_of)) is None:
                self.refused["Not a message that may be sent to viser"] += 1
            else:
                return allowed

    async def send(self, message: bytes) -> None:
        """Sends what viser has to say."""
        await self.connection.send(message)

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Closes the connection."""
        await self.connection.close(code, reason)


async def _received(connection: ServerConnection) -> str | bytes:
    try:
        return await connection.recv()
    except ConnectionClosed as end:
        raise Closed(_reason(end)) from None


async def _end(connection: ServerConnection, refused: Counter[str], reason: str) -> None:
    """Closes the connection of somebody who does not keep to the rules; `recv` then raises.

    What is still coming in is read and dropped, for the answer to our goodbye stands behind it.
    """
    refused[reason] += 1
    goodbye = asyncio.ensure_future(connection.close(CloseCode.POLICY_VIOLATION, reason))
    with suppress(ConnectionClosed, TimeoutError):
        async with asyncio.timeout(GRACE_SECONDS):
            while True:
                await connection.recv()
    connection.transport.abort()
    await goodbye


def _reason(end: ConnectionClosed) -> str:
    frame = end.rcvd or end.sent
    return frame.reason if frame is not None else "the connection was lost"
