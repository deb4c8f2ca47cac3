"""Any input to frames: sniffs what it is, plain, gzipped or in zstd.

Known are JSON lines of events, of TensorRT-LLM and of hash traces, .kvlog, raw frames and ZMQ captures.
"""

from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Protocol

import msgspec

from kvstream.errors import ConfigError, UnknownFormatError
from kvstream.events.codec import FRAME_HEADS, decode_lines
from kvstream.events.frame import EventFrame
from kvstream.events.log import MAGIC, LogParser, raw_frame_parser
from kvstream.events.types import DEFAULT_SOURCE, Malformed
from kvstream.sources.compression import Decompressor
from kvstream.sources.traces import PrefixCacheTrace
from kvstream.sources.trtllm import TensorRTDecoder
from kvstream.sources.wire_capture import CAPTURE_START, WireCaptureParser

MAX_LINE_BYTES = 1024 * 1024
_DECODED_BYTES = 256 * 1024  # of lines at once: the events of more of them no longer fit into a cache
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
        """Yields what is complete once ``data`` has been added."""

    def finish(self) -> Iterator[EventFrame | Malformed]:
        """Yields what is left at the end of the input."""


Decode = Callable[[bytes, Callable[[int, str], None]], Iterator[EventFrame]]
"""Frames of a chunk of lines; told of the number in the chunk (from 1) and the reason of each bad one."""


class LineParser:
    """Reads lines of JSON; a last line without a newline counts."""

    def __init__(self, origin: str, decode: Decode) -> None:
        self._origin = origin
        self._decode_lines = decode
        self._rest = b""
        self._lines = 0
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        """Yields the events of every line that is complete once ``data`` has been added."""
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
        """Yields the event of a last line that has no newline."""
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

    Example:
        >>> reader = EventReader("events.jsonl")
        >>> [len(frame) for frame in reader.feed(b'{"type":"alloc","block":1,"ts":5}' + b"\n")]
        [1]
    """

    def __init__(self, origin: str, capacity: int | None = None) -> None:
        self.origin = origin
        self._capacity = capacity
        self._plain = Decompressor(origin)
        self._text = b""  # first bytes without compression, until there are enough to tell the format
        self._parser: Parser | None = None

    def feed(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        """Yields the frames, and what was wrong, once ``data`` has been added.

        Raises:
            ConfigError: If it is a hash trace and there is no ``capacity``.
            UnknownFormatError: If the input is in no known format.
            MissingExtraError: If it is zstd and ``kvstream[zstd]`` is not installed.
        """
        for piece in self._plain.feed(data):
            if isinstance(piece, Malformed):
                yield piece
            else:
                yield from self._parse(piece)

    def finish(self) -> Iterator[EventFrame | Malformed]:
        """Yields what is left at the end of the input."""
        for piece in self._plain.finish():
            if isinstance(piece, Malformed):
                yield piece
            else:
                yield from self._parse(piece)
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
                raise UnknownFormatError(f"{self.origin}: a .kvlog of another version")
            return LogParser(self.origin)
        if data[:1] in FRAME_HEADS:
            return raw_frame_parser(self.origin)
        if CAPTURE_START.match(data):
            return WireCaptureParser(self.origin, self._source())
        # A first line that is damaged text is a bad line; anything else is another kind of file.
        is_text = b"\x00" not in data[:1024] and b"\n" in data
        if is_text or data.lstrip(_SPACE)[:1] in (b"{", b""):
            return LineParser(self.origin, self._line_decoder(data.lstrip(_SPACE).split(b"\n", 1)[0]))
        raise UnknownFormatError(
            f"{self.origin}: not JSON lines, .kvlog, msgpack frames or a capture, nor gzip or zstd of these; "
            f"it starts with {data[:8]!r}"
        )

    def _tells_its_kind(self) -> bool:
        """Whether the first line, if there are lines, is complete."""
        text = self._text.removeprefix(_BOM).lstrip(_SPACE)
        return not text.startswith(b"{") or b"\n" in text or len(text) > MAX_LINE_BYTES

    def _line_decoder(self, first: bytes) -> Decode:
        """How to decode lines of which this is the first."""
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
        """Name of a source whose events carry none: the file's, without its endings."""
        return PurePath(self.origin).name.partition(".")[0] or DEFAULT_SOURCE
