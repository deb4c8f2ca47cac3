"""Any input to frames: sniffs what it is (``formats.py``), plain, gzipped or in zstd."""

from collections.abc import Iterator
from pathlib import PurePath

from kvstream.errors import UnknownFormatError, UnreadableInputError
from kvstream.events.frame import EventFrame
from kvstream.events.log import MAGIC
from kvstream.events.types import DEFAULT_SOURCE, Malformed
from kvstream.sources.compression import Decompressor
from kvstream.sources.formats import BINARY_FORMATS, LinesParser, OnFormat, Parser
from kvstream.sources.lookalikes import is_lfs_pointer, looks_like
from kvstream.sources.options import ReadOptions
from kvstream.text.escape import for_unicode

_PARSED_BYTES = 1024 * 1024  # at once: what a piece holds is bounded, whatever it is
_HEAD_BYTES = 1024
_SNIFFED_BYTES = 64 * 1024  # by which it must be clear whether these are lines
_MANY_MALFORMED = 100
_NEARLY_NOTHING = 0.01
_HOPELESS = 10_000  # malformed pieces before the first event
_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"  # which some editors put before JSON lines


class EventReader:
    r"""Reads one input of any known format in pieces of any size.

    Args:
        origin: The input's name, for reports.
        options: How to read.
        on_format: Called with the format of its lines once they show it.

    Attributes:
        events: Events read so far.
        malformed: Malformed pieces so far.
        is_hopeless: Whether so much was malformed before the first event that reading on is of no use. Judged
            after whole pieces (``pieces``), in which good lines come after the malformed ones around them.

    Examples:
        >>> reader = EventReader("events.jsonl")
        >>> [len(frame) for frame in reader.feed(b'{"type":"alloc","block":1,"ts":5}' + b"\n")]
        [1]
    """

    def __init__(
        self, origin: str, options: ReadOptions | None = None, on_format: OnFormat | None = None
    ) -> None:
        self.origin = for_unicode(origin)
        self.events = 0
        self.malformed = 0
        self.is_hopeless = False
        self._options, self._on_format = options or ReadOptions(), on_format
        self._plain = Decompressor(self.origin)
        self._text = b""  # first bytes without compression, until there are enough to tell the format
        self._parser: Parser | None = None
        self._head = b""
        self._first_malformed: Malformed | None = None

    def feed(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        """Yield the frames, and what was wrong, once ``data`` has been added.

        Raises:
            ConfigError: If it is a hash trace and no capacity was given.
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
            for items in self._parts(piece):
                yield self._counted(items)

    def finish(self) -> Iterator[EventFrame | Malformed]:
        """Yield what is left at the end of the input."""
        yield from self._counted(self._finish())

    @property
    def held_bytes(self) -> int | None:
        """Return the last bytes that were added and not read yet, before which another reader can begin.

        None where it could not: the input is compressed, or what was read before is remembered.
        """
        if self._parser is None or self._plain.is_compressed:
            return None
        return self._parser.held_bytes

    def verify(self) -> None:
        """Check that at least a hundredth of the input were events; an empty input is allowed.

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
            f"{self.origin}: {events} in {pieces:,} piece{'s' * (pieces != 1)}{like}. "
            f"The first: {self._first_malformed}"
        )

    def _counted(self, items: Iterator[EventFrame | Malformed]) -> Iterator[EventFrame | Malformed]:
        for item in items:
            if isinstance(item, Malformed):
                self.malformed += 1
                self._first_malformed = self._first_malformed or item
            else:
                self.events += len(item)
            yield item
        self.is_hopeless = not self.events and self.malformed >= _HOPELESS

    def _parts(self, piece: bytes | Malformed) -> Iterator[Iterator[EventFrame | Malformed]]:
        if isinstance(piece, Malformed):
            yield iter([piece])
            return
        if len(self._head) < _HEAD_BYTES:
            self._head += piece[: _HEAD_BYTES - len(self._head)]
        for at in range(0, len(piece), _PARSED_BYTES):
            yield self._parse(piece[at : at + _PARSED_BYTES])

    def _finish(self) -> Iterator[EventFrame | Malformed]:
        for piece in self._plain.finish():
            for items in self._parts(piece):
                yield from items
        if self._parser is None:
            text = self._text.removeprefix(_BOM)
            self._parser = self._sniff(text, at_end=True)
            if self._parser is None:
                return
            yield from self._parser.feed(text)
        yield from self._parser.finish()

    def _parse(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        if self._parser is None:
            self._text += data
            if len(self._text) < len(MAGIC):
                return
            data = self._text.removeprefix(_BOM)
            self._parser = self._sniff(data, at_end=False)
            if self._parser is None:
                return
            self._text = b""
        yield from self._parser.feed(data)

    def _sniff(self, data: bytes, at_end: bool) -> Parser | None:
        """Return what reads an input that begins with ``data``; None if more of it is needed."""
        if data.startswith(MAGIC[:5]) and not data.startswith(MAGIC[: len(data)]):
            raise UnknownFormatError(
                f"{self.origin}: not a .kvlog of version {MAGIC[6]}; "
                "update kvstream if a later release wrote it"
            )
        for known in BINARY_FORMATS:
            if known.start.match(data):
                return known.parser(self.origin, self._source())
        # A first line that is damaged text is a bad line; anything else is another kind of file.
        is_lines = b"\x00" not in data[:_HEAD_BYTES] and b"\n" in data
        if is_lfs_pointer(data) and is_lines:
            raise UnknownFormatError(f"{self.origin}: {looks_like(data)}")
        if is_lines or data.lstrip(_SPACE)[:1] in (b"{", b"[") or (at_end and not data.strip(_SPACE)):
            return LinesParser(self.origin, self._source(), self._options, self._on_format)
        if not at_end and len(data) < _SNIFFED_BYTES and b"\x00" not in data:
            return None
        kind = looks_like(data)
        raise UnknownFormatError(
            f"{self.origin}: not JSON lines, .kvlog or a capture, nor gzip or zstd of these; "
            + (f"it looks like {kind}" if kind else f"it starts with {data[:8]!r}")
        )

    def _source(self) -> str:
        """Return the source of events that name none: the file's name without its endings."""
        return PurePath(self.origin).name.partition(".")[0] or DEFAULT_SOURCE
