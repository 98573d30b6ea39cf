"""The gate: who may come in, what may come through, and that a viser without it does not start."""

import asyncio
import http.client
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import viser
import viser._messages as viser_messages
import websockets.asyncio.server as sockets_server
import websockets.datastructures
import websockets.exceptions
from viser.infra import _infra
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from lumigraph.app.viewer import gate, server
from lumigraph.app.viewer import limits as sockets
from lumigraph.app.viewer.gate import Role, Visit, enter, make_gate
from lumigraph.app.viewer.limits import (
    PIECE_LIMIT,
    TEXT_BURST,
    VIEW_LIMIT,
    Allowance,
    Closed,
    StreamSocket,
)
from lumigraph.app.viewer.protocol import SIDE, TEXT_LIMIT, checked, fits
from lumigraph.app.viewer.server import Server, open_server, ssh_line

PATIENCE = 30.0
"""Seconds after which something that ought to happen is taken not to; nothing waits that long."""

CAMERA = {
    "type": "ViewerCameraMessage",
    "wxyz": [1.0, 0.0, 0.0, 0.0],
    "position": [0.0, 0.0, -3.0],
    "fov": 0.9,
    "near": 0.01,
    "far": 1000.0,
    "image_height": 360,
    "image_width": 640,
    "look_at": [0.0, 0.0, 0.0],
    "up_direction": [0.0, -1.0, 0.0],
}


async def echo(client: StreamSocket) -> None:
    """A stream that sends back what it gets, its role first."""
    await client.send(client.role)
    while True:
        await client.send(await client.recv())


@pytest.fixture(scope="module")
def opened() -> Iterator[Server]:
    """A server with a token on a free port of this machine."""
    running = open_server(port=0, stream=echo, clients=3)
    yield running
    running.stop()


def secret(opened: Server, role: Role = "control") -> str:
    """What the cookie of a role holds."""
    return opened.gate.cookies[role]


def cookie(opened: Server, role: Role = "control") -> str:
    """The header of a browser that has opened the address of this role."""
    return f"lumigraph_{opened.port}={secret(opened, role)}"


def raw(opened: Server, request: bytes) -> bytes:
    """All that a server answers to these bytes."""
    with socket.create_connection(("127.0.0.1", opened.port), PATIENCE) as line:
        line.sendall(request)
        answer = b""
        with suppress(ConnectionResetError):
            while piece := line.recv(65536):
                answer += piece
    return answer


