"""The link between a producer's process and a stream's: its messages.

The producer's side says ``["kvstream", 1, token | nil]`` and then sends encoded frames. The stream's side
answers with the number of frames it has taken so far on this connection, now and then, whenever nothing
more is waiting and before it closes, and with a text that says why it closes. Every message is preceded by
its length in four bytes, big-endian; hellos and answers are msgpack.
"""

import anyio
import msgspec
from anyio.abc import ByteStream, SocketAttribute, UNIXSocketStream

from kvstream.errors import MalformedInputError

LINK_VERSION = 1
MAX_HELLO_BYTES = 4096

LARGEST_READ = 384 * 1024
"""Bytes that are read at once, at most."""

_READ_BYTES = 64 * 1024
_LENGTH_BYTES = 4

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
        longest: Bytes that a message may have, until ``allow`` says otherwise.

    Attributes:
        received: Bytes received so far.
        is_drained: Whether nothing was left to receive, as far as that is known: of a Unix socket.
    """

    def __init__(self, stream: ByteStream, longest: int) -> None:
        self._longest = longest
        self.received = 0
        self.is_drained = False
        self._stream = stream
        is_unix = isinstance(stream, UNIXSocketStream)
        self._socket = stream.extra(SocketAttribute.raw_socket) if is_unix else None  # noqa: S610
        self._data = bytearray()  # what is held, from _start to _end; its memory is used again
        self._start = self._end = 0

    def allow(self, longest: int) -> None:
        """Accept messages of this many bytes from now on."""
        self._longest = longest

    @property
    def held(self) -> int:
        """Return bytes received and not yet taken out."""
        return self._end - self._start

    def waiting(self) -> bytes | None:
        """Take a message that has arrived as a whole; None if there is none.

        Raises:
            MalformedInputError: If the next one is too long.
        """
        if self.held < _LENGTH_BYTES:
            return None
        end = self._start + self._message_bytes()
        if end > self._end:
            return None
        with memoryview(self._data) as view:
            message = bytes(view[self._start + _LENGTH_BYTES : end])
        self._start = end
        return message

    async def receive(self) -> bool:
        """Wait for some bytes; False at the end of the connection.

        Memory grows with what arrives, never with the length that is announced.

        Raises:
            MalformedInputError: If the message is too long.
            anyio.BrokenResourceError: If the connection has broken.
        """
        try:
            piece = await self._stream.receive(self._wanted())
        except anyio.EndOfStream:
            return False
        with self._room(len(piece)) as room:
            room[:] = piece
        self._add(len(piece))
        self.receive_waiting(LARGEST_READ - len(piece))
        return True

    def receive_waiting(self, most: int = LARGEST_READ) -> None:
        """Take what has come meanwhile: a Unix socket hands out some 20 kB at a time.

        To wait for each of them would take a turn of the loop, which costs more than the copying. Where the
        system does not say what is there (TCP), nothing is taken.

        Args:
            most: Bytes to take.
        """
        most = min(most, _LENGTH_BYTES + self._longest - self.held)
        self.is_drained = False
        while self._socket is not None and most > 0:
            try:
                with self._room(most) as room:
                    n = self._socket.recv_into(room)
            except OSError:  # nothing is there now, or the next ``receive`` says what it is
                self.is_drained = True
                return
            if not n:
                return
            self._add(n)
            most -= n

    def drop(self) -> None:
        """Give back the memory of what was received and not taken out; nothing is read any more."""
        self._data = bytearray()
        self._start = self._end = 0

    def _wanted(self) -> int:
        """Return how many bytes to ask for."""
        wanted = _READ_BYTES
        if self.held >= _LENGTH_BYTES:
            wanted = min(max(wanted, self._message_bytes() - self.held), LARGEST_READ)
        return min(wanted, _LENGTH_BYTES + self._longest)

    def _room(self, size: int) -> memoryview:
        """Return room for some bytes behind those that are held, which ``_add`` then counts."""
        if self._start:
            held = self.held
            with memoryview(self._data) as view:
                view[:held] = view[self._start : self._end]
            self._start, self._end = 0, held
        if len(self._data) > 2 * LARGEST_READ > self._end + size:
            del self._data[self._end + size :]  # memory of a long message that is gone
        if (missing := self._end + size - len(self._data)) > 0:
            self._data += bytes(missing)
        return memoryview(self._data)[self._end : self._end + size]

    def _add(self, size: int) -> None:
        self._end += size
        self.received += size

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

    def _message_bytes(self) -> int:
        """Return bytes of the next message, with its length."""
        length = int.from_bytes(self._data[self._start : self._start + _LENGTH_BYTES], "big")
        if length > self._longest:
            raise MalformedInputError(f"a message of {length:,} bytes is longer than {self._longest:,}")
        return _LENGTH_BYTES + length
