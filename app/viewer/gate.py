"""Access to the page: the hosts, origins, tokens, cookies and addresses that the server accepts.

The address that a person opens holds a token. Opening it exchanges the token for a cookie that
scripts cannot read, so that the token stays neither in the address bar nor in links that leave the
page. Two checks keep other pages of the same browser out. `Host` must be a name of this server: a
page that points its own name here (DNS rebinding) sends another. The `Origin` of a socket must be
that host: browsers let any page open a socket to anywhere, and send our cookie along. Cookies do
not depend on the port: on a machine that several people share, a browser that visits another
server under the same name sends it our cookie, too.
"""

import errno
import hmac
import re
import secrets
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal
from urllib.parse import parse_qsl, urlencode

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

Address = IPv4Address | IPv6Address

Role = Literal["control", "view"]
"""Clients in control may change things; those with the role "view" are guests and may only look."""

PAGES = ("/", "/light", "/full")

FORBIDDEN = frozenset({"websocket", "playbackPath"})
"""Parameters with which viser's page would load its scene, and scripts, from another server."""

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
"""The policy that viser's page needs: it is one file with scripts, styles, WebAssembly and
workers."""

PORTS = 100
"""The number of ports that are tried one after the other; no machine serves that many pages."""

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
    """The secrets and names that a server accepts.

    Attributes:
        address: The address that the server is bound to.
        tokens: The token of each role; if empty, everybody who reaches the server is in control.
        cookies: The cookie of each role, which a browser gets for the token. All browsers of a role
            have the same, so no table of sessions can be filled, and none pushed out of it.
        names: Names of the server other than addresses, in lower case.
        refused: The number of refusals by their reason; nothing of the requests is kept.
    """

    address: Address
    tokens: Mapping[Role, str] = field(repr=False)
    cookies: Mapping[Role, str] = field(repr=False)
    names: frozenset[str]
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Visit:
    """A request that was accepted: its role, path and `Host`, and whether it opens a socket."""

    role: Role
    path: str
    host: str
    socket: bool


def make_gate(address: Address, *, token: bool) -> Gate:
    """The gate of a server on this address.

    Raises ValueError if other machines could enter without a token.
    """
    if not token and not address.is_loopback:
        raise ValueError(
            f"Without a token the page can only be served on 127.0.0.1, not on {address}, where "
            "everybody could control it: leave out --no-token or --host"
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
    """The visit if the request is accepted, else the response: a refusal, or a redirection."""
    match = HOST.fullmatch(_only(request.headers, "Host").lower())
    if match is None or not _known(gate, match[1]):
        return refuse(gate, HTTPStatus.FORBIDDEN, "This server does not have that host name")
    host = match[0]
    path, _, query = request.path.partition("?")
    try:
        asked = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=16))
    except ValueError:
        return refuse(gate, HTTPStatus.BAD_REQUEST, "The address has too many parameters")
    upgrade = bool(request.headers.get_all("Upgrade"))
    if FORBIDDEN & asked.keys():
        # viser's page writes its own into the address bar, so a reload and a bookmark have them.
        if upgrade or path not in PAGES or "token" in asked:
            return refuse(gate, HTTPStatus.BAD_REQUEST, "That parameter is not allowed here")
        return _onward(path, {k: value for k, value in asked.items() if k not in FORBIDDEN})
    if upgrade and _only(request.headers, "Origin") not in (f"http://{host}", f"https://{host}"):
        return refuse(gate, HTTPStatus.FORBIDDEN, "Only pages of this server may open sockets")
    name = f"lumigraph_{match[2] or 80}"
    if "token" in asked and not upgrade:
        return _exchange(gate, path, asked, name)
    role = _role(gate, request.headers, name)
    if role is None:
        sentence = "Open the address with ?token= in it that was printed when the page was started"
        return refuse(gate, HTTPStatus.UNAUTHORIZED, sentence)
    return Visit(role, path, host, upgrade)


def refuse(gate: Gate, status: HTTPStatus, sentence: str) -> Response:
    """The response that refuses a request, with the reason; the refusal is counted."""
    gate.refused[sentence] += 1
    return answer(status, f"{sentence}.\n".encode(), "text/plain; charset=utf-8")