def ask(
    opened: Server, path: str = "/", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and body of a GET; an underscore in a header's name is a hyphen."""
    sent = {"Host": f"127.0.0.1:{opened.port}"}
    sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
    line = http.client.HTTPConnection("127.0.0.1", opened.port, timeout=PATIENCE)
    with closing(line):
        line.request("GET", path, headers=sent)
        response = line.getresponse()
        return response.status, response.headers, response.read()


def dial(
    opened: Server, path: str = "/stream", role: Role | None = "control", **changes: Any
) -> Connection:
    """A socket, opened as the server's page would; `changes` are those of websockets' client."""
    options: dict[str, Any] = {
        "origin": f"http://127.0.0.1:{opened.port}",
        "additional_headers": {"Cookie": cookie(opened, role)} if role else {},
        "subprotocols": [f"viser-v{viser.__version__}"] if path == "/full" else None,
        "compression": None,
        "proxy": None,
        "open_timeout": PATIENCE,
    }
    return connect(f"ws://127.0.0.1:{opened.port}{path}", **{**options, **changes})


def refusal(opened: Server, *parts: Any, **changes: Any) -> int:
    """The status with which a socket is refused."""
    with pytest.raises(InvalidStatus) as refused:
        dial(opened, *parts, **changes)
    return refused.value.response.status_code


def until(opened: Server, condition: Callable[[], bool]) -> None:
    """Returns when the server, which is given time turn by turn, has made the condition true."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001), opened.loop).result(PATIENCE)


def emptied(opened: Server) -> None:
    """Returns when the server has noticed that nobody is connected any more."""
    until(opened, lambda: not any(opened._door.taken.values()))


@pytest.fixture(autouse=True)
def nobody_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test finds the places of the shared server free."""
    yield
    if "opened" in request.fixturenames:
        emptied(request.getfixturevalue("opened"))


# Coming in


def test_without_a_token_there_is_only_a_sentence(opened: Server):
    for path in ("/", "/light", "/full", "/static/landing.js", "/nothing"):
        status, headers, body = ask(opened, path)
        assert status == 401
        assert b"?token=" in body
        assert len(body) < 200
        assert "Set-Cookie" not in headers


@pytest.mark.parametrize("role", ["control", "view"])
def test_the_token_becomes_a_cookie_that_opens_the_pages(opened: Server, role: Role):
    address = opened.urls[role].removeprefix(f"http://127.0.0.1:{opened.port}")
    assert re.fullmatch(r"/\?token=[\w-]{43}", address)
    status, headers, body = ask(opened, address)
    assert (status, headers["Location"], body) == (303, "/", b"")
    name, *rest = headers["Set-Cookie"].split("; ")
    assert name == cookie(opened, role)
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(rest)
    assert secret(opened, role) not in address
    status, _, body = ask(opened, cookie=name)
    assert (status, b"Lumigraph" in body) == (200, True)


def test_a_wrong_token_opens_nothing(opened: Server):
    good = opened.gate.tokens["control"]
    near = (good[:-1], good + "x", good[:-1] + "_", good.swapcase(), secret(opened))
    for token in ("", "x", "%ff%fe", "%ED%A0%80", *(value for value in near if value != good)):
        status, headers, _ = ask(opened, f"/?token={token}")
        assert status == 403
        assert "Set-Cookie" not in headers


def test_the_token_leads_only_to_our_own_pages(opened: Server):
    token = f"token={opened.gate.tokens['view']}"
    for asked, sent in {
        f"/light?{token}": "/light",
        f"/full?fixedDpr=0.5&{token}": "/full?fixedDpr=0.5",
        f"/?{token}&page=light": "/?page=light",
        f"//evil.example/?{token}": "/",
        f"http://evil.example/?{token}": "/",
        f"/\\evil.example?{token}": "/",
        f"/?{token}&x=%0d%0aSet-Cookie:a=b": "/?x=%0D%0ASet-Cookie%3Aa%3Db",
    }.items():
        status, headers, _ = ask(opened, asked)
        assert (status, headers["Location"]) == (303, sent)
        assert headers.get_all("Set-Cookie") is not None
        assert len(headers.get_all("Set-Cookie") or []) == 1


def test_only_the_cookie_of_this_port_counts(opened: Server):
    good, bad = cookie(opened), f"lumigraph_{opened.port}=bad"
    other = f"lumigraph_{opened.port + 1}={secret(opened)}"
    for value in (bad, other, secret(opened), f"lumigraph_{opened.port}", ";;=;", "=\x80\xff"):
        assert ask(opened, cookie=value)[0] == 401
    for value in (f"{bad}; {good}", f"{good}; {bad}", f'a="b; {{}}; {good}', f"{other};{good}"):
        assert ask(opened, cookie=value)[0] == 200
    # Where a tunnel gives it another port, its cookie has the name of that one.
    tunnel, name = "localhost:9000", f"lumigraph_9000={secret(opened)}"
    assert ask(opened, host=tunnel, cookie=good)[0] == 401
    assert ask(opened, host=tunnel, cookie=name)[0] == 200
    lines = f"Cookie: {bad}\r\nCookie: {good}\r\n"
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{opened.port}\r\n{lines}\r\n"
    assert raw(opened, request.encode()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "name", ["evil.example", "127.0.0.1.evil.example", "0.0.0.0", "10.1.2.3", ""]
)
def test_other_host_names_are_refused(opened: Server, name: str):
    """DNS rebinding, and the address that browsers once sent here too."""
    for host in (name, f"{name}:{opened.port}"):
        status, _, body = ask(opened, host=host, cookie=cookie(opened))
        assert (status, b"Lumigraph" in body) == (403, False)
        assert refusal(opened, additional_headers={"Cookie": cookie(opened), "Host": host}) == 403


def test_a_request_needs_exactly_one_valid_host(opened: Server):
    good = f"127.0.0.1:{opened.port}"
    for lines in ("", f"Host: {good}\r\nHost: {good}\r\n", "Host: a b\r\n", f"Host: x@{good}\r\n"):
        request = f"GET / HTTP/1.1\r\n{lines}Cookie: {cookie(opened)}\r\n\r\n"
        assert raw(opened, request.encode()).startswith(b"HTTP/1.1 403 ")


def test_a_server_on_all_addresses_accepts_only_addresses_and_its_own_name():
    gate = make_gate(ip_address("0.0.0.0"), token=True)

    def status(host: str) -> int:
        answer = enter(gate, Request("/", Headers({"Host": host})))
        return answer.status_code if isinstance(answer, Response) else 200

    mine = ("192.168.1.5:8080", "[fe80::1]:8080", "localhost", "127.0.0.1", socket.gethostname())
    assert {status(host) for host in mine} == {401}
    assert {status(host) for host in ("evil.example", "192.168.1.5.evil.example", "0.0.0.0")} == {
        403
    }


def test_pages_keep_to_themselves(opened: Server):
    own = f"127.0.0.1:{opened.port}"
    for path in ("/", "/light", "/full", "/static/landing.js"):
        status, headers, _ = ask(opened, path, cookie=cookie(opened, "view"))
        assert status == 200
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        assert "Server" not in headers
        policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        sockets = {"'self'", f"ws://{own}", f"wss://{own}"}
        assert set(policy["connect-src"].split()) - {"blob:", "data:"} == sockets
        if path == "/full":
            assert "*" not in headers["Content-Security-Policy"]
        else:
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert policy["script-src"] == "'self'"
    assert ask(opened)[1]["Content-Security-Policy"].startswith("default-src 'none'")


def test_our_own_pages_have_nothing_inside_that_their_policy_forbids(opened: Server):
    for path in ("/", "/light"):
        text = ask(opened, path, cookie=cookie(opened))[2].decode()
        assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", text) == []
        for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', text):
            assert ask(opened, name, cookie=cookie(opened))[0] == 200


def test_the_full_page_is_visers(opened: Server):
    status, headers, body = ask(opened, "/full?fixedDpr=0.5", cookie=cookie(opened))
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/html")
    assert len(body) > 100_000
    packed = ask(opened, "/full", cookie=cookie(opened), accept_encoding="gzip")
    assert int(packed[1]["Content-Length"]) == len(packed[2])


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/static/..\\server.py",
        "/static//etc/passwd",
        "/etc/passwd",
        "/static/",
        "/static/landing.html",
        "/index.html",
        "/full/index.html",
        "/full/",
        "//",
        "*",
        "/light/../full",
    ],
)
def test_there_are_no_other_files(opened: Server, path: str):
    status, _, body = ask(opened, path, cookie=cookie(opened))
    assert (status, len(body) < 200) == (404, True)


