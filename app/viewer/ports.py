"""Addresses and ports: what the page's server is bound to, and where it is reached."""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address

PORTS = 100
"""How many ports are tried, one after the other; nobody runs that many pages."""


def address_of(host: str) -> Address:
    """The address to bind to; no name but localhost, since looking one up can take long."""
    try:
        return ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise OSError(
            f"The page cannot be served on {host!r}: give an address of this machine, such as "
            "127.0.0.1 or 0.0.0.0, or localhost"
        ) from None


def reached(address: Address) -> Address:
    """An address at which this machine itself reaches a server that is bound to this one."""
    if not address.is_unspecified:
        return address
    return ip_address("127.0.0.1" if address.version == 4 else "::1")


def literal(address: Address) -> str:
    """An address as it stands in a URL."""
    return str(address) if address.version == 4 else f"[{address}]"


def listen(address: Address, port: int) -> socket.socket:
    """A listening socket on the first port that is free; OSError if none can be had.

    viser would move on silently, and wait for ever on an address that cannot be bound.
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
