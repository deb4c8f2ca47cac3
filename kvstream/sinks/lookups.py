"""What was looked up in a cache, request by request as far as that is known: what other simulators run on."""

from collections.abc import Callable, Iterator

from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Op

_SLOTS = 2**31  # ids below can be physical block numbers; hashes are beyond, all but one in eight billion
_UNSIGNED = 2**64 - 1


class Lookups:
    """Turns the frames of one cache into rows of content: an access, an allocation or a store is a lookup.

    Lookups of one time are a row; where a hit follows a miss another begins, as a request finds its blocks
    from its first on. Rows are exactly the requests of a trace; of an engine's events they are what was
    looked up in one step. Evictions are left out, as they are up to whoever simulates.

    Attributes:
        unknown: Lookups left out, as nothing says what content the block had.
    """

    def __init__(self) -> None:
        self.unknown = 0
        self._cache: tuple[str, str] | None = None
        self._is_keyed = False
        self._content: dict[int, int] = {}  # of live blocks that have a content key
        self._row: list[int] = []
        self._ts = 0
        self._has_missed = False

    def rows(self, frame: EventFrame) -> Iterator[tuple[int, list[int]]]:
        """Yield (time in ns, contents as unsigned 64-bit integers) of each row that is complete.

        Raises:
            ConfigError: If the frame is another cache's than those before, or its blocks are slots without
                content keys.
        """
        self._check(frame)
        keys = [0] * len(frame) if frame.keys is None else frame.keys.tolist()
        for op, block, ts, key in zip(
            frame.ops.tolist(), frame.blocks.tolist(), frame.ts.tolist(), keys, strict=True
        ):
            if op in (Op.EVICT, Op.REMOVE):
                self._content.pop(block, None)
            elif op == Op.CLEAR:
                self._content.clear()
            elif op != Op.RESIDENT:
                content = self._content_of(op, block, key)
                if self._row and (ts != self._ts or (op == Op.ACCESS and self._has_missed)):
                    yield self._ts, self._row
                    self._row, self._has_missed = [], False
                self._ts = ts
                self._has_missed = self._has_missed or op != Op.ACCESS
                if content is None:
                    self.unknown += 1
                else:
                    self._row.append(content & _UNSIGNED)

    def rest(self) -> Iterator[tuple[int, list[int]]]:
        """Yield the last row."""
        if self._row:
            yield self._ts, self._row
            self._row = []

    def _check(self, frame: EventFrame) -> None:
        cache = (frame.source, frame.tier)
        if self._cache not in (None, cache):
            raise ConfigError(
                f"lookups are those of one cache, but these are of {'/'.join(self._cache or ())} and "
                f"{'/'.join(cache)}; name one with --source and --tier"
            )
        self._cache = cache
        self._is_keyed = self._is_keyed or frame.keys is not None

    def _content_of(self, op: int, block: int, key: int) -> int | None:
        """Return the content of a block that is looked up; None if it is not known."""
        if op in (Op.STORE, Op.PREFIX):  # engines name what they store by its content
            return block
        if op == Op.ALLOC:
            if key:
                self._content[block] = key
                return key
            self._content.pop(block, None)
        elif block in self._content:
            return self._content[block]
        if not 0 <= block < _SLOTS:
            return block
        if not self._is_keyed:
            raise ConfigError(
                f"block {block} of {'/'.join(self._cache or ())} is a physical block number, and there are "
                "no content keys: nothing says what was looked up"
            )
        return None


class LookupEncoder:
    """Encodes the lookups of one cache, row by row.

    Args:
        encode_row: Returns a row's bytes, from ns since the first row, and the contents.
        begin: What the first row follows.
    """

    def __init__(self, encode_row: Callable[[int, list[int]], bytes], begin: bytes = b"") -> None:
        self._encode_row, self._begin = encode_row, begin
        self._lookups = Lookups()
        self._first_ns: int | None = None

    @property
    def left_out(self) -> int:
        """Return lookups of unknown content, which are in no row."""
        return self._lookups.unknown

    def encode(self, frame: EventFrame) -> Iterator[bytes]:
        """Yield the rows that a frame completes.

        Raises:
            ConfigError: If a row cannot be made of it (``Lookups.rows``).
        """
        for ts, contents in self._lookups.rows(frame):
            yield self._row(ts, contents)

    def finish(self) -> Iterator[bytes]:
        """Yield the last row."""
        for ts, contents in self._lookups.rest():
            yield self._row(ts, contents)

    def _row(self, ts: int, contents: list[int]) -> bytes:
        begin = self._begin if self._first_ns is None else b""
        self._first_ns = ts if self._first_ns is None else self._first_ns
        return begin + self._encode_row(max(0, ts - self._first_ns), contents)