@pytest.mark.parametrize("path", ["/", "/light", "/full"])
@pytest.mark.parametrize(
    "query", ["websocket=ws://evil.example", "playbackPath=x", "%77ebsocket=x"]
)
def test_a_link_cannot_send_visers_page_to_another_server(opened: Server, path: str, query: str):
    status, headers, _ = ask(opened, f"{path}?{query}&a=b", cookie=cookie(opened))
    assert (status, headers["Location"]) == (303, f"{path}?a=b")
    assert ask(opened, f"/static/page.css?{query}", cookie=cookie(opened))[0] == 400
    assert refusal(opened, f"{path}?{query}") == 400
    token = opened.gate.tokens["control"]
    assert ask(opened, f"{path}?token={token}&a=b&{query}")[0] == 400


def test_odd_requests_are_dropped_and_the_server_lives(opened: Server):
    head = f"Host: 127.0.0.1:{opened.port}\r\nCookie: {cookie(opened)}\r\n"
    for request in (
        f"POST / HTTP/1.1\r\n{head}Content-Length: 4\r\n\r\nbody",
        f"HEAD / HTTP/1.1\r\n{head}\r\n",
        f"GET / HTTP/1.0\r\n{head}\r\n",
        f"GET / HTTP/1.1\r\n{head}X: {'x' * 9000}\r\n\r\n",
        f"GET /?{'x' * 9000} HTTP/1.1\r\n{head}\r\n",
        f"GET / HTTP/1.1\r\n{head}" + "X: y\r\n" * 200 + "\r\n",
        "\x16\x03\x01\r\n\r\n",
    ):
        assert raw(opened, request.encode("latin-1")) == b""
    assert raw(opened, f"GET /?{'a&' * 20} HTTP/1.1\r\n{head}\r\n".encode()).startswith(
        b"HTTP/1.1 400"
    )
    assert raw(opened, f"GET /\xff\xfe HTTP/1.1\r\n{head}\r\n".encode("latin-1"))[9:12] == b"404"
    assert ask(opened, cookie=cookie(opened))[0] == 200


# Sockets


def test_a_socket_opens_for_our_own_page_only(opened: Server):
    own = f"127.0.0.1:{opened.port}"
    for path in ("/stream", "/full"):
        assert refusal(opened, path, None) == 401
        assert refusal(opened, path, additional_headers={"Cookie": "lumigraph_1=x"}) == 401
        for origin in (
            None,
            "null",
            "http://evil.example",
            f"http://{own}.evil.example",
            "http://127.0.0.1",
        ):
            assert refusal(opened, path, origin=origin) == 403
        assert refusal(opened, f"{path}?websocket=ws://evil.example") == 400
    for path in ("/", "/light", "/static/landing.js", "/stream/"):
        assert refusal(opened, path) == 404
    twice = [("Origin", "http://evil.example"), ("Cookie", cookie(opened))]
    assert refusal(opened, additional_headers=twice) == 403
    with dial(opened, origin=f"https://{own}") as line:  # a proxy with TLS in front of it
        assert line.recv(PATIENCE) == "control"


def test_an_upgrade_is_a_socket_however_it_is_spelled(opened: Server):
    """In capitals it would get its page of viser itself."""
    head = f"Host: 127.0.0.1:{opened.port}\r\nCookie: {cookie(opened)}\r\nConnection: Upgrade\r\n"
    for upgrade in ("WebSocket", "h2c", "websocket\r\nUpgrade: websocket"):
        request = f"GET /full HTTP/1.1\r\n{head}Upgrade: {upgrade}\r\n\r\n"
        assert raw(opened, request.encode()).startswith(b"HTTP/1.1 403 ")


def test_the_stream_knows_the_role(opened: Server):
    limits: dict[Role, int] = {"control": TEXT_LIMIT, "view": VIEW_LIMIT}
    for role, limit in limits.items():
        with dial(opened, role=role) as line:
            assert line.recv(PATIENCE) == role
            line.send("x" * limit)
            assert line.recv(PATIENCE) == "x" * limit


