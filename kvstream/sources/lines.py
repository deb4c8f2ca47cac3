"""Lines of JSON to frames, however they were cut by reads: arrays of events, empty polls, very long lines."""

from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from kvstream.events.frame import MAX_FRAME_EVENTS, UNNUMBERED, EventFrame
from kvstream.events.types import Malformed

MAX_LINE_BYTES = 64 * 1024 * 1024
_DECODED_BYTES = 256 * 1024  # of lines at once: the events of more of them no longer fit into a cache
_EMPTY = (b"null", b"{}")  # what a poll answers when there is nothing
_array_decoder = msgspec.json.Decoder(list[msgspec.Raw])

OnBad = Callable[[int, str], None]
"""Called with the number in the chunk (from 1) and the reason of each bad line."""


class LineDecoder(Protocol):
    """Makes frames of the lines of one format.

    Attributes:
        remembers: Whether lines mean something else after others, so that reading cannot begin between them.
    """

    remembers: bool

    def decode_lines(self, chunk: bytes, on_bad: OnBad) -> Iterator[EventFrame]:
        """Yield the frames of a chunk of whole lines, in order; skip blank ones."""

    def finish(self) -> Iterator[EventFrame]:
        """Yield what is left at the end of the input."""


class LineParser:
    """Reads lines of one format; a last line without a newline counts.

    A line can be an array: its elements count as lines. Lines of ``null`` or ``{}``, which polls give when
    there is nothing, are passed over. A line is held until it is complete, up to 64 MiB.

    Args:
        origin: The input's name, for reports.
        decoder: Makes frames of lines.
    """

    def __init__(self, origin: str, decoder: LineDecoder) -> None:
        self._origin = origin
        self._decoder = decoder
        self._open: list[bytes] = []  # parts of a line that is not complete
        self._open_bytes = 0
        self._lines = 0
        self._skipping = False

    @property
    def held_bytes(self) -> int | None:
        """Return the bytes of a line that is not complete; None if reading cannot begin before it."""
        return None if self._decoder.remembers else self._open_bytes

    def feed(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        """Yield the events of every line that is complete once ``data`` has been added."""
        first = data.find(b"\n") + 1
        if self._skipping:
            if not first:
                return
            data, self._skipping = data[first:], False
            first = data.find(b"\n") + 1
        if self._open_bytes + (first or len(data)) > MAX_LINE_BYTES:
            self._skip()
            yield Malformed(self._origin, "line", self._lines, f"longer than {MAX_LINE_BYTES:,} bytes")
            yield from self.feed(data)
            return
        cut = data.rfind(b"\n") + 1
        if cut:
            chunk = b"".join([*self._open, data[:cut]]) if self._open else data[:cut]
            self._open, self._open_bytes = [], 0
            yield from self._decode_all(chunk)
        if cut < len(data):
            self._open.append(data[cut:])
            self._open_bytes += len(data) - cut

    def finish(self) -> Iterator[EventFrame | Malformed]:
        """Yield the event of a last line that has no newline, and what the decoder holds back."""
        rest, self._open = b"".join(self._open), []
        if rest.strip():
            yield from self._decode(rest)
        for frame in self._decoder.finish():
            yield from _bounded(frame)

    def _skip(self) -> None:
        self._open, self._open_bytes, self._skipping = [], 0, True
        self._lines += 1

    def _decode_all(self, chunk: bytes) -> Iterator[EventFrame | Malformed]:
        start = 0
        while start < len(chunk):
            end = chunk.find(b"\n", min(start + _DECODED_BYTES, len(chunk) - 1)) + 1
            yield from self._decode(chunk[start:end])
            start = end

    def _decode(self, chunk: bytes) -> Iterator[EventFrame | Malformed]:
        first = self._lines
        self._lines += chunk.count(b"\n")
        if not _may_hold_arrays(chunk):
            yield from self._decoded(chunk, first)
            return
        for lines, numbers in _one_a_line(chunk):
            yield from self._decoded(b"\n".join(lines), first, numbers)

    def _decoded(
        self, chunk: bytes, first: int, numbers: list[int] | None = None
    ) -> Iterator[EventFrame | Malformed]:
        """Decode lines after the first ``first``; ``numbers`` are theirs, if some were passed over."""
        bad: list[tuple[int, str]] = []
        frames = list(self._decoder.decode_lines(chunk, lambda number, reason: bad.append((number, reason))))
        lines = chunk.split(b"\n") if bad else []
        for number, reason in bad:
            if lines[number - 1].strip() not in _EMPTY:
                place = number if numbers is None else numbers[number - 1]
                yield Malformed(self._origin, "line", first + place, reason)
        for frame in frames:
            yield from _bounded(frame)


def _may_hold_arrays(chunk: bytes) -> bool:
    """Return whether a chunk may have lines that are arrays; quick where it has none of any kind."""
    return b"[" in chunk and (chunk.lstrip().startswith(b"[") or b"\n[" in chunk)


def _one_a_line(chunk: bytes) -> Iterator[tuple[list[bytes], list[int]]]:
    """Yield lines with the elements of arrays as lines of their own, and the number of each's line."""
    lines: list[bytes] = []
    numbers: list[int] = []
    size = 0
    for number, line in enumerate(chunk.split(b"\n"), 1):
        for element in _elements(line):
            lines.append(element)
            numbers.append(number)
            size += len(element)
            if size >= _DECODED_BYTES:
                yield lines, numbers
                lines, numbers, size = [], [], 0
    yield lines, numbers


def _elements(line: bytes) -> Iterator[bytes]:
    """Yield the elements of a line that is an array, or the line itself."""
    stripped = line.strip()
    if not stripped.startswith(b"["):
        yield line
        return
    try:
        elements = _array_decoder.decode(stripped)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        yield line  # the decoder says what is wrong with it
        return
    yield from map(bytes, elements)


def _bounded(frame: EventFrame) -> Iterator[EventFrame]:
    """Yield a frame in parts that any sink takes; the first keeps its number."""
    if len(frame) <= MAX_FRAME_EVENTS:
        yield frame
        return
    first, *others = frame.cut(MAX_FRAME_EVENTS)
    yield first
    for part in others:
        yield msgspec.structs.replace(part, seq=UNNUMBERED)
