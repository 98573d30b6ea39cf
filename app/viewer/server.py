"""The server: our pages, viser's page and the sockets of both on one port, all behind the gate.

viser has no authentication and no hook for one. It serves its page and its socket by one call of
`websockets.asyncio.server.serve` in a thread of its own. While viser starts, that function is
replaced by one that puts the gate in front of both. Every start checks that the gate works, so that
a version of viser that starts in another way is an error and never an open door.
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
    Address,
    Gate,
    Role,
    Visit,
    address_of,
    answer,
    enter,
    listen,
    literal,
    make_gate,
    reached,
    refuse,
    sealed,
)
from lumigraph.app.viewer.limits import (
    GRACE_SECONDS,
    PIECE_LIMIT,
    Closed,
    Connection,
    StreamSocket,
    ViserSocket,
)

Stream = Callable[[StreamSocket], Awaitable[None]]

STATIC = Path(__file__).parent / "static"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}

HANDSHAKE_SECONDS = 30.0
"""The longest time for a request and its answer: viser's page has 820 kB, and networks may be
slow."""

START_SECONDS = 30.0
"""The longest time for viser to start; it takes 0.1. If its server thread fails it waits for
ever."""

_STARTING = threading.Lock()

_LOG = logging.getLogger("lumigraph.viewer")
_LOG.setLevel(logging.WARNING)  # below that, websockets logs whole requests, with the tokens
_LOG.addFilter(lambda record: record.msg != "opening handshake failed")  # it quotes the request


@dataclass(eq=False)
class _Door:
    """Answers the requests to the port, and passes on those that the gate accepts.

    Attributes:
        gate: The secrets and names that are accepted.
        stream: Is awaited for each client of /stream.
        clients: The most sockets that are open at a time on each of the two paths.
        files: Content type and content of our own files, by path.
        taken: The number of open sockets by path.
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
            return refuse(self.gate, HTTPStatus.NOT_FOUND, "There is no page at this address")
        kind, content = self.files[visit.path]
        return answer(HTTPStatus.OK, content, kind, visit.host)

    def _refusal(self, visit: Visit, request: Request) -> Response | None:
        """The refusal of a socket; None if it may open."""
        if visit.path not in ("/full", "/stream"):
            return refuse(self.gate, HTTPStatus.NOT_FOUND, "There is no socket at this address")
        # viser would print any other text that it finds there.
        version = f"viser-v{viser.__version__}"
        if visit.path == "/full" and request.headers.get_all("Sec-WebSocket-Protocol") != [version]:
            return refuse(
                self.gate, HTTPStatus.BAD_REQUEST, "The page is out of date: load it again"
            )
        if not self._room(visit):
            return refuse(
                self.gate,
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many browsers have this page open: close one of them",
            )
        return None

    def _room(self, visit: Visit) -> bool:
        """Whether there is room for one more; the last place is kept for a client in control."""
        kept = 0 if visit.role == "control" else 1
        return self.taken[visit.path] + kept < self.clients

    async def welcome(
        self, connection: ServerConnection, viser_handler: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Serves an open socket until it closes."""
        assert connection.request is not None
        visit = enter(self.gate, connection.request)
        assert isinstance(visit, Visit)
        if not self._room(visit):  # others came while this one opened
            await connection.close(1013, "Too many browsers have this page open: close one of them")
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
        """The handle of a control in viser, of all clients or of one; None if there is none."""
        scopes = () if self.page is None else (self.page, *self.page.get_clients().values())
        handles = (scope.gui._gui_input_handle_from_uuid.get(uuid) for scope in scopes)
        return next((handle for handle in handles if handle is not None), None)

    def hang_up(self) -> None:
        """Cuts off all connections after a moment; called in the loop."""
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
        viser: Has the scene and the controls of /full. Call its `configure_theme` only with
            `show_share_button=False`.
        address: The address that it is bound to.
        port: Its port, which differs from the one asked for if that was in use.
        urls: The address to open for each role. Without a token there is only "control".
        loop: The asyncio loop of the sockets.
        gate: Its `refused` counts the refusals.
    """

    viser: viser.ViserServer
    address: Address
    port: int
    urls: dict[Role, str] = field(repr=False)
    loop: asyncio.AbstractEventLoop
    gate: Gate
    _door: _Door = field(repr=False)

    def role_of(self, client_id: int) -> Role:
        """The role of a client of viser's page; "view" if the client is gone."""
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
    """Starts the server of the page, and returns it.

    Args:
        host: An address of this machine, 0.0.0.0 for all of them, or localhost.
        port: The first of 100 ports that are tried; 0 for any.
        stream: Awaited, in the server's loop, for each client of /stream. The socket closes when
            it returns, and it is cancelled a moment after the socket has closed.
        token: Whether visitors need a token. Without, everybody on this machine is in control.
        clients: The most sockets that may be open at a time on /stream, and again on /full. The
            last place is for clients in control.

    Raises ValueError if other machines could reach it without a token, OSError if host or port are
    not available, and RuntimeError if viser does not start behind the gate.
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
    """The command that makes `server.urls` work on the machine where it is typed."""
    place, user = literal(reached(server.address)), "USER"
    with suppress(KeyError, OSError):  # a user id may have no name in a container
        user = getpass.getuser()
    return f"ssh -N -L {server.port}:{place}:{server.port} {user}@{socket.gethostname()}"


def _files() -> dict[str, tuple[str, bytes]]:
    """Our own files by the path at which they are served. No other files are ever served."""
    files = {}
    for path in sorted(STATIC.iterdir()):
        if path.suffix in KINDS:
            page = {"landing.html": "/", "light.html": "/light"}.get(path.name)
            files[page or f"/static/{path.name}"] = (KINDS[path.suffix], path.read_bytes())
    return files


@contextmanager
def _replaced(door: _Door, listening: socket.socket) -> Iterator[None]:
    """Puts the door in front of the server that viser starts meanwhile, on this socket."""
    genuine = sockets_server.serve

    def serve(handler: Callable[[Any], Awaitable[None]], *where: Any, **options: Any) -> Any:
        if handler.__module__ != "viser.infra._infra":
            return genuine(handler, *where, **options)  # another program part starts a server
        page = options["process_request"]
        options |= {
            "process_request": lambda connection, request: door.answer(
                request, lambda changed: page(connection, changed)
            ),
            "sock": listening,
            "max_size": PIECE_LIMIT,
            "open_timeout": HANDSHAKE_SECONDS,
            "close_timeout": HANDSHAKE_SECONDS,  # this bounds the time of an answer, too
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
    """Starts viser, and returns it; RuntimeError if it does not start."""
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
    """Removes parts of viser that we do not want; RuntimeError if it is not behind the gate."""
    atexit.unregister(page.stop)  # our `stop` calls it, silently
    _check(door, page, port)
    for message in (viser_messages.ShareUrlRequest, viser_messages.ShareUrlDisconnect):
        page._websock_server.unregister_handler(message)  # every client could open a public tunnel
    page.gui.configure_theme(show_share_button=False)


_UNFIT = (
    f"viser {viser.__version__} cannot be served safely: {{reason}}. Install the version that "
    "Lumigraph asks for: pip install 'viser==1.1.1'"
)


def _check(door: _Door, page: viser.ViserServer, port: int) -> None:
    """Raises RuntimeError unless the server that viser started refuses strangers."""
    if door.serving is None or page.get_port() != port:
        raise RuntimeError(_UNFIT.format(reason="it starts without the gate"))
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
            reason = f"it answers a stranger with {status} instead of {expected.value}"
            raise RuntimeError(_UNFIT.format(reason=reason))
    door.gate.refused.clear()


async def _until_closed(stream: Awaitable[None], connection: ServerConnection) -> None:
    """Awaits the stream, and raises its error; cancels it if it outlives the connection."""
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
    """Keeps viser's banners off the terminal: it prints to rich's shared console, and we do not."""
    console = rich.get_console()
    quiet, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = quiet