def test_only_clients_in_control_send_pieces_of_files(opened: Server):
    with dial(opened, max_size=None) as line:
        assert line.recv(PATIENCE) == "control"
        line.send(bytes(PIECE_LIMIT))
        assert line.recv(PATIENCE) == bytes(PIECE_LIMIT)
    with dial(opened, role="view") as line:
        assert line.recv(PATIENCE) == "view"
        line.send(b"a file")
        line.send("after it")
        assert line.recv(PATIENCE) == "after it"


def ended(line: Connection) -> tuple[int, str]:
    """Close code and reason of a connection, once the server has ended it."""
    with suppress(ConnectionClosed):
        while True:
            line.recv(PATIENCE)
    assert line.close_code is not None
    return line.close_code, line.close_reason or ""


@pytest.mark.parametrize("path", ["/stream", "/full"])
def test_too_long_a_message_ends_the_connection(opened: Server, path: str):
    for message, code in ((bytes(PIECE_LIMIT + 1), 1009), ("x" * (TEXT_LIMIT + 1), 1008)):
        with dial(opened, path) as line:
            line.send(message)
            assert ended(line)[0] == code
        emptied(opened)


@pytest.mark.parametrize("path", ["/stream", "/full"])
def test_a_guest_may_send_only_short_messages(opened: Server, path: str):
    for message in ("x" * (VIEW_LIMIT + 1), bytes(VIEW_LIMIT + 1)):
        with dial(opened, path, "view") as line:
            line.send(message)
            assert ended(line) == (1008, "The message is too long")
        emptied(opened)


@pytest.mark.parametrize("path", ["/stream", "/full"])
@pytest.mark.parametrize(("role", "size"), [("control", TEXT_LIMIT), ("view", VIEW_LIMIT)])
def test_long_messages_are_a_flood_sooner(opened: Server, path: str, role: Role, size: int):
    """500 of 64 KiB a second would keep the server busy with reading JSON."""
    sent = 0
    with dial(opened, path, role, max_queue=None) as line:
        with suppress(ConnectionClosed):
            while sent < 8 * TEXT_BURST:
                line.send("x" * size)
                sent += size
        assert ended(line) == (1008, "Too many messages came in a second")


@pytest.mark.parametrize("path", ["/stream", "/full"])
def test_a_flood_ends_the_connection(opened: Server, path: str):
    with dial(opened, path, max_queue=None) as line:
        with suppress(ConnectionClosed):
            for _ in range(1_000_000):
                line.send("x")
        assert line.close_code == 1008
        assert line.close_reason == "Too many messages came in a second"


def test_the_allowance_grows_with_time_up_to_a_burst():
    now = 0.0
    allowance = Allowance(rate=10, burst=3, clock=lambda: now)
    assert [allowance.take() for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])
    now = 0.3
    assert [allowance.take() for _ in range(2)] == pytest.approx([0, 0.1])
    now = 1000.0
    assert [allowance.take() for _ in range(4)] == pytest.approx([0, 0, 0, 0.1])
    now = 2000.0
    assert [allowance.take(2) for _ in range(3)] == pytest.approx([0, 0.1, 0.3])


@pytest.mark.parametrize("path", ["/stream", "/full"])
def test_places_are_limited_and_the_last_is_for_control(opened: Server, path: str):
    with dial(opened, path, "view"), dial(opened, path, "view"):
        assert refusal(opened, path, "view") == 503
        with dial(opened, path, "control"):
            assert refusal(opened, path, "control") == 503
            assert refusal(opened, path, "view") == 503
    emptied(opened)
    with dial(opened, path, "view"):
        pass


def test_clients_above_the_limit_are_refused(opened: Server):
    """All of 200 were let in by viser."""
    lines, refused = [], 0
    for _ in range(200):
        try:
            lines.append(dial(opened, "/full"))
        except InvalidStatus:
            refused += 1
    assert (len(lines), refused) == (3, 197)
    for line in lines:
        line.close()


def silent(opened: Server, source: str = "127.0.0.1") -> socket.socket:
    """A connection from an address of this machine that says nothing.

    It waits for less than the server does for the end of a request.
    """
    patience = server.HANDSHAKE_SECONDS / 2
    return socket.create_connection(("127.0.0.1", opened.port), patience, (source, 0))


def cut(line: socket.socket) -> bool:
    """Whether a connection ends before our patience does."""
    try:
        return line.recv(1) == b""
    except ConnectionResetError:
        return True


