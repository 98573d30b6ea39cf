"""What may come through a socket, and how fast: limits on size and rate, before anybody reads.

`Connection` is any that comes to the port, `StreamSocket` what our own protocol is spoken through,
`ViserSocket` what viser is handed in place of the connection.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Protocol

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from lumigraph.app.viewer.gate import Role
from lumigraph.app.viewer.protocol import TEXT_LIMIT
from lumigraph.app.viewer.viser_messages import checked

CONNECTIONS = 128
"""Open at a time, those included that have not yet said what they want."""

SHARES = 2, 4
"""What part of them one address may have: a half for this machine itself, from which tunnels and
proxies come, and a quarter for any other. A page that loads has six."""

SILENT_SECONDS = 5.0
"""For the first byte of a request: who connects has one to send."""

RATE, BURST = 500.0, 1000.0
"""Messages per second, and at once. A page on the fastest screens sends 300 a second while its
camera moves and every frame is acknowledged.
"""

TEXT_RATE, TEXT_BURST = 128 << 10, 256 << 10
"""Characters per second, and at once, of messages other than pieces of files: such a page sends 60
KiB a second. They are read in the thread that serves everybody.
"""

VIEW_LIMIT = 4 << 10
"""Characters, or bytes, of a message of somebody who only looks: a camera has 400, and nothing else
is longer. Those in control may send `TEXT_LIMIT`.
"""

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


class Connection(ServerConnection):
    """A connection that must say something soon, and makes room while it has asked for nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        super().connection_made(transport)
        self._silence = self.loop.call_later(SILENT_SECONDS, self.transport.abort)
        everybody = [c for c in self.server.handlers if not c.transport.is_closing()]
        host = _host(self)
        neighbours = [c for c in everybody if _host(c) == host]
        share = CONNECTIONS // SHARES[0 if host and ip_address(host).is_loopback else 1]
        for crowd, most in ((neighbours, share), (everybody, CONNECTIONS)):
            if len(crowd) > most:  # the oldest of those goes; it is this one, if all others asked
                next(c for c in crowd if c.request is None).transport.abort()
                return

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._silence.cancel()
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._silence.cancel()
        super().connection_lost(exc)


class Socket(Protocol):
    """A client of the stream."""

    @property
    def role(self) -> Role:
        """What the client may do."""
        ...

    async def recv(self) -> str | bytes:
        """The next message: text, or from those in control a piece of a file.

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
    """How much somebody may send now; it grows by `rate` a second, up to `burst`."""

    rate: float = RATE
    burst: float = BURST
    clock: Callable[[], float] = time.monotonic
    left: float = field(init=False)
    seen: float = field(init=False)

    def __post_init__(self) -> None:
        self.left, self.seen = self.burst, self.clock()

    def take(self, count: int = 1) -> float:
        """Takes so many; seconds until there are as many again, 0.0 if there were."""
        now = self.clock()
        self.left = min(self.burst, self.left + (now - self.seen) * self.rate)
        self.seen = now
        self.left -= count
        return max(0.0, -self.left / self.rate)


@dataclass
class Intake:
    """What a client has sent lately.

    Attributes:
        messages: Of any kind.
        text: Characters, or bytes, of those that are no pieces of files.
    """

    messages: Allowance = field(default_factory=Allowance)
    text: Allowance = field(default_factory=lambda: Allowance(TEXT_RATE, TEXT_BURST))

    def fault(self, message: str | bytes, role: Role) -> str | None:
        """Why a message, which is no piece of a file, ends the connection; None if it does not."""
        if len(message) > (TEXT_LIMIT if role == "control" else VIEW_LIMIT):
            return "Too long a message"
        late = max(self.messages.take(), self.text.take(len(message)))
        return "Too many messages" if late else None


@dataclass(eq=False)
class StreamSocket:
    """The `Socket` of a connection.

    Attributes:
        refused: Where refusals are counted, by their reason.
    """

    connection: ServerConnection
    role: Role
    refused: Counter[str]
    intake: Intake = field(default_factory=Intake)

    async def recv(self) -> str | bytes:
        """See `Socket`. Pieces of files that come too fast are held up, anything else ends it."""
        while True:
            message = await _received(self.connection)
            if isinstance(message, bytes) and self.role == "control":
                if late := self.intake.messages.take():
                    await asyncio.sleep(late)
                return message
            if fault := self.intake.fault(message, self.role):
                await _end(self.connection, self.refused, fault)
            elif isinstance(message, bytes):
                self.refused["Only those in control send files"] += 1
            else:
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
    intake: Intake = field(default_factory=Intake)

    @property
    def subprotocol(self) -> str | None:
        """By which viser tells versions apart."""
        return self.connection.subprotocol

    async def recv(self) -> bytes:
        """The next message that is allowed; websockets' ConnectionClosed, as viser expects."""
        while True:
            message = await self.connection.recv()
            if fault := self.intake.fault(message, self.role):
                await _end(self.connection, self.refused, fault)
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


def _host(connection: ServerConnection) -> str:
    """The address at its other end; empty if that is gone already."""
    address = connection.remote_address
    return address[0] if address else ""
