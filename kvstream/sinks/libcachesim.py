"""Lookups as a CSV file that libCacheSim reads (https://github.com/1a1a11a/libCacheSim).

``cachesim FILE csv lru 1024 -t "time-col=1,obj-id-col=2,obj-size-col=3,delimiter=,,has-header=1,
obj-id-is-num=1" --ignore-obj-size 1`` has what an LRU cache of 1,024 blocks would do.
"""

from collections.abc import Iterator

from kvstream.events.frame import EventFrame
from kvstream.sinks.lookups import Lookups

_HEADER = b"time,obj_id,obj_size\n"


class CsvEncoder:
    """Encodes the lookups of one cache: seconds since the first, content as an unsigned integer, size 1."""

    def __init__(self) -> None:
        self._lookups = Lookups()
        self._first_ns: int | None = None

    @property
    def left_out(self) -> int:
        """Return lookups of unknown content, which are not in the file."""
        return self._lookups.unknown

    def encode(self, frame: EventFrame) -> Iterator[bytes]:
        """Yield the lines of a frame.

        Raises:
            ConfigError: If they cannot be made of it (``Lookups.rows``).
        """
        for ts, contents in self._lookups.rows(frame):
            yield self._lines(ts, contents)

    def finish(self) -> Iterator[bytes]:
        """Yield the last lines."""
        for ts, contents in self._lookups.rest():
            yield self._lines(ts, contents)

    def _lines(self, ts: int, contents: list[int]) -> bytes:
        header = _HEADER if self._first_ns is None else b""
        self._first_ns = ts if self._first_ns is None else self._first_ns
        seconds = max(0, ts - self._first_ns) // 1_000_000_000
        return header + "".join(f"{seconds},{content},1\n" for content in contents).encode()
