"""ZMQ sockets: attaching them over IPv4 or IPv6, and reading messages of any number of parts."""

import ipaddress
import socket as sockets
from typing import Any

import anyio

from kvstream.errors import ConfigError
from kvstream.sources.zmq_address import host_of

MOST_PARTS = 5
"""Parts of a message that are kept: one more than any message that is known has."""

_PARTS_AT_ONCE = 1024  # read of one message before others get their turn
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds between attempts to find an endpoint


def attach_socket(socket: Any, endpoint: str, *, bind: bool, origin: str, ipv6: bool) -> None:
    """Bind or connect a ZMQ socket.

    Args:
        socket: The socket.
        endpoint: Where to.
        bind: Bind it, which serves IPv4 as well if ``ipv6`` is set; otherwise connect it.
        origin: What asks for it, for the error.
        ipv6: Use IPv6 addresses, as ``speaks_ipv6`` says.

    Raises:
        ConfigError: If that fails; it names ``origin``.
    """
    from zmq import IPV6, ZMQError, strerror  # there is a socket, so it is there

    attach = socket.bind if bind else socket.connect
    try:
        try:
            socket.setsockopt(IPV6, int(ipv6))
            attach(endpoint)
        except ZMQError:
            if not (ipv6 and host_of(endpoint) == "*"):
                raise
            socket.setsockopt(IPV6, 0)  # a machine may have no IPv6 at all
            attach(endpoint)
    except (ZMQError, ValueError) as error:
        why = strerror(error.errno) if isinstance(error, ZMQError) and error.errno else error
        raise ConfigError(f"{origin}: cannot {'bind' if bind else 'connect'}: {why}") from error


async def speaks_ipv6(endpoint: str, patience: float = float("inf"), *, bind: bool = False) -> bool:
    """Return whether an endpoint is reached over IPv6.

    A ZMQ socket with IPv6 turned on takes a name's IPv6 address if it has one, and never tries another:
    ``localhost`` would not reach an engine that listens on 127.0.0.1 only, nor the other way round. So a
    name with addresses of both kinds is connected to once, for which it may have to be waited.

    Args:
        endpoint: A ZMQ endpoint.
        patience: Seconds to wait for a name to connect to that has addresses of both kinds, or none yet.
        bind: It is bound to, so that nobody listens there yet: a name with addresses of both kinds, or that
            of a network interface, is bound over IPv4 without a wait.
    """
    host, port = host_of(endpoint), endpoint.rpartition(":")[2]
    if not host:
        return False
    if host == "*":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).version == 6
    except ValueError:
        pass
    pause = _FIRST_PAUSE
    with anyio.move_on_after(patience):
        if bind:
            return await _families(host, port) == {sockets.AF_INET6}
        while True:
            family = await _family(host, port)
            if family is not None:
                return family == sockets.AF_INET6
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
    return False


async def _families(host: str, port: str) -> set[int]:
    """Return the address families of a name; none if it has no address now."""
    try:
        addresses = await anyio.getaddrinfo(host, port, type=sockets.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError):
        return set()
    return {int(family) for family, *_ in addresses}


async def _family(host: str, port: str) -> int | None:
    """Return the address family by which a name can be reached; None if that is not known now."""
    families = await _families(host, port)
    if len(families) < 2:
        return next(iter(families), None)
    try:
        stream = await anyio.connect_tcp(host, int(port))
    except (OSError, UnicodeError, ValueError):
        return None
    async with stream:
        return int(stream.extra(anyio.abc.SocketAttribute.family))  # noqa: S610


class SocketReader:
    """Reads a ZMQ socket's messages without waiting, however many parts they have.

    Args:
        socket: The socket; whoever made it closes it.
    """

    def __init__(self, socket: Any) -> None:
        import zmq

        self.socket = socket
        self._zmq: Any = zmq
        self._parts: list[bytes] = []  # of a message that is not complete

    def read(self) -> list[bytes] | None:
        """Return the first ``MOST_PARTS`` parts of the next message; None if there is none now.

        Raises:
            ZMQError: If the socket fails.
        """
        zmq, socket, parts = self._zmq, self.socket, self._parts
        for _ in range(_PARTS_AT_ONCE):
            try:
                part = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return None
            if len(parts) < MOST_PARTS:
                parts.append(part)
            if not socket.getsockopt(zmq.RCVMORE):
                self._parts = []
                return parts
        return None

    @property
    def is_readable(self) -> bool:
        """Return whether ``read`` may return something.

        Raises:
            ZMQError: If the socket fails.
        """
        return bool(self.socket.getsockopt(self._zmq.EVENTS) & self._zmq.POLLIN)
