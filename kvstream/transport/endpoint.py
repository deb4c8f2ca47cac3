"""The link between a producer's process and a stream's: endpoints and messages.

The producer's side says ``["kvstream", 1, token | nil]`` and then sends encoded frames. The stream's side
answers with the number of frames it has taken so far on this connection, now and then, whenever nothing
more is waiting and before it closes, and with a text that says why it closes. Every message is preceded by
its length in four bytes, big-endian; hellos and answers are msgpack.
"""

import ipaddress
import socket
from typing import Self
from urllib.parse import urlsplit

import anyio
import msgspec
from anyio.abc import ByteStream, SocketAttribute, UNIXSocketStream

from kvstream.errors import ConfigError, MalformedInputError

__all__ = ["Endpoint"]

LINK_VERSION = 1
MAX_HELLO_BYTES = 4096

LARGEST_READ = 256 * 1024
"""Bytes that are read at once while a long message arrives."""

_READ_BYTES = 64 * 1024
_LENGTH_BYTES = 4


class Endpoint(msgspec.Struct, frozen=True):
    """Where a stream listens: ``unix:PATH``, ``tcp://HOST:PORT`` or ``tls://HOST:PORT``.

    Attributes:
        path: Path of a Unix socket; empty for TCP.
        host: Host name or address; empty for a Unix socket.
        port: TCP port.
        tls: Whether connections are encrypted by TLS.
    """

    path: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the endpoint that a text names.

        Raises:
            ConfigError: If it names none.
        """
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(path=text.removeprefix("unix:").removeprefix("//"))
        try:
            parts = urlsplit(text)
            known = parts.scheme in ("tcp", "tls") and not parts.path and parts.username is None
            if known and parts.hostname and parts.port is not None:
                return cls(host=parts.hostname, port=parts.port, tls=parts.scheme == "tls")
        except ValueError:
            pass
        raise ConfigError(f"{text!r} is no endpoint; write unix:PATH, tcp://HOST:PORT or tls://HOST:PORT")

    @classmethod
    def parse_address(cls, text: str) -> Self:
        """Return the endpoint of an HTTP server, written ``HOST:PORT``, or ``:PORT`` for 127.0.0.1.

        Raises:
            ConfigError: If it is none.
        """
        try:
            return cls.parse(f"tcp://127.0.0.1{text}" if text.startswith(":") else f"tcp://{text}")
        except ConfigError:
            raise ConfigError(f"{text!r} is no address to serve at; write HOST:PORT") from None

    def require_guard(self, named: str, token: str | None, insecure: bool) -> None:
        """Refuse to be listened at by others than this machine's processes without a token.

        Args:
            named: How it is called towards the user.
            token: What who comes must know, if anything.
            insecure: Allow it all the same.

        Raises:
            ConfigError: If there is none.
        """
        if not self.is_local and not token and not insecure:
            raise ConfigError(
                f"{named} can be reached from other machines: set a token, or allow it with --insecure"
            )

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'tcp'}://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Return whether only this machine can come here."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_exposed(self) -> bool:
        """Return whether what is sent here can be read on a network."""
        return not self.is_local and not self.tls


HURRY = b""
"""Message of a producer's side that asks for its frames to be acknowledged as soon as that can be."""


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """What the producer's side says first."""

    protocol: str = "kvstream"
    version: int = LINK_VERSION
    token: str | None = None


def with_length(message: bytes) -> bytes:
    """Return a message as it is sent."""
    return len(message).to_bytes(_LENGTH_BYTES, "big") + message


class MessageReader:
    """Reads the messages of one direction of a connection.

    Args:
        stream: The connection.
        longest: Bytes that a message may have.

    Attributes:
        received: Bytes received so far.
    """

    def __init__(self, stream: ByteStream, longest: int) -> None:
        self.longest = longest
        self.received = 0
        self._stream = stream
        is_unix = isinstance(stream, UNIXSocketStream)
        self._socket = stream.extra(SocketAttribute.raw_socket) if is_unix else None  # noqa: S610
        self._data = bytearray()

    @property
    def held(self) -> int:
        """Return bytes received and not yet taken out."""
        return len(self._data)

    def waiting(self) -> bytes | None:
        """Take a message that has arrived as a whole; None if there is none.

        Raises:
            MalformedInputError: If the next one is too long.
        """
        if len(self._data) < _LENGTH_BYTES:
            return None
        end = self._end()
        if len(self._data) < end:
            return None
        with memoryview(self._data) as view:
            message = bytes(view[_LENGTH_BYTES:end])
        del self._data[:end]
        return message

    async def receive(self) -> bool:
        """Wait for some bytes; False at the end of the connection.

        Memory grows with what arrives, never with the length that is announced.

        Raises:
            MalformedInputError: If the message is too long.
            anyio.BrokenResourceError: If the connection has broken.
        """
        held = len(self._data)
        try:
            self._data += await self._stream.receive(self._room())
        except anyio.EndOfStream:
            return False
        if self._socket is not None:
            self._receive_rest(self._socket, held)
        self.received += len(self._data) - held
        return True

    def _room(self) -> int:
        """Return how many bytes to ask for."""
        room = _READ_BYTES
        if len(self._data) >= _LENGTH_BYTES:
            room = min(max(room, self._end() - len(self._data)), LARGEST_READ)
        return min(room, _LENGTH_BYTES + self.longest)

    def _receive_rest(self, connection: socket.socket, held: int) -> None:
        """Take what else has come meanwhile: a Unix socket hands out some 20 kB at a time.

        To wait for each of them would take a turn of the loop, which costs more than the copying.
        """
        most = held + min(LARGEST_READ, _LENGTH_BYTES + self.longest)
        while (room := most - len(self._data)) > 0:
            try:
                piece = connection.recv(room)
            except OSError:  # nothing is there now, or the next ``receive`` says what it is
                return
            if not piece:
                return
            self._data += piece

    async def next(self) -> bytes | None:
        """Wait for a message; None at the end of the connection, where a part of one may be left behind.

        Raises:
            MalformedInputError: If the message is too long.
            anyio.BrokenResourceError: If the connection has broken.
        """
        while (message := self.waiting()) is None:
            if not await self.receive():
                return None
        return message

    def _end(self) -> int:
        length = int.from_bytes(self._data[:_LENGTH_BYTES], "big")
        if length > self.longest:
            raise MalformedInputError(f"a message of {length:,} bytes is longer than {self.longest:,}")
        return _LENGTH_BYTES + length