def test_connections_that_say_nothing_make_room(opened: Server, monkeypatch: pytest.MonkeyPatch):
    """They take no place, but each takes one of the files that a process may have open."""
    assert opened._door.serving is not None
    handlers = opened._door.serving[0].handlers
    until(opened, lambda: not handlers)
    monkeypatch.setattr(sockets, "CONNECTIONS", 6)
    monkeypatch.setattr(sockets, "SILENT_SECONDS", 1000)  # that is not what ends them here
    with ExitStack() as lines:
        other = lines.enter_context(silent(opened, "127.0.0.2"))
        crowd = [lines.enter_context(silent(opened)) for _ in range(5)]
        assert cut(crowd[0])  # an address has half of the places
        assert cut(crowd[1])
        until(opened, lambda: len(handlers) == 4)
        assert ask(opened)[0] == 401  # the oldest goes for it
        assert cut(crowd[2])
        lines.enter_context(dial(opened))
        for number in range(3, 8):
            lines.enter_context(silent(opened, f"127.0.0.{number}"))
        assert cut(other)  # the oldest of all that are silent, where there is no place at all
        assert cut(crowd[3])
        assert cut(crowd[4])
        assert opened._door.taken["/stream"] == 1
        until(opened, lambda: len(handlers) == 6)
    until(opened, lambda: not handlers)
    assert ask(opened)[0] == 401


def test_a_connection_without_a_request_is_cut_off_soon(
    opened: Server, monkeypatch: pytest.MonkeyPatch
):
    assert opened._door.serving is not None
    handlers = opened._door.serving[0].handlers
    until(opened, lambda: not handlers)
    with silent(opened) as slow:
        slow.sendall(b"GET / HT")
        until(opened, lambda: [c._silence.cancelled() for c in handlers] == [True])  # type: ignore[attr-defined]
        monkeypatch.setattr(sockets, "SILENT_SECONDS", 0.01)
        with silent(opened) as mute:
            assert cut(mute)
        slow.sendall(f"TP/1.1\r\nHost: 127.0.0.1:{opened.port}\r\n\r\n".encode())
        assert slow.recv(12) == b"HTTP/1.1 401"


# What may be said to viser


class Panel:
    """A client of viser's on the server's page, and controls it may use."""

    def __init__(self, opened: Server) -> None:
        self.opened = opened
        gui = opened.viser.gui
        self.button, self.slider = gui.add_button("Train"), gui.add_slider("N", 0, 10, 1, 5)
        self.choice = gui.add_dropdown("Capture", ("fox", "tiny"))
        self.upload = gui.add_upload_button("Photos")
        self.handles = (self.button, self.slider, self.choice, self.upload)
        self.pressed = threading.Semaphore(0)
        self.button.on_click(lambda _: self.pressed.release())

    def press(self, line: Connection) -> None:
        """Presses the button, and returns when the callback has run."""
        say(line, update(self.button, True))
        assert self.pressed.acquire(timeout=PATIENCE)


@pytest.fixture
def panel(opened: Server) -> Iterator[Panel]:
    made = Panel(opened)
    yield made
    for handle in made.handles:
        handle.remove()


def update(handle: Any, value: Any, name: str = "value") -> dict[str, Any]:
    """The message that sets an attribute of a control."""
    return {"type": "GuiUpdateMessage", "uuid": handle._impl.uuid, "updates": {name: value}}


def say(line: Connection, message: dict[str, Any]) -> None:
    line.send(msgspec.msgpack.encode(message))


def joined(opened: Server, line: Connection) -> viser.ClientHandle:
    """The client that viser knows once it has sent a camera."""
    known = set(opened.viser.get_clients())
    say(line, CAMERA)
    until(opened, lambda: set(opened.viser.get_clients()) != known)
    (name,) = set(opened.viser.get_clients()) - known
    return opened.viser.get_clients()[name]


def test_the_panel_works_for_clients_in_control(opened: Server, panel: Panel):
    with dial(opened, "/full") as line:
        client = joined(opened, line)
        assert (client.camera.image_width, opened.role_of(client.client_id)) == (640, "control")
        say(line, update(panel.slider, 7))
        say(line, update(panel.choice, "tiny"))
        panel.press(line)
        assert (panel.slider.value, panel.choice.value) == (7, "tiny")
    emptied(opened)
    assert opened.role_of(client.client_id) == "view"


def test_a_guest_changes_nothing(opened: Server, panel: Panel):
    with dial(opened, "/full", "view") as viewer, dial(opened, "/full") as line:
        assert opened.role_of(joined(opened, viewer).client_id) == "view"
        joined(opened, line)
        say(viewer, update(panel.button, True))
        say(viewer, update(panel.slider, 7))
        say(viewer, {**CAMERA, "image_width": 641})  # arrives after them
        handle = next(
            c for i, c in opened.viser.get_clients().items() if opened.role_of(i) == "view"
        )
        until(opened, lambda: handle.camera.image_width == 641)
        panel.press(line)
        assert not panel.pressed.acquire(blocking=False)
        assert panel.slider.value == 5


