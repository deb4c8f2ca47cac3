"""The link between a producer's process and a stream's: endpoints and messages.

The producer's side says ``["kvstream", 1, token | nil]`` and then sends encoded frames. The stream's side
answers with the number of frames it has taken so far on this connection, now and then and whenever nothing
more is waiting, or with a text that says why it closes. Every message is preceded by its length in
four bytes, big-endian; hellos and answers are msgpack.
"""

import ipaddress
from typing import Self
from urllib.parse import urlsplit

import anyio
import msgspec
from anyio.abc import ByteStream

from kvstream.errors import ConfigError, MalformedInputError

LINK_VERSION = 1
MAX_HELLO_BYTES = 4096

_LENGTH_BYTES = 4


class Endpoint(msgspec.Struct, frozen=True):
    """Where a stream listens: ``unix:PATH`` or ``tcp://HOST:PORT``.

    Attributes:
        path: Path of a Unix socket; empty for TCP.
        host: Host name or address; empty for a Unix socket.
        port: TCP port.
    """

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """The endpoint that a text names.

        Raises:
            ConfigError: If it names none.
        """
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(path=text.removeprefix("unix:").removeprefix("//"))
        parts = urlsplit(text)
        try:
            if parts.scheme == "tcp" and parts.hostname and parts.port is not None and not parts.path:
                return cls(host=parts.hostname, port=parts.port)
        except ValueError:
            pass
        raise ConfigError(f"{text!r} is no endpoint; write unix:PATH or tcp://HOST:PORT")

    @classmethod
    def parse_address(cls, text: str) -> Self:
        """The endpoint of an HTTP server, written ``HOST:PORT``.

        Raises:
            ConfigError: If it is none.
        """
        try:
            return cls.parse(f"tcp://{text}")
        except ConfigError:
            raise ConfigError(f"{text!r} is no address to serve at; write HOST:PORT") from None

    def require_guard(self, named: str, token: str | None, insecure: bool) -> None:
        """Refuses to be listened at by others than this machine's processes without a token.

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
        return f"tcp://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can come here."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """What the producer's side says first."""

    protocol: str = "kvstream"
    version: int = LINK_VERSION
    token: str | None = None


def with_length(message: bytes) -> bytes:
    """A message as it is sent."""
    return len(message).to_bytes(_LENGTH_BYTES, "big") + message


class MessageReader:
    """Reads the messages of one direction of a connection.

    Args:
        stream: The connection.
        longest: Bytes that a message may have.
    """

    def __init__(self, stream: ByteStream, longest: int) -> None:
        self.longest = longest
        self._stream = stream
        self._data = bytearray()

    def waiting(self) -> bytes | None:
        """Takes a message that has arrived as a whole; None if there is none.

        Raises:
            MalformedInputError: If the next one is too long.
        """
        if len(self._data) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._data[:_LENGTH_BYTES], "big")
        if length > self.longest:
            raise MalformedInputError(f"a message of {length:,} bytes is longer than {self.longest:,}")
        end = _LENGTH_BYTES + length
        if len(self._data) < end:
            return None
        message = bytes(self._data[_LENGTH_BYTES:end])
        del self._data[:end]
        return message

    async def next(self) -> bytes | None:
        """Waits for a message; None at the end of the connection, where a part of one may be left behind.

        Raises:
            MalformedInputError: If the message is too long.
        """
        while (message := self.waiting()) is None:
            try:
                self._data += await self._stream.receive(1 << 20)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return None
        return message
