"""The formats that inputs can be in, in the order in which they are tried; one file each."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import msgspec

from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.events.log import MAGIC, LogParser
from kvstream.events.types import Malformed
from kvstream.sources.bailian import bailian_trace
from kvstream.sources.dynamo import DynamoDecoder
from kvstream.sources.event_lines import EventLines
from kvstream.sources.lines import MAX_LINE_BYTES, LineDecoder, LineParser
from kvstream.sources.lmcache import lookup_log
from kvstream.sources.mooncake import mooncake_trace
from kvstream.sources.options import ReadOptions
from kvstream.sources.trtllm import TensorRTDecoder
from kvstream.sources.wire_capture import CAPTURE_START, WireCaptureParser

_MOST_LINES = 100  # that are looked at for one that tells the format


class Parser(Protocol):
    """Takes an input in pieces of any size and yields its frames and what was wrong."""

    @property
    def held_bytes(self) -> int | None:
        """Return the bytes of a record that is not complete; None if reading cannot begin before it."""

    def feed(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        """Yield what is complete once ``data`` has been added."""

    def finish(self) -> Iterator[EventFrame | Malformed]:
        """Yield what is left at the end of the input."""


class BinaryFormat(NamedTuple):
    """A format that its first bytes tell.

    Attributes:
        name: What people call it.
        start: Matches its first bytes.
        parser: Makes a parser, of the input's name and the source of events that name none.
    """

    name: str
    start: re.Pattern[bytes]
    parser: Callable[[str, str], Parser]


class LineFormat(NamedTuple):
    """A format of JSON lines, which the names in its objects tell.

    Attributes:
        name: What people call it.
        keys: Names that each of its lines has.
        decoder: Makes a decoder, of the source of events that name none, and how to read.
        is_trace: Whether it has requests and no cache, which is simulated then.
    """

    name: str
    keys: frozenset[str]
    decoder: Callable[[str, ReadOptions], LineDecoder]
    is_trace: bool = False


OnFormat = Callable[[LineFormat, str], None]
"""Called with the format of lines once they show it, and the source of events that name none."""

BINARY_FORMATS = (
    BinaryFormat(".kvlog", re.compile(re.escape(MAGIC)), lambda origin, source: LogParser(origin)),
    BinaryFormat("ZMQ capture", CAPTURE_START, WireCaptureParser),
)

EVENT_LINES = LineFormat("events", frozenset({"type", "ts"}), lambda source, options: EventLines())

LINE_FORMATS = (
    EVENT_LINES,
    LineFormat(
        "TensorRT-LLM events",
        frozenset({"event_id", "data"}),
        lambda source, options: TensorRTDecoder(source),
    ),
    LineFormat(
        "Dynamo recording", frozenset({"timestamp", "event"}), lambda source, options: DynamoDecoder(source)
    ),
    LineFormat("LMCache lookup log", frozenset({"timestamp", "chunk_hashes"}), lookup_log, is_trace=True),
    LineFormat("Qwen-Bailian trace", frozenset({"chat_id", "hash_ids"}), bailian_trace, is_trace=True),
    LineFormat("Mooncake trace", frozenset({"hash_ids"}), mooncake_trace, is_trace=True),
)

_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array_decoder = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def line_format(line: bytes) -> LineFormat | None:
    """Return the format of a line, or of the first element of one that is an array; None if it has none.

    Examples:
        >>> line_format(b'{"timestamp": 0, "hash_ids": [1, 2]}').name
        'Mooncake trace'
    """
    try:
        if line.lstrip().startswith(b"["):
            keys = next(iter(_array_decoder.decode(line)), {}).keys()
        else:
            keys = _object_decoder.decode(line).keys()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return next((known for known in LINE_FORMATS if known.keys <= keys), None)


class LinesParser:
    """Reads lines of a format that is not known yet: the first line that fits one decides.

    A header, empty polls or a damaged line may come before. If none of the first hundred lines tells it, they
    are taken for events, so that each is reported.

    Args:
        origin: The input's name, for reports.
        source: Source of events that name none.
        options: How to read.
        on_format: Called with the format once it is known.
    """

    def __init__(
        self, origin: str, source: str, options: ReadOptions, on_format: OnFormat | None = None
    ) -> None:
        self._origin, self._source, self._options, self._on_format = origin, source, options, on_format
        self._held = bytearray()
        self._lines = self._looked = self._searched = 0
        self._parser: LineParser | None = None

    @property
    def held_bytes(self) -> int | None:
        """Return the bytes of a line that is not complete; None if reading cannot begin before it."""
        return None if self._parser is None else self._parser.held_bytes

    def feed(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        """Yield the events of every line that is complete once ``data`` has been added.

        Raises:
            ConfigError: If it is a hash trace and there is no capacity.
        """
        if self._parser is None:
            self._held += data
            found = self._found()
            if found is None:
                return
            self._parser = self._begin(found)
            data, self._held = bytes(self._held), bytearray()
        yield from self._parser.feed(data)

    def finish(self) -> Iterator[EventFrame | Malformed]:
        """Yield what is left at the end of the input.

        Raises:
            ConfigError: As ``feed`` does.
        """
        if self._parser is None:
            self._parser = self._begin(line_format(bytes(self._held[self._looked :])) or EVENT_LINES)
            yield from self._parser.feed(bytes(self._held))
            self._held = bytearray()
        yield from self._parser.finish()

    def _found(self) -> LineFormat | None:
        """Return the format, once the lines held tell it or are too many."""
        while (end := self._held.find(b"\n", self._searched)) >= 0:
            found = line_format(bytes(self._held[self._looked : end]))
            if found is not None:
                return found
            self._looked = self._searched = end + 1
            self._lines += 1
            if self._lines >= _MOST_LINES:
                return EVENT_LINES
        self._searched = len(self._held)
        return EVENT_LINES if len(self._held) > MAX_LINE_BYTES else None

    def _begin(self, known: LineFormat) -> LineParser:
        if known.is_trace and self._options.capacity is None:
            raise ConfigError(f"{self._origin}: a hash trace needs --capacity, the blocks of its cache")
        if self._on_format is not None:
            self._on_format(known, self._source)
        return LineParser(self._origin, known.decoder(self._source, self._options))