def test_attacks_that_viser_believed_are_dropped(opened: Server, panel: Panel):
    uuid = panel.upload._impl.uuid
    attacks = [
        update(panel.button, [], "update_cb"),
        update(panel.slider, 1e9),
        update(panel.slider, 1e9, "max"),
        update(panel.slider, 99, "_min"),
        update(panel.choice, "../../etc/passwd"),
        {**CAMERA, "position": [float("nan"), 0.0, 0.0]},
        {**CAMERA, "image_width": 10**9},
        {
            "type": "FileTransferStartUpload",
            "source_component_uuid": uuid,
            "transfer_uuid": "t",
            "filename": "../../../tmp/x.py",
            "mime_type": "text/plain",
            "part_count": 2,
            "size_bytes": 10**12,
        },
        {
            "type": "FileTransferPart",
            "source_component_uuid": uuid,
            "transfer_uuid": "t",
            "part_index": 0,
            "content": b"x",
        },
        {"type": "ShareUrlRequest"},
        {"type": "ShareUrlDisconnect"},
        {"type": "RunJavascriptMessage", "source": "alert(1)"},
        {"type": "GuiRemoveMessage", "uuid": uuid},
        {"type": "NoSuchMessage"},
    ]
    with dial(opened, "/full") as line:
        client = joined(opened, line)
        before = opened.gate.refused["The message may not be sent to viser"]
        for attack in attacks:
            say(line, attack)
        for garbage in (b"", b"\xc1", b"\x91" * 50_000, b"\x80", "text"):
            line.send(garbage)
        panel.press(line)  # the connection lives, and so does the button
        refused = opened.gate.refused["The message may not be sent to viser"] - before
        assert refused == len(attacks) + 5
        assert (panel.slider.value, panel.slider.max, panel.choice.value) == (5, 10, "fox")
        assert (client.camera.image_width, client.camera.position[0]) == (640, 0)
    assert opened.viser.gui._current_file_upload_states == {}
    assert opened.viser._share_tunnel is None
    handlers = opened.viser._websock_server._incoming_handlers
    assert viser_messages.ShareUrlRequest not in handlers


def test_a_page_of_another_version_is_refused_and_not_printed(
    opened: Server, capfd: pytest.CaptureFixture[str]
):
    for names in (None, ["viser-v0.0.1"], [f"viser-v{viser.__version__}", "viser-vX"]):
        assert refusal(opened, "/full", subprotocols=names) == 400
    assert capfd.readouterr() == ("", "")


def missing(_: str) -> None:
    """No control has that uuid."""


def packed(*pairs: tuple[str, Any]) -> bytes:
    """A message in which a key may come twice."""
    pack = msgspec.msgpack.encode
    return bytes([0x80 + len(pairs)]) + b"".join(pack(key) + pack(value) for key, value in pairs)


def test_viser_reads_only_checked_fields():
    """A key that comes twice is one thing to the first reader and another to the second."""
    share, camera = ("type", "ShareUrlRequest"), tuple(CAMERA.items())
    width = ("image_width", 10**9)
    for pairs in ((share, *camera), (*camera, share), (width, *camera, width), (*camera, ("x", 1))):
        assert checked(packed(*pairs), guest=False, control_of=missing) is None
    passed = checked(packed(("fov", 0.8), *camera), guest=False, control_of=missing)
    assert passed is not None
    assert passed.count(b"fov") == 1
    assert msgspec.msgpack.decode(passed)["fov"] == CAMERA["fov"]


def test_a_camera_passes_in_both_roles():
    for role in ("control", "view"):
        camera = checked(msgspec.msgpack.encode(CAMERA), guest=role == "view", control_of=missing)
        assert camera is not None
        read: Any = viser_messages.Message.deserialize(camera)
        assert (read.wxyz, read.image_width) == ((1.0, 0.0, 0.0, 0.0), 640)


@pytest.mark.parametrize(
    "change",
    [
        {name: value}
        for name in ("position", "look_at", "up_direction")
        for value in ([0.0, 0.0], [float("inf"), 0, 0], [0, 0, 1e300], ["0", 0, 0], None, 3)
    ]
    + [{"fov": value} for value in (0.0, -1.0, 3.2, float("nan"), "1", True)]
    + [{side: v} for side in ("image_width", "image_height") for v in (0, -5, SIDE + 1, 2**60)]
    + [{"near": -1.0}, {"far": float("inf")}, {"wxyz": [1.0, 0.0, 0.0]}],
    ids=str,
)
def test_a_camera_is_finite_and_its_picture_has_a_size(change: dict[str, Any]):
    message = msgspec.msgpack.encode({**CAMERA, **change})
    assert checked(message, guest=False, control_of=missing) is None


def test_every_message_that_is_allowed_is_one_of_visers():
    """By name and by fields: a field that viser renames would make a page that does nothing."""
    point, word = (0.0, 1.0, 2.0), "word"
    told = [
        viser_messages.SceneNodeClickMessage(word, None, point, point, (0.5, 0.5), None),
        viser_messages.LocalStorageGetItemResponseMessage(word, None, word),
        viser_messages.GuiUpdateMessage(word, {"value": 3}),
        viser_messages.GuiButtonHoldMessage(word, 10.0),
        viser_messages.GuiFormSubmitMessage(word),
        viser_messages.GuiFormDirtyMessage(word),
        viser_messages.CommandTriggerMessage(word),
    ]
    for message in told:
        sent = msgspec.msgpack.encode(message.as_serializable_dict())
        passed = checked(sent, guest=False, control_of=lambda _: SimpleNamespace(value=2))
        assert passed is not None
        assert viser_messages.Message.deserialize(passed) == message
        looks = type(message).__name__ in (
            "SceneNodeClickMessage",
            "LocalStorageGetItemResponseMessage",
        )
        assert (checked(sent, guest=True, control_of=missing) is not None) == looks


