"""Limits on the number of connections, and on the size and rate of their messages.

`Connection` is every connection to the port, `StreamSocket` one that speaks our own protocol, and
`ViserSocket` is what viser gets in place of a connection.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from lumigraph.app.viewer.gate import Role
from lumigraph.app.viewer.protocol import TEXT_LIMIT, checked

CONNECTIONS = 128
"""The most open connections, including those that have not yet sent a request."""

SHARES = 2, 4
"""One address may have one part in this many of all connections: a half for this machine itself,
from which tunnels and proxies come, and a quarter for any other. A page that loads has six."""

SILENT_SECONDS = 5.0
"""The longest time to the first byte of a request: a browser sends it at once."""

RATE, BURST = 500.0, 1000.0
"""Messages per second, and at once. A page on the fastest screens sends 300 a second while its
camera moves and every frame is acknowledged."""

TEXT_RATE, TEXT_BURST = 128 << 10, 256 << 10
"""Characters per second, and at once, of messages other than pieces of files: such a page sends 60
KiB a second. One thread decodes the messages of all clients."""

VIEW_LIMIT = 4 << 10
"""Characters, or bytes, of a guest's message: a camera has 400, and no other message is longer.
Clients in control may send `TEXT_LIMIT`."""

PIECE_LIMIT = 1 << 20
"""Bytes of a piece of a file. websockets itself ends a connection over a longer message, with close
code 1009, and reads at most 16 ahead for each client."""

REASON_LIMIT = 123
"""The most bytes of the reason in a closing frame (RFC 6455, section 5.5)."""

GRACE_SECONDS = 1.0
"""A client, or a stream, has this time to end before it is cut off."""


class Closed(Exception):
    """The socket is closed, by either side; the text of the exception is the reason."""


class Connection(ServerConnection):
    """A connection that must send a request soon, and may be closed for others until it does."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        super().connection_made(transport)
        self._silence = self.loop.call_later(SILENT_SECONDS, self.transport.abort)
        everybody = [c for c in self.server.handlers if not c.transport.is_closing()]
        host = _host(self)
        neighbours = [c for c in everybody if _host(c) == host]
        share = CONNECTIONS // SHARES[0 if host and ip_address(host).is_loopback else 1]
        for crowd, most in ((neighbours, share), (everybody, CONNECTIONS)):
            if len(crowd) > most:  # the oldest one without a request is closed, or else this one
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


@dataclass
class Allowance:
    """How much a client may send now; it grows by `rate` a second, up to `burst`."""

    rate: float = RATE
    burst: float = BURST
    clock: Callable[[], float] = time.monotonic
    left: float = field(init=False)
    seen: float = field(init=False)

    def __post_init__(self) -> None:
        self.left, self.seen = self.burst, self.clock()

    def take(self, count: int = 1) -> float:
        """Takes `count` from it; seconds until that is allowed, 0.0 if it is now."""
        now = self.clock()
        self.left = min(self.burst, self.left + (now - self.seen) * self.rate)
        self.seen = now
        self.left -= count
        return max(0.0, -self.left / self.rate)


@dataclass
class Intake:
    """What a client may still send.

    Attributes:
        messages: Messages of any kind.
        text: Characters, or bytes, of messages other than pieces of files.
    """

    messages: Allowance = field(default_factory=Allowance)
    text: Allowance = field(default_factory=lambda: Allowance(TEXT_RATE, TEXT_BURST))

    def fault(self, message: str | bytes, role: Role) -> str | None:
        """Why a message other than a piece of a file ends the connection; None if it does not."""
        if len(message) > (TEXT_LIMIT if role == "control" else VIEW_LIMIT):
            return "The message is too long"
        late = max(self.messages.take(), self.text.take(len(message)))
        return "Too many messages came in a second" if late else None


@dataclass(eq=False)
class StreamSocket:
    """A client of the stream.

    Attributes:
        connection: The connection to its browser.
        role: What the client may do.
        refused: Counts the refusals by their reason.
    """

    connection: ServerConnection
    role: Role
    refused: Counter[str]
    intake: Intake = field(default_factory=Intake)

    async def recv(self) -> str | bytes:
        """The next message: text, or from a client in control a piece of a file.

        Pieces that come too fast are delayed; other messages that come too fast end the connection.
        Raises Closed at the end.
        """
        while True:
            message = await _received(self.connection)
            if isinstance(message, bytes) and self.role == "control":
                if late := self.intake.messages.take():
                    await asyncio.sleep(late)
                return message
            if fault := self.intake.fault(message, self.role):
                await _end(self.connection, self.refused, fault)
            elif isinstance(message, bytes):
                self.refused["Only clients in control may send files"] += 1
            else:
                return message

    async def send(self, message: str | bytes) -> None:
        """Sends a message; returns when the network has taken nearly all of it.

        Raises Closed if the client is gone.
        """
        try:
            await self.connection.send(message)
        except ConnectionClosed as end:
            raise Closed(_reason(end)) from None

    async def close(self, reason: str) -> None:
        """Closes the socket, with a sentence for the page; a silent client is cut off."""
        short = reason.encode()[:REASON_LIMIT].decode(errors="ignore")
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self.connection.close(CloseCode.NORMAL_CLOSURE, short)
        self.connection.transport.abort()


@dataclass(eq=False)
class ViserSocket:
    """The part of a connection that viser uses; it passes only messages that are allowed.

    Attributes:
        connection: The connection to the browser.
        role: What the client may do.
        refused: Counts the refusals by their reason.
        control_of: viser's handle of the control with a uuid, if there is one.
    """

    connection: ServerConnection
    role: Role
    refused: Counter[str]
    control_of: Callable[[str], Any | None]
    intake: Intake = field(default_factory=Intake)

    @property
    def subprotocol(self) -> str | None:
        """The name by which viser tells versions of its page apart."""
        return self.connection.subprotocol

    async def recv(self) -> bytes:
        """The next allowed message; raises websockets' ConnectionClosed, as viser expects."""
        while True:
            message = await self.connection.recv()
            if fault := self.intake.fault(message, self.role):
                await _end(self.connection, self.refused, fault)
            elif (allowed := self._checked(message)) is None:
                self.refused["The message may not be sent to viser"] += 1
            else:
                return allowed

    def _checked(self, message: str | bytes) -> bytes | None:
        return checked(message, guest=self.role == "view", control_of=self.control_of)

    async def send(self, message: bytes) -> None:
        """Sends a message of viser's."""
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
    """Closes the connection of a client that breaks the limits; `recv` then raises.

    Messages that still come are read and dropped: the answer to our closing frame is behind them.
    """
    refused[reason] += 1
    closing = asyncio.ensure_future(connection.close(CloseCode.POLICY_VIOLATION, reason))
    with suppress(ConnectionClosed, TimeoutError):
        async with asyncio.timeout(GRACE_SECONDS):
            while True:
                await connection.recv()
    connection.transport.abort()
    await closing


def _reason(end: ConnectionClosed) -> str:
    frame = end.rcvd or end.sent
    return frame.reason if frame is not None else "the connection was lost"


def _host(connection: ServerConnection) -> str:
    """The address of the other end; empty if the connection is gone already."""
    address = connection.remote_address
    return address[0] if address else ""
