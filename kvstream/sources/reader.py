"""Any input to frames: sniffs what it is, plain, gzipped or in zstd.

Known are JSON lines of events, of TensorRT-LLM and of hash traces, .kvlog and ZMQ captures.
"""

from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Protocol

import msgspec

from kvstream.errors import ConfigError, UnknownFormatError, UnreadableInputError
from kvstream.events.codec import decode_lines
from kvstream.events.frame import EventFrame
from kvstream.events.log import MAGIC, LogParser
from kvstream.events.types import DEFAULT_SOURCE, Malformed
from kvstream.sources.compression import Decompressor
from kvstream.sources.lookalikes import looks_like
from kvstream.sources.traces import PrefixCacheTrace
from kvstream.sources.trtllm import TensorRTDecoder
from kvstream.sources.wire_capture import CAPTURE_START, WireCaptureParser
from kvstream.text.escape import for_unicode

MAX_LINE_BYTES = 1024 * 1024
_DECODED_BYTES = 256 * 1024  # of lines at once: the events of more of them no longer fit into a cache
_PARSED_BYTES = 1024 * 1024  # at once: what a piece holds is bounded, whatever it is
_HEAD_BYTES = 1024
_MANY_MALFORMED = 100
_NEARLY_NOTHING = 0.01
_HOPELESS = 10_000  # malformed pieces before the first event
_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"  # which some editors put before JSON lines


class _Shape(msgspec.Struct):
    """What tells kinds of lines apart."""

    event_id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    hash_ids: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_shape_decoder = msgspec.json.Decoder(_Shape)


