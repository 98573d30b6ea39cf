"""One server, one port: our pages, viser's page, and the sockets of both, all behind the gate.

viser has no authentication and no hook for one. It serves its page and its socket by one call of
`websockets.asyncio.server.serve` in a thread of its own; while it starts, that function is replaced
by one that puts the gate in front of both. Whether that worked is checked after every start, so
that a version of viser that starts otherwise is an error and never an open door.
"""

import asyncio
import atexit
import getpass
import http.client
import logging
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import rich
import viser
import viser._messages as viser_messages
import websockets.asyncio.server as sockets_server
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from lumigraph.app.viewer.gate import (
    VISER,
    Gate,
    Role,
    Visit,
    answer,
    enter,
    make_gate,
    refuse,
    sealed,
)
from lumigraph.app.viewer.limits import (
    GRACE_SECONDS,
    PIECE_LIMIT,
    Closed,
    Connection,
    Socket,
    StreamSocket,
    ViserSocket,
)
from lumigraph.app.viewer.ports import Address, address_of, listen, literal, reached

Stream = Callable[[Socket], Awaitable[None]]

STATIC = Path(__file__).parent / "static"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}

HANDSHAKE_SECONDS = 30.0
"""For one request and its answer: viser's page has 820 kB, and the network may be slow."""

START_SECONDS = 30.0
"""For viser to start; it takes 0.1. It would wait for ever for a server thread that failed."""

_STARTING = threading.Lock()

_LOG = logging.getLogger("lumigraph.viewer")
_LOG.setLevel(logging.WARNING)  # below that, websockets writes whole requests down, with the tokens
_LOG.addFilter(lambda record: record.msg != "opening handshake failed")  # it quotes bad requests


