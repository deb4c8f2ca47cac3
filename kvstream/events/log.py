"""The binary form of a stream on disk, ``.kvlog``: frames with lengths and checksums.

A file is the 8 bytes of ``MAGIC``, the seventh of which is the version, then records: a 4-byte little-endian
length, a 4-byte little-endian CRC-32, and that many bytes of one encoded frame.
"""

import struct
import zlib
from collections.abc import Iterator

from kvstream.errors import MalformedInputError
from kvstream.events.codec import FRAME_START, MAX_FRAME_BYTES, decode_frame, encode_frame
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed

MAGIC = b"KVLOG\x00\x01\n"
_HEADER = struct.Struct("<II")
_SMALLEST_FRAME = 12


def encode_record(frame: EventFrame) -> bytes:
    """Return a frame as one record.

    Raises:
        MalformedInputError: If the frame has more than 1,048,576 events.
    """
    payload = encode_frame(frame)
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


class LogParser:
    """Reads ``.kvlog`` bytes in pieces of any size.

    A damaged record is reported and skipped: by its length if a record follows there, otherwise to
    the next place that looks like one.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._data = bytearray()
        self._base = 0  # offset of _data[0] in the input
        self._started = False
        self._skipped: tuple[int, str] | None = None  # offset of damage that is passed over, and what it is

    @property
    def held_bytes(self) -> int:
        """Return the bytes of a record that is not complete."""
        return len(self._data)

    def feed(self, data: bytes) -> Iterator[EventFrame | Malformed]:
        """Yield what is complete once ``data`` has been added."""
        self._data += data
        yield from self._parse(at_end=False)

    def finish(self) -> Iterator[EventFrame | Malformed]:
        """Yield what is left at the end of the input, a torn tail among it."""
        yield from self._parse(at_end=True)

    def _parse(self, at_end: bool) -> Iterator[EventFrame | Malformed]:
        at, data = 0, self._data
        if not self._started:
            if len(data) < len(MAGIC):
                return
            at, self._started = len(MAGIC), True
        while at < len(data):
            if self._skipped is not None:
                match = self._next_record(at)
                if match is None and not at_end:
                    # A record may begin in the last bytes.
                    at = max(at, len(data) - _HEADER.size - 1)
                    break
                at = len(data) if match is None else match
                yield self._end_of_damage(at)
                continue
            end = self._record_end(at)
            if end is not None and end > len(data) and not at_end:
                break
            if end is None and len(data) - at < _HEADER.size + 2 and not at_end:
                break
            if end is None or end > len(data):
                what = "not a record" if end is None else "torn tail: the last frame is not complete"
                at = self._damage(at, what)
                continue
            payload = bytes(data[at + _HEADER.size : end])
            if zlib.crc32(payload) != _HEADER.unpack_from(data, at)[1]:
                whole_header = end + _HEADER.size + 2 <= len(data)
                if not whole_header and not at_end:
                    break
                # The length may be the damaged part: trust it only if a record (or the end) follows.
                follows = end == len(data) or (whole_header and self._record_end(end) is not None)
                if follows:
                    yield self._bad(at, f"checksum differs: {end - at} bytes skipped")
                    at = end
                else:
                    at = self._damage(at, "checksum differs")
                continue
            try:
                yield decode_frame(payload)
            except MalformedInputError as error:
                yield self._bad(at, str(error))
            at = end
        del data[:at]
        self._base += at
        if at_end and self._skipped is not None:
            yield self._end_of_damage(0)

    def _damage(self, at: int, what: str) -> int:
        """Begin to pass over damage; return where to search for the next record."""
        self._skipped = (self._base + at, what)
        return at + 1

    def _end_of_damage(self, at: int) -> Malformed:
        start, what = self._skipped or (0, "")
        self._skipped = None
        return Malformed(self._origin, "byte", start, f"{what}: {self._base + at - start} bytes skipped")

    def _record_end(self, at: int) -> int | None:
        """Return where the record at ``at`` ends by its header; None if it is no record."""
        if at + _HEADER.size > len(self._data):
            return len(self._data) + 1
        length = _HEADER.unpack_from(self._data, at)[0]
        start = at + _HEADER.size
        if not _SMALLEST_FRAME <= length <= MAX_FRAME_BYTES:
            return None
        if len(self._data) >= start + 2 and not FRAME_START.match(self._data, start):
            return None
        return int(start + length)

    def _next_record(self, after: int) -> int | None:
        for match in FRAME_START.finditer(self._data, after + _HEADER.size):
            if self._record_end(match.start() - _HEADER.size) is not None:
                return match.start() - _HEADER.size
        return None

    def _bad(self, at: int, reason: str) -> Malformed:
        return Malformed(self._origin, "byte", self._base + at, reason)