@pytest.mark.parametrize(
    ("control", "good", "bad"),
    [
        ({"value": True}, [True, False], [1, "yes", None, [True]]),
        ({"value": "a"}, ["b", ""], [1, True, None, ["a"]]),
        ({"value": 3, "min": 0, "max": 10}, [0, 10, 2.5], [-1, 11, True, "5", None]),
        ({"value": 3.0, "min": None, "max": None}, [-1e9, 7], ["7", None]),
        ({"value": (1, 2), "min": 0, "max": 9}, [[0, 9]], [[1], [1, 2, 3], [0, 10], 1, ["a", 1]]),
        ({"value": (1.0, 2.0), "min": (0, 1), "max": (1, 2)}, [[0, 1.5]], [[0, 0], [2, 2]]),
        ({"value": "a", "options": ("a", "b")}, ["a", "b"], ["c", "", 0]),
        ({"value": False, "disabled": True}, [], [True]),
        ({"value": b"a file"}, [], ["a", None, 1, True]),
    ],
)
def test_a_control_accepts_only_values_that_its_widget_allows(control: dict, good: list, bad: list):
    handle = SimpleNamespace(**control)
    assert [value for value in good if not fits(value, handle)] == []
    assert [value for value in bad if fits(value, handle)] == []


# Starting and stopping


def listens(port: int) -> bool:
    """Whether anybody listens there."""
    with closing(socket.socket()) as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


def gone(before: set[threading.Thread]) -> bool:
    """Whether all threads that were not there before have ended."""
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
    return set(threading.enumerate()) <= before


def test_stopping_frees_port_threads_and_clients(capfd: pytest.CaptureFixture[str]):
    before, cancelled = set(threading.enumerate()), threading.Event()

    async def deaf(client: StreamSocket) -> None:
        """Notices nothing of its client."""
        await client.send("hello")
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    running = open_server(port=0, stream=deaf)
    line = dial(running)
    mute = socket.create_connection(("127.0.0.1", running.port), PATIENCE)
    assert line.recv(PATIENCE) == "hello"
    running.stop()
    assert cancelled.is_set()
    assert ended(line)[0] == 1001
    mute.close()
    assert gone(before)
    assert not listens(running.port)
    running.stop()
    assert capfd.readouterr() == ("", "")
    again = open_server(port=running.port, stream=deaf)
    assert again.port == running.port
    again.stop()
    assert gone(before)


def test_a_stream_learns_that_its_client_is_gone(opened: Server, monkeypatch: pytest.MonkeyPatch):
    reasons: list[str] = []
    told = threading.Event()

    async def listening(client: StreamSocket) -> None:
        try:
            await client.recv()
        except Closed as end:
            with pytest.raises(Closed):
                await client.send("too late")
            reasons.append(str(end))
            told.set()
            raise

    monkeypatch.setattr(opened._door, "stream", listening)
    dial(opened).close(1000, "enough")
    assert told.wait(PATIENCE)
    assert reasons == ["enough"]


