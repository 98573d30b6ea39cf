"""Who may come in: which hosts, origins, tokens and cookies the page's server accepts.

The address that a person is given holds a token. Opening it exchanges the token for a cookie that
scripts cannot read, so that the token stays neither in the address bar nor in links that leave the
page. Two checks keep other pages of the same browser out: `Host` must be a name of this server,
which a page that points its own name here (DNS rebinding) cannot send, and a socket's `Origin`
must be that host, because browsers let any page open a socket to anywhere and send our cookie
along. Cookies know nothing of ports: on a machine that several people share, somebody else's server
under the same name would be sent ours by a browser that visits it.
"""

import hmac
import re
import secrets
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from typing import Literal
from urllib.parse import parse_qsl, urlencode

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from lumigraph.app.viewer.ports import Address

Role = Literal["control", "view"]
"""Whether a person may change things or only look."""

PAGES = ("/", "/light", "/full")

FORBIDDEN = frozenset({"websocket", "playbackPath"})
"""Parameters by which viser's page would take its scene, and scripts, from another server."""

COOKIE_SECONDS = 7 * 24 * 3600
"""Longer than a reconstruction; the secret in the cookie dies with the server anyway."""

HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?")

STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' {sockets}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
VISER = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob: "
    "data:; worker-src blob: data:; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; "
    "font-src 'self' data:; connect-src 'self' {sockets} blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""What viser's page needs: it is one file with scripts, styles, WebAssembly and workers inside."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Connection": "close",
}


@dataclass(frozen=True)
class Gate:
    """What a server accepts.

    Attributes:
        address: What it is bound to.
        tokens: What opens the page in each role; if empty, everybody who reaches it controls it.
        cookies: What a browser holds after that, by role. One secret for each role, however many
            browsers come, so that nobody can fill a table of sessions or push others out of it.
        names: Names of the server other than addresses, in lower case.
        refused: How often it refused, by the reason; nothing of what was sent is kept.
    """

    address: Address
    tokens: Mapping[Role, str] = field(repr=False)
    cookies: Mapping[Role, str] = field(repr=False)
    names: frozenset[str]
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Visit:
    """A request that passed: who asks for what, by which `Host`."""

    role: Role
    path: str
    host: str
    socket: bool


def make_gate(address: Address, *, token: bool) -> Gate:
    """The gate of a server on this address; ValueError if it would be open to other machines."""
    if not token and not address.is_loopback:
        raise ValueError(
            f"Without a token the page can only be served on 127.0.0.1, not on {address}: whoever "
            "reached it could control it. Keep the token, or drop the host"
        )
    roles: tuple[Role, ...] = ("control", "view") if token else ()
    names = {"localhost"}
    if not address.is_loopback:
        names.add(socket.gethostname().lower())
    return Gate(
        address=address,
        tokens={role: secrets.token_urlsafe(32) for role in roles},
        cookies={role: secrets.token_urlsafe(32) for role in roles},
        names=frozenset(names),
    )


def enter(gate: Gate, request: Request) -> Visit | Response:
    """The visit, or what the visitor is answered instead: a refusal, or the way in."""
    match = HOST.fullmatch(_only(request.headers, "Host").lower())
    if match is None or not _known(gate, match[1]):
        return refuse(gate, HTTPStatus.FORBIDDEN, "This server does not go by that host name")
    host = match[0]
    path, _, query = request.path.partition("?")
    try:
        asked = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=16))
    except ValueError:
        return refuse(gate, HTTPStatus.BAD_REQUEST, "There is too much after the question mark")
    upgrade = bool(request.headers.get_all("Upgrade"))
    if FORBIDDEN & asked.keys():
        # viser's page writes its own into the address bar, so a reload and a bookmark have them.
        if upgrade or path not in PAGES or "token" in asked:
            return refuse(gate, HTTPStatus.BAD_REQUEST, "That parameter is not allowed here")
        return _onward(path, {k: value for k, value in asked.items() if k not in FORBIDDEN})
    if upgrade and _only(request.headers, "Origin") not in (f"http://{host}", f"https://{host}"):
        return refuse(gate, HTTPStatus.FORBIDDEN, "Sockets are only for this server's own pages")
    name = f"lumigraph_{match[2] or 80}"
    if "token" in asked and not upgrade:
        return _exchange(gate, path, asked, name)
    role = _role(gate, request.headers, name)
    if role is None:
        sentence = "Open the address with ?token= in it that was shown when the page was started"
        return refuse(gate, HTTPStatus.UNAUTHORIZED, sentence)
    return Visit(role, path, host, upgrade)


