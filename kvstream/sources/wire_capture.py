"""Captures of what an engine published over ZMQ.

They are msgpack arrays ``[received ns, topic, number, payload]``, one after another, with the payloads as
they came: they may hold token ids, which captures that kvstream writes do not.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated

import msgspec

from kvstream.errors import MalformedInputError
from kvstream.events.arrays import ArrayParser
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sources.compression import Decompressor
from kvstream.sources.publisher import batch_number
from kvstream.sources.publishers import Publishers

CAPTURE_START = re.compile(rb"\x94\xcf")
"""First bytes of each message: a msgpack array of four, then a 64-bit integer."""

_AT_ONCE = 256  # messages whose events become a frame
_AT_ONCE_BYTES = 16 * 1024 * 1024


class WireMessage(msgspec.Struct, array_like=True, frozen=True):
    """One ZMQ message of a publisher.

    Attributes:
        received_ns: When it was received, ns since the Unix epoch.
        topic: Topic that it was published under.
        seq: Its number, 8 bytes, big-endian.
        payload: The batch of events.
    """

    received_ns: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    topic: bytes
    seq: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    payload: bytes

    @property
    def number(self) -> int:
        """Return its number as an unsigned integer."""
        return int.from_bytes(self.seq, "big")


_decoder = msgspec.msgpack.Decoder(WireMessage)


def decode_wire_message(data: bytes) -> WireMessage:
    """Return the message of one capture record.

    Raises:
        MalformedInputError: If it is none.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedInputError(f"not a captured message: {error}") from error


encode_wire_message = msgspec.msgpack.Encoder().encode
"""A message as a capture record."""


def wire_message_parser(origin: str) -> ArrayParser[WireMessage]:
    """Read captured messages one by one, as they were published."""
    return ArrayParser(origin, CAPTURE_START, decode_wire_message)


class WireCaptureParser:
    """Reads a capture as frames; what is missing in it is a hole in their numbers."""

    held_bytes = None  # what a batch means depends on those before it

    def __init__(self, origin: str, source: str) -> None:
        self._origin = origin
        self._messages = wire_message_parser(origin)
        # Epochs of recordings begin at 0, so that a file is the same each time.
        self._publishers = Publishers(origin, source, forget_seconds=float("inf"), first_epoch=lambda: 0)

    def feed(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        """Yield what is complete once ``data`` has been added."""
        yield from self._decoded(self._messages.feed(data))

    def finish(self) -> Iterator[EventFrame | Malformed]:
        """Yield what is left at the end of the input."""
        yield from self._decoded(self._messages.finish())

    def _decoded(self, messages: Iterator[WireMessage | Malformed]) -> Iterator[EventFrame | Malformed]:
        publishers = self._publishers
        count = size = 0
        for message in messages:
            if isinstance(message, Malformed):
                yield message
                continue
            try:
                number = batch_number(message.seq)
            except MalformedInputError as error:
                yield Malformed(self._origin, "message", 0, str(error))
                continue
            publisher = publishers.get(message.topic, number)
            if publisher is None:
                yield Malformed(self._origin, "message", number, "of one more than 1,024 publishers")
                continue
            publisher.feed.live(number, message.payload)
            count, size = count + 1, size + len(message.payload)
            if count == _AT_ONCE or size >= _AT_ONCE_BYTES:
                count = size = 0
                yield from self._taken()
        yield from self._taken()

    def _taken(self) -> Iterator[EventFrame | Malformed]:
        for publisher in self._publishers:
            yield from publisher.take()
            while publisher.is_pending:
                yield from publisher.take()


def read_wire_messages(path: str) -> Iterator[WireMessage] | None:
    """Return the messages of a capture, plain or compressed, as published; None for another input.

    Damaged places are passed over; ``EventReader`` reports them.

    Raises:
        OSError: If the file cannot be read.
        MissingExtraError: If it is zstd and ``kvstream[zstd]`` is not installed.
    """
    if not os.path.isfile(path):  # a pipe can be read only once
        return None
    pieces = _plain_pieces(path)
    first = next(pieces, b"")
    return _messages(chain([first], pieces), path) if CAPTURE_START.match(first) else None


def _plain_pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from (piece for piece in Decompressor(path).read(file) if isinstance(piece, bytes) and piece)


def _messages(pieces: Iterable[bytes], path: str) -> Iterator[WireMessage]:
    parser = wire_message_parser(path)
    for piece in pieces:
        yield from (item for item in parser.feed(piece) if isinstance(item, WireMessage))