class Parser(Protocol):
    """Takes an input in pieces of any size and yields its frames and what was wrong."""

    def feed(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        """Yield what is complete once ``data`` has been added."""

    def finish(self) -> Iterator[EventFrame | Malformed]:
        """Yield what is left at the end of the input."""


Decode = Callable[[bytes, Callable[[int, str], None]], Iterator[EventFrame]]
"""Makes frames of a chunk of lines, and calls back with the number (from 1) and reason of each bad line."""


class LineParser:
    """Reads lines of JSON; a last line without a newline counts."""

    def __init__(self, origin: str, decode: Decode) -> None:
        self._origin = origin
        self._decode_lines = decode
        self._rest = b""
        self._lines = 0
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        """Yield the events of every line that is complete once ``data`` has been added."""
        if self._skipping:
            cut = data.find(b"\n") + 1
            if not cut:
                return
            data, self._skipping = data[cut:], False
        data = self._rest + data if self._rest else data
        cut = data.rfind(b"\n") + 1
        chunk, self._rest = data[:cut], data[cut:]
        start = 0
        while start < len(chunk):
            end = chunk.find(b"\n", min(start + _DECODED_BYTES, len(chunk) - 1)) + 1
            yield from self._decode(chunk[start:end])
            start = end
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest, self._skipping = b"", True
            self._lines += 1
            yield Malformed(self._origin, "line", self._lines, f"longer than {MAX_LINE_BYTES:,} bytes")

    def finish(self) -> Iterator[EventFrame | Malformed]:
        """Yield the event of a last line that has no newline."""
        rest, self._rest = self._rest, b""
        if rest.strip():
            yield from self._decode(rest)

    def _decode(self, chunk: bytes) -> Iterator[EventFrame | Malformed]:
        bad: list[Malformed] = []
        first = self._lines

        def on_bad(number: int, reason: str) -> None:
            bad.append(Malformed(self._origin, "line", first + number, reason))

        frames = list(self._decode_lines(chunk, on_bad))
        self._lines += chunk.count(b"\n")
        yield from bad
        yield from frames


class EventReader:
    r"""Reads one input of any known format in pieces of any size.

    Args:
        origin: The input's name, for reports.
        capacity: Blocks of the simulated cache that a hash trace runs through.

    Attributes:
        events: Events read so far.
        malformed: Malformed pieces so far.

    Example:
        >>> reader = EventReader("events.jsonl")
        >>> [len(frame) for frame in reader.feed(b'{"type":"alloc","block":1,"ts":5}' + b"\n")]
        [1]
    """

    def __init__(self, origin: str, capacity: int | None = None) -> None:
        self.origin = for_unicode(origin)
        self.events = 0
        self.malformed = 0
        self._capacity = capacity
        self._plain = Decompressor(self.origin)
        self._text = b""  # first bytes without compression, until there are enough to tell the format
        self._parser: Parser | None = None
        self._head = b""
        self._first_malformed: Malformed | None = None

    def feed(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        """Yield the frames, and what was wrong, once ``data`` has been added.

        Raises:
            ConfigError: If it is a hash trace and there is no ``capacity``.
            UnknownFormatError: If the input is in no known format.
            MissingExtraError: If it is zstd and ``kvstream[zstd]`` is not installed.
        """
        for items in self.pieces(data):
            yield from items

    def pieces(self, data: bytes) -> Iterator[Iterator[EventFrame | Malformed]]:
        """Yield what ``feed`` does in bounded pieces, each to be exhausted before the next; some are empty.

        A few compressed bytes can hold gigabytes of nothing: between pieces the caller can turn to others.
        """
        for piece in self._plain.feed(data):
            yield self._counted(self._items(piece))

    def finish(self) -> Iterator[EventFrame | Malformed]:
        """Yield what is left at the end of the input."""
        yield from self._counted(self._finish())

    @property
    def is_hopeless(self) -> bool:
        """Return whether so much was malformed before the first event that reading on is of no use."""
        return not self.events and self.malformed >= _HOPELESS

    def verify(self) -> None:
        """Check that at least a hundredth of what was read were events; nothing read is no error.

        Raises:
            UnreadableInputError: If that is not so; it names what the input looks like.
        """
        pieces = self.events + self.malformed
        if not self.malformed or self.events >= _NEARLY_NOTHING * pieces:
            return
        if self.events and self.malformed < _MANY_MALFORMED:
            return
        kind = looks_like(self._head)
        events = f"{self.events:,} event{'s' * (self.events != 1)}" if self.events else "no events"
        like = f"; it looks like {kind}" if kind else ""
        raise UnreadableInputError(
            f"{self.origin}: {events} in {pieces:,} pieces{like}. The first: {self._first_malformed}"
        )

    def _counted(self, items: Iterator[EventFrame | Malformed]) -> Iterator[EventFrame | Malformed]:
        for item in items:
            if isinstance(item, Malformed):
                self.malformed += 1
                self._first_malformed = self._first_malformed or item
            else:
                self.events += len(item)
            yield item

    def _items(self, piece: bytes | Malformed) -> Iterator[EventFrame | Malformed]:
        if isinstance(piece, Malformed):
            yield piece
            return
        if len(self._head) < _HEAD_BYTES:
            self._head += piece[: _HEAD_BYTES - len(self._head)]
        for at in range(0, len(piece), _PARSED_BYTES):
            yield from self._parse(piece[at : at + _PARSED_BYTES])

    def _finish(self) -> Iterator[EventFrame | Malformed]:
        for piece in self._plain.finish():
            yield from self._items(piece)
        if self._parser is None:
            text = self._text.removeprefix(_BOM)
            self._parser = self._sniff(text)
            yield from self._parser.feed(text)
        yield from self._parser.finish()

    def _parse(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        if self._parser is None:
            self._text += data
            if len(self._text) < len(MAGIC) or not self._tells_its_kind():
                return
            data, self._text = self._text.removeprefix(_BOM), b""
            self._parser = self._sniff(data)
        yield from self._parser.feed(data)

    def _sniff(self, data: bytes) -> Parser:
        if data.startswith(MAGIC[:5]):
            if not data.startswith(MAGIC[: len(data)]):
                raise UnknownFormatError(
                    f"{self.origin}: not a .kvlog of version {MAGIC[6]}; "
                    "update kvstream if a later release wrote it"
                )
            return LogParser(self.origin)
        if CAPTURE_START.match(data):
            return WireCaptureParser(self.origin, self._source())
        # A first line that is damaged text is a bad line; anything else is another kind of file.
        is_text = b"\x00" not in data[:1024] and b"\n" in data
        if is_text or data.lstrip(_SPACE)[:1] in (b"{", b""):
            return LineParser(self.origin, self._line_decoder(data.lstrip(_SPACE).split(b"\n", 1)[0]))
        kind = looks_like(data)
        raise UnknownFormatError(
            f"{self.origin}: not JSON lines, .kvlog or a capture, nor gzip or zstd of these; "
            + (f"it looks like {kind}" if kind else f"it starts with {data[:8]!r}")
        )

    def _tells_its_kind(self) -> bool:
        """Return whether the first line, if there are lines, is complete."""
        text = self._text.removeprefix(_BOM).lstrip(_SPACE)
        return not text.startswith(b"{") or b"\n" in text or len(text) > MAX_LINE_BYTES

    def _line_decoder(self, first: bytes) -> Decode:
        """Return the decoder of lines, chosen by the first one."""
        try:
            shape = _shape_decoder.decode(first)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return decode_lines
        if shape.hash_ids is not msgspec.UNSET:
            if self._capacity is None:
                raise ConfigError(f"{self.origin}: a hash trace needs --capacity, the blocks of its cache")
            return PrefixCacheTrace(self._source(), self._capacity).decode_lines
        if shape.event_id is not msgspec.UNSET:
            return TensorRTDecoder(self._source()).decode_lines
        return decode_lines

    def _source(self) -> str:
        """Return the source of events that name none: the file's name without its endings."""
        return PurePath(self.origin).name.partition(".")[0] or DEFAULT_SOURCE