def refuse(gate: Gate, status: HTTPStatus, sentence: str) -> Response:
    """The answer that says no, and why; it is counted."""
    gate.refused[sentence] += 1
    return answer(status, f"{sentence}.\n".encode(), "text/plain; charset=utf-8")


def answer(status: HTTPStatus, body: bytes, kind: str, host: str = "") -> Response:
    """A response with every header that keeps a page of ours to itself, see `sealed`."""
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body))})
    return sealed(Response(status.value, status.phrase, headers, body), STRICT, host)


def sealed(response: Response, policy: str, host: str) -> Response:
    """The response with these headers added; `host` is where its page may open sockets."""
    sockets = f"ws://{host} wss://{host}" if host else ""  # older Safari does not count as 'self'
    response.headers["Content-Security-Policy"] = policy.format(sockets=sockets)
    for name, value in HEADERS.items():
        response.headers[name] = value
    return response


def _known(gate: Gate, name: str) -> bool:
    """Whether the server goes by this host name.

    Bound to all interfaces it goes by any address, also one that a router or a container host
    translates. That lets no other page in: rebinding needs a name, and a page that was loaded from
    an address is served by whoever has that address.
    """
    if name in gate.names:
        return True
    try:
        address = ip_address(name.strip("[]"))
    except ValueError:
        return False
    if gate.address.is_unspecified:
        return not address.is_unspecified
    return address.is_loopback or address == gate.address


def _only(headers: Headers, name: str) -> str:
    """The value of a header that came exactly once, else an empty string."""
    values = headers.get_all(name)
    return values[0] if len(values) == 1 else ""


def _exchange(gate: Gate, path: str, asked: dict[str, str], name: str) -> Response:
    """The way on to the page without the token in its address, and the cookie for it."""
    role = _holder(gate.tokens, asked.pop("token"))
    if gate.tokens and role is None:
        return refuse(gate, HTTPStatus.FORBIDDEN, "That token is not, or no longer, valid")
    response = _onward(path, asked)
    if role is not None:
        response.headers["Set-Cookie"] = (
            f"{name}={gate.cookies[role]}; HttpOnly; SameSite=Lax; Path=/; Max-Age={COOKIE_SECONDS}"
        )
    return response


def _onward(path: str, asked: Mapping[str, str]) -> Response:
    """The way on to a page of ours with these parameters."""
    rest = f"?{urlencode(asked, errors='replace')}" if asked else ""
    response = answer(HTTPStatus.SEE_OTHER, b"", "text/plain; charset=utf-8")
    response.headers["Location"] = (path if path in PAGES else "/") + rest
    return response


def _role(gate: Gate, headers: Headers, name: str) -> Role | None:
    """The role by the cookie of this name; None if there is no valid one.

    The name has the port that the browser sees, because servers on other ports of the same host
    share its cookies. They are split by hand: Python's parser gives up on all where one is odd.
    """
    if not gate.tokens:
        return "control"
    for pair in ";".join(headers.get_all("Cookie")).split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name and (role := _holder(gate.cookies, value)):
            return role
    return None


def _holder(secrets_of: Mapping[Role, str], value: str) -> Role | None:
    """The role whose secret this is, found in a time that tells nothing about the secrets."""
    given = value.encode("utf-8", "surrogatepass")
    found: Role | None = None
    for role, secret in secrets_of.items():
        if hmac.compare_digest(secret.encode(), given):
            found = role
    return found
