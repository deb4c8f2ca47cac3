"""Msgpack arrays that stand one after another in a stream of bytes, cut apart without decoding them."""

import re
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from kvstream.errors import MalformedInputError
from kvstream.events.types import Malformed

MAX_ARRAY_BYTES = 64 * 1024 * 1024
_LONG_ARRAY = 4096  # bytes; if one cannot be decoded, nothing is searched for within it
_ARRAY, _ARRAY_MASK = 0x90, 0xF0  # first byte of an array, without the number of its items

T = TypeVar("T")


class ArrayParser(Generic[T]):
    """Reads short msgpack arrays of a known beginning, in pieces of any size.

    There are no checksums here: after damage it searches for the next beginning. A long array that ends
    where it says but cannot be decoded is skipped whole: to search it would cost its length again at every
    beginning in it.

    Args:
        origin: The input's name, for reports.
        start: First two bytes of every array; its items are integers, nil, short strings and bytes.
        decode: Makes a result of one array's bytes; raises ``MalformedInputError`` if it cannot.
    """

    def __init__(self, origin: str, start: re.Pattern[bytes], decode: Callable[[bytes], T]) -> None:
        self._origin, self._start, self._decode = origin, start, decode
        self._data = bytearray()
        self._base = 0

    def feed(self, data: bytes) -> Iterator[T | Malformed]:
        """Yield what is complete once ``data`` has been added."""
        self._data += data
        yield from self._parse(at_end=False)

    def finish(self) -> Iterator[T | Malformed]:
        """Yield what is left at the end of the input."""
        yield from self._parse(at_end=True)

    def _parse(self, at_end: bool) -> Iterator[T | Malformed]:
        at, data = 0, self._data
        while at < len(data):
            end = None
            try:
                end = self._end(at)
                if end is None and not at_end and len(data) - at <= MAX_ARRAY_BYTES:
                    break
                if end is None:
                    raise MalformedInputError("the last array is not complete")
                result = self._decode(bytes(data[at:end]))
            except MalformedInputError as error:
                if end is not None and end - at > _LONG_ARRAY:
                    yield Malformed(
                        self._origin, "byte", self._base + at, f"{error}: {end - at} bytes skipped"
                    )
                    at = end
                    continue
                match = self._start.search(data, at + 1)
                # A start may be cut in two by the end of this piece.
                last = len(data) if at_end or data[-1] & _ARRAY_MASK != _ARRAY else len(data) - 1
                skip = max(last if match is None else match.start(), at + 1)
                del match  # a match holds on to the data, which is to shrink
                yield Malformed(self._origin, "byte", self._base + at, f"{error}: {skip - at} bytes skipped")
                at = skip
                continue
            yield result
            at = end
        del data[:at]
        self._base += at

    def _end(self, at: int) -> int | None:
        """Return the offset behind the array that starts at ``at``; None if its end is not there yet.

        Source: the msgpack specification, https://github.com/msgpack/msgpack/blob/master/spec.md
        """
        data = self._data
        if len(data) - at < 2 and data[at] & _ARRAY_MASK == _ARRAY:
            return None
        if not self._start.match(data, at):
            raise MalformedInputError("not the beginning of an array")
        items = data[at] & ~_ARRAY_MASK
        at += 1
        for _ in range(items):
            if at >= len(data):
                return None
            head = data[at]
            at += 1
            if head <= 0x7F or head >= 0xE0:  # small ints
                continue
            if 0xA0 <= head <= 0xBF:  # short str
                at += head & 0x1F
                continue
            if head not in _HEADS:
                raise MalformedInputError(f"byte {head:#04x} is out of place")
            field, size = _HEADS[head]
            if field:
                if at + field > len(data):
                    return None
                size = int.from_bytes(data[at : at + field], "big")
                if size > MAX_ARRAY_BYTES:
                    raise MalformedInputError(f"item of {size:,} bytes is too long")
            at += field + size
        return at if at <= len(data) else None


# Bytes that follow each one-byte msgpack head used in frames: (size of the length field, fixed size).
_HEADS = {
    0xC0: (0, 0),  # nil
    0xC4: (1, 0),  # bin 8
    0xC5: (2, 0),
    0xC6: (4, 0),
    0xCC: (0, 1),  # uint 8
    0xCD: (0, 2),
    0xCE: (0, 4),
    0xCF: (0, 8),
    0xD0: (0, 1),  # int 8
    0xD1: (0, 2),
    0xD2: (0, 4),
    0xD3: (0, 8),
    0xD9: (1, 0),  # str 8
    0xDA: (2, 0),
}