@dataclass(eq=False)
class _Door:
    """What stands between the port and what is served on it.

    Attributes:
        gate: Who may come in.
        stream: Is awaited for each client of /stream.
        clients: Sockets open at a time on each of the two paths.
        files: Content type and content of our own files, by path.
        taken: How many sockets are open, by path.
        serving: The server of websockets, and its loop, once viser has started them.
        page: viser, once it has started.
    """

    gate: Gate
    stream: Stream
    clients: int
    files: Mapping[str, tuple[str, bytes]]
    taken: Counter[str] = field(default_factory=Counter)
    serving: tuple[sockets_server.Server, asyncio.AbstractEventLoop] | None = None
    page: viser.ViserServer | None = None

    def answer(
        self, request: Request, viser_page: Callable[[Request], Response]
    ) -> Response | None:
        """The response to a request; None lets a socket open."""
        visit = enter(self.gate, request)
        if isinstance(visit, Response):
            return visit
        if visit.socket:
            return self._refusal(visit, request)
        if visit.path == "/full":
            return sealed(viser_page(Request("/", request.headers)), VISER, visit.host)
        if visit.path not in self.files:
            return refuse(self.gate, HTTPStatus.NOT_FOUND, "There is no such page")
        kind, content = self.files[visit.path]
        return answer(HTTPStatus.OK, content, kind, visit.host)

    def _refusal(self, visit: Visit, request: Request) -> Response | None:
        """Why this socket may not open; None if it may."""
        if visit.path not in ("/full", "/stream"):
            return refuse(self.gate, HTTPStatus.NOT_FOUND, "There is no such socket")
        # viser would print what it finds there in place of its own version.
        version = f"viser-v{viser.__version__}"
        if visit.path == "/full" and request.headers.get_all("Sec-WebSocket-Protocol") != [version]:
            return refuse(self.gate, HTTPStatus.BAD_REQUEST, "The page is outdated: load it again")
        if not self._room(visit):
            return refuse(self.gate, HTTPStatus.SERVICE_UNAVAILABLE, "Too many clients")
        return None

    def _room(self, visit: Visit) -> bool:
        """Whether one more fits in; the last place is kept for somebody who may control."""
        kept = 0 if visit.role == "control" else 1
        return self.taken[visit.path] + kept < self.clients

    async def welcome(
        self, connection: ServerConnection, viser_handler: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Serves a socket that has opened until it closes."""
        assert connection.request is not None
        visit = enter(self.gate, connection.request)
        assert isinstance(visit, Visit)
        if not self._room(visit):  # others came while this one shook hands
            await connection.close(1013, "Too many clients")
            return
        refused = self.gate.refused
        self.taken[visit.path] += 1
        try:
            if visit.path == "/full":
                await viser_handler(ViserSocket(connection, visit.role, refused, self._control))
            else:
                stream = self.stream(StreamSocket(connection, visit.role, refused))
                await _until_closed(stream, connection)
        finally:
            self.taken[visit.path] -= 1

    def _control(self, uuid: str) -> Any | None:
        """The handle of a control of viser's, which all have or one client; None if none has it."""
        scopes = () if self.page is None else (self.page, *self.page.get_clients().values())
        handles = (scope.gui._gui_input_handle_from_uuid.get(uuid) for scope in scopes)
        return next((handle for handle in handles if handle is not None), None)

    def hang_up(self) -> None:
        """Cuts off, after a moment, whoever is still there; called in the loop."""
        assert self.serving is not None
        served, loop = self.serving

        def cut() -> None:
            for connection in list(served.handlers):
                connection.transport.abort()

        loop.call_later(GRACE_SECONDS, cut)


@dataclass(frozen=True, eq=False)
class Server:
    """The running server of the page; `stop` it from any thread but its own.

    Attributes:
        viser: For scene and controls of /full. `configure_theme` must be called with
            `show_share_button=False`.
        address: What it is bound to.
        port: Perhaps not the one asked for, if that was in use.
        urls: What to open, by role. Without a token there is only "control".
        loop: The asyncio loop in which the sockets live.
        gate: Its `refused` tells what was turned away.
    """

    viser: viser.ViserServer
    address: Address
    port: int
    urls: dict[Role, str] = field(repr=False)
    loop: asyncio.AbstractEventLoop
    gate: Gate
    _door: _Door = field(repr=False)

    def role_of(self, client_id: int) -> Role:
        """The role of a client of viser's; "view" if it is gone."""
        socket = self.viser._websock_server._live_connections.get(client_id)
        return socket.role if isinstance(socket, ViserSocket) else "view"

    def stop(self) -> None:
        """Closes every socket and frees the port; does nothing the second time."""
        atexit.unregister(self.stop)
        with suppress(RuntimeError):  # the loop is closed: it was stopped before
            self.loop.call_soon_threadsafe(self._door.hang_up)
        with _silent():
            self.viser.stop()


def open_server(
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    stream: Stream,
    token: bool = True,
    clients: int = 8,
) -> Server:
    """The page's server, running.

    Args:
        host: An address of this machine, 0.0.0.0 for all of them, or localhost.
        port: The first to try of 100; 0 for any.
        stream: Awaited, in the server's loop, for each client of /stream; its socket closes when it
            returns, and it is cancelled if it stays longer than a moment after the socket closed.
        token: Whether it takes a token to come in. Without, everybody on this machine controls it.
        clients: How many sockets may be open at a time on /stream, and as many on /full. The last
            place is only for those in control.

    Raises ValueError if it is to be reached by other machines without a token, OSError if host or
    port cannot be had, and RuntimeError if viser does not start behind the gate.
    """
    address = address_of(host)
    door = _Door(make_gate(address, token=token), stream, clients, _files())
    listening = listen(address, port)
    port = listening.getsockname()[1]
    try:
        with _silent(), _replaced(door, listening):
            door.page = page = _start(address, port)
        _finish(door, page, port)
    except BaseException:
        if door.page is not None:
            with _silent():
                door.page.stop()
        listening.close()
        raise
    base = f"http://{literal(reached(address))}:{port}/"
    urls: dict[Role, str]
    urls = {role: f"{base}?token={secret}" for role, secret in door.gate.tokens.items()}
    assert door.serving is not None
    loop = door.serving[1]
    server = Server(page, address, port, urls or {"control": base}, loop, door.gate, door)
    atexit.register(server.stop)
    return server


def ssh_line(server: Server) -> str:
    """What to type on another machine, so that `server.urls` can be opened there."""
    place, user = literal(reached(server.address)), "USER"
    with suppress(KeyError, OSError):  # as for a number without a name, in a container
        user = getpass.getuser()
    return f"ssh -N -L {server.port}:{place}:{server.port} {user}@{socket.gethostname()}"


def _files() -> dict[str, tuple[str, bytes]]:
    """Our own files by the path they are served at. They are all that is ever served from disk."""
    files = {}
    for path in sorted(STATIC.iterdir()):
        if path.suffix in KINDS:
            page = {"landing.html": "/", "light.html": "/light"}.get(path.name)
            files[page or f"/static/{path.name}"] = (KINDS[path.suffix], path.read_bytes())
    return files


@contextmanager
def _replaced(door: _Door, listening: socket.socket) -> Iterator[None]:
    """Puts the door in front of the server that viser starts meanwhile, on the socket given."""
    genuine = sockets_server.serve

    def serve(handler: Callable[[Any], Awaitable[None]], *where: Any, **options: Any) -> Any:
        if handler.__module__ != "viser.infra._infra":
            return genuine(handler, *where, **options)  # somebody else starts a server just now
        page = options["process_request"]
        options |= {
            "process_request": lambda connection, request: door.answer(
                request, lambda changed: page(connection, changed)
            ),
            "sock": listening,
            "max_size": PIECE_LIMIT,
            "open_timeout": HANDSHAKE_SECONDS,
            "close_timeout": HANDSHAKE_SECONDS,  # from the start of an answer to its end, too
            "server_header": None,
            "logger": _LOG,
            "create_connection": Connection,
        }
        served = genuine(lambda connection: door.welcome(connection, handler), **options)
        door.serving = served.server, asyncio.get_running_loop()
        return served

    with _STARTING:
        sockets_server.serve = serve  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            sockets_server.serve = genuine


def _start(address: Address, port: int) -> viser.ViserServer:
    """viser, started; RuntimeError if it does not come up."""
    started: list[viser.ViserServer] = []

    def start() -> None:
        started.append(viser.ViserServer(str(address), port, verbose=False))

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(START_SECONDS)
    if not started:
        raise RuntimeError(_UNFIT.format(reason="it does not start"))
    return started[0]


def _finish(door: _Door, page: viser.ViserServer, port: int) -> None:
    """Takes from viser what we do not want; RuntimeError if it is not to be trusted."""
    atexit.unregister(page.stop)  # ours stops it, and silently
    _check(door, page, port)
    for message in (viser_messages.ShareUrlRequest, viser_messages.ShareUrlDisconnect):
        page._websock_server.unregister_handler(message)  # anybody could open a public tunnel
    page.gui.configure_theme(show_share_button=False)


_UNFIT = (
    f"viser {viser.__version__} cannot be served safely: {{reason}}. Install the version that "
    "Lumigraph asks for: pip install 'viser==1.1.1'"
)


def _check(door: _Door, page: viser.ViserServer, port: int) -> None:
    """Raises RuntimeError unless the server that viser started turns strangers away."""
    if door.serving is None or page.get_port() != port:
        raise RuntimeError(_UNFIT.format(reason="it starts without the gate before it"))
    place = reached(door.gate.address)
    own = f"{literal(place)}:{port}"
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    strangers = [
        (HTTPStatus.FORBIDDEN, {"Host": "stranger.invalid"}),
        (HTTPStatus.FORBIDDEN, {"Host": own, "Origin": "http://stranger.invalid", **upgrade}),
    ]
    if door.gate.tokens:
        strangers += [
            (HTTPStatus.UNAUTHORIZED, {"Host": own}),
            (HTTPStatus.UNAUTHORIZED, {"Host": own, "Origin": f"http://{own}", **upgrade}),
        ]
    for expected, headers in strangers:
        connection = http.client.HTTPConnection(str(place), port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/", headers=headers)
            status: int | str = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            status = str(error) or type(error).__name__
        finally:
            connection.close()
        if status != expected:
            reason = f"it answers a stranger with {status} in place of {expected.value}"
            raise RuntimeError(_UNFIT.format(reason=reason))
    door.gate.refused.clear()


async def _until_closed(stream: Awaitable[None], connection: ServerConnection) -> None:
    """Awaits the stream, and raises what it does; cancels it if it outstays its connection."""
    task = asyncio.ensure_future(stream)
    gone = asyncio.ensure_future(connection.wait_closed())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((task,), timeout=0 if task.done() else GRACE_SECONDS)
    finally:
        task.cancel()
        gone.cancel()
    with suppress(Closed, asyncio.CancelledError):
        await task


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps viser's banners off the terminal; it prints by rich's shared console, we do not."""
    console = rich.get_console()
    quiet, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = quiet