def test_a_stream_can_end_its_socket_and_say_why(opened: Server, monkeypatch: pytest.MonkeyPatch):
    async def leaving(client: StreamSocket) -> None:
        await client.close("Nobody looks " * 20)

    monkeypatch.setattr(opened._door, "stream", leaving)
    with dial(opened) as line:
        assert ended(line) == (1000, ("Nobody looks " * 20)[:123])
    own = f"127.0.0.1:{opened.port}"
    request = (
        f"GET /stream HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}\r\n"
        f"Cookie: {cookie(opened)}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    # A client that never says goodbye is cut off, and gives its place back.
    assert raw(opened, request.encode()).startswith(b"HTTP/1.1 101 ")
    emptied(opened)


def test_a_stream_that_fails_ends_its_socket_and_is_logged(
    opened: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async def failing(client: StreamSocket) -> None:
        raise ArithmeticError("the stream is broken")

    monkeypatch.setattr(opened._door, "stream", failing)
    assert ended(dial(opened))[0] == 1011
    assert "the stream is broken" in caplog.text


def test_no_log_holds_a_secret(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "websockets")
    caplog.set_level(logging.WARNING, "websockets.client")  # the browser's side
    log = logging.getLogger("lumigraph.viewer")
    ours = [one for one in log.filters if type(one).__name__ != "NoHttpErrors"]  # viser's
    monkeypatch.setattr(log, "filters", ours)
    running = open_server(port=0, stream=echo)
    address, token = running.urls["control"].split("/?token=")
    line = f"Host: {address.removeprefix('http://')}\r\nCookie: {cookie(running)}\r\n"
    for method, version in (("GET", "1.0"), ("POST", "1.1"), ("GET", "1.1\r\nbad line")):
        raw(running, f"{method} /?token={token} HTTP/{version}\r\n{line}\r\n".encode())
    raw(running, f"GET /?token={token}\r\n\r\n".encode())
    assert ask(running, f"/?token={token}")[0] == 303
    assert ask(running, "/full", cookie=cookie(running))[0] == 200
    with dial(running) as client:
        client.recv(PATIENCE)
    running.stop()
    seen = caplog.text + "".join(capfd.readouterr()) + repr(running)
    held = [*running.gate.tokens.values(), *running.gate.cookies.values()]
    assert [value for value in held if value in seen] == []


def test_without_a_token_strangers_still_stay_out():
    running = open_server(port=0, stream=echo, token=False)
    try:
        assert running.urls == {"control": f"http://127.0.0.1:{running.port}/"}
        assert ask(running)[0] == 200
        assert ask(running, host="evil.example")[0] == 403
        assert ask(running, "/?websocket=ws://evil.example")[1]["Location"] == "/"
        assert refusal(running, role=None, origin="http://evil.example") == 403
        with dial(running, role=None) as line:
            assert line.recv(PATIENCE) == "control"
    finally:
        running.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_a_token_only_this_machine_is_served(host: str):
    with pytest.raises(ValueError, match="Without a token"):
        open_server(host, 0, stream=echo, token=False)


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "2001:db8::1", "nowhere.invalid", "", "127.0.0.1:80"]
)
def test_a_host_that_cannot_be_bound_is_an_error(host: str):
    before = set(threading.enumerate())
    with pytest.raises(OSError, match=r"cannot be served on .*: give "):
        open_server(host, 0, stream=echo)
    assert gone(before)


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch):
    with closing(socket.create_server(("127.0.0.1", 0))) as held:
        port = held.getsockname()[1]
        running = open_server(port=port, stream=echo)
        running.stop()
        assert port < running.port < port + gate.PORTS
        assert f":{running.port}/" in running.urls["control"]
        monkeypatch.setattr(gate, "PORTS", 1)
        with pytest.raises(OSError, match=f"No port from {port} to {port} is free"):
            open_server(port=port, stream=echo)
    for number in (-1, 65536):
        with pytest.raises(OSError, match="not a port"):
            open_server(port=number, stream=echo)


def test_the_line_for_another_machine_names_port_and_place(opened: Server):
    line = ssh_line(opened)
    assert line.startswith(f"ssh -N -L {opened.port}:127.0.0.1:{opened.port} ")
    assert line.endswith(f"@{socket.gethostname()}")
    everywhere = ssh_line(replace(opened, address=ip_address("::")))
    assert f":[::1]:{opened.port} " in everywhere


# A viser that would undo the gate


def test_a_viser_that_serves_by_other_means_does_not_start(monkeypatch: pytest.MonkeyPatch):
    """As a new version might: it keeps a function of its own, and the gate is nowhere before it."""
    before, started = set(threading.enumerate()), []
    genuine = sockets_server.serve

    def own(*parts: Any, **options: Any) -> Any:
        started.append(parts[2])
        return genuine(*parts, **options)

    other = SimpleNamespace(
        asyncio=SimpleNamespace(server=SimpleNamespace(serve=own)),
        datastructures=websockets.datastructures,
        exceptions=websockets.exceptions,
    )
    monkeypatch.setattr(_infra, "websockets", other)
    with pytest.raises(RuntimeError, match=r"cannot be served safely: it starts without the gate"):
        open_server(port=0, stream=echo)
    assert started
    assert [port for port in started if listens(port)] == []
    assert gone(before)
    assert sockets_server.serve is genuine


@pytest.mark.parametrize("token", [True, False])
def test_a_gate_that_lets_strangers_through_does_not_start(
    monkeypatch: pytest.MonkeyPatch, token: bool
):
    before = set(threading.enumerate())

    def open_door(door: Any, request: Request, page: Callable[[Request], Response]) -> Any:
        return page(Request("/", Headers()))

    monkeypatch.setattr(server._Door, "answer", open_door)
    with pytest.raises(RuntimeError, match=r"answers a stranger with 200 instead of 403"):
        open_server(port=0, stream=echo, token=token)
    assert gone(before)


def test_an_error_is_raised_if_viser_does_not_start(monkeypatch: pytest.MonkeyPatch):
    before, over = set(threading.enumerate()), threading.Event()

    def hanging(*_: Any, **__: Any) -> None:
        over.wait(PATIENCE)

    monkeypatch.setattr(server, "START_SECONDS", 0.05)
    monkeypatch.setattr(viser, "ViserServer", hanging)
    with pytest.raises(RuntimeError, match="it does not start"):
        open_server(port=0, stream=echo)
    over.set()
    assert gone(before)


def test_an_admitted_request_becomes_a_visit():
    gate = make_gate(ip_address("127.0.0.1"), token=True)
    headers = Headers({"Host": "LOCALHOST", "Cookie": f"lumigraph_80={gate.cookies['view']}"})
    assert enter(gate, Request("/light?a=b", headers)) == Visit(
        "view", "/light", "localhost", False
    )