def answer(status: HTTPStatus, body: bytes, kind: str, host: str = "") -> Response:
    """A response with the headers that isolate our pages from others, see `sealed`."""
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body))})
    return sealed(Response(status.value, status.phrase, headers, body), STRICT, host)


def sealed(response: Response, policy: str, host: str) -> Response:
    """The response with isolating headers added; its page may open sockets to `host` alone."""
    sockets = f"ws://{host} wss://{host}" if host else ""  # older Safari does not count as 'self'
    response.headers["Content-Security-Policy"] = policy.format(sockets=sockets)
    for name, value in HEADERS.items():
        response.headers[name] = value
    return response


def _known(gate: Gate, name: str) -> bool:
    """Whether this is a host name of the server.

    A server on all interfaces accepts every address, also one that a router or a container host
    translates. That lets no other page in: rebinding needs a name, and a page that was loaded from
    an address comes from the machine of that address.
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
    """The redirection to the page without the token in its address, with the cookie."""
    role = _holder(gate.tokens, asked.pop("token"))
    if gate.tokens and role is None:
        return refuse(
            gate,
            HTTPStatus.FORBIDDEN,
            "That token is not valid: open the address that was printed last",
        )
    response = _onward(path, asked)
    if role is not None:
        response.headers["Set-Cookie"] = (
            f"{name}={gate.cookies[role]}; HttpOnly; SameSite=Lax; Path=/; Max-Age={COOKIE_SECONDS}"
        )
    return response


def _onward(path: str, asked: Mapping[str, str]) -> Response:
    """The redirection to a page of ours with these parameters."""
    rest = f"?{urlencode(asked, errors='replace')}" if asked else ""
    response = answer(HTTPStatus.SEE_OTHER, b"", "text/plain; charset=utf-8")
    response.headers["Location"] = (path if path in PAGES else "/") + rest
    return response


def _role(gate: Gate, headers: Headers, name: str) -> Role | None:
    """The role by the cookie of this name; None if there is no valid cookie.

    The name holds the port that the browser sees, because servers on other ports of the same host
    share its cookies. Python's parser is not used: one malformed cookie makes it drop all.
    """
    if not gate.tokens:
        return "control"
    for pair in ";".join(headers.get_all("Cookie")).split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name and (role := _holder(gate.cookies, value)):
            return role
    return None


def _holder(secrets_of: Mapping[Role, str], value: str) -> Role | None:
    """The role with this secret, found in a time that tells nothing about the secrets."""
    given = value.encode("utf-8", "surrogatepass")
    found: Role | None = None
    for role, secret in secrets_of.items():
        if hmac.compare_digest(secret.encode(), given):
            found = role
    return found


# Addresses and ports -----------------------------------------------------------------------------


def address_of(host: str) -> Address:
    """The address to bind to. Of names only localhost is taken: to look up others can take long."""
    try:
        return ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise OSError(
            f"The page cannot be served on {host!r}: give an address of this machine, such as "
            "127.0.0.1 or 0.0.0.0, or localhost"
        ) from None


def reached(address: Address) -> Address:
    """The address at which this machine itself reaches a server on `address`."""
    if not address.is_unspecified:
        return address
    return ip_address("127.0.0.1" if address.version == 4 else "::1")


def literal(address: Address) -> str:
    """An address as it is written in a URL."""
    return str(address) if address.version == 4 else f"[{address}]"


def listen(address: Address, port: int) -> socket.socket:
    """A listening socket on the first free port; OSError if there is none.

    viser itself would change the port silently, and wait for ever on an address that it cannot use.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    if not 0 <= port < 65536:
        raise OSError(f"{port} is not a port: give one from 0 to 65535")
    last = min(port + PORTS, 65536) if port else 1
    for number in range(port, last):
        try:
            return socket.create_server((str(address), number), family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OSError(
                    f"The page cannot be served on {address}, port {number} "
                    f"({error.strerror or error}): give another --host or --port"
                ) from None
    raise OSError(f"No port from {port} to {last - 1} is free on {address}: give another --port")
