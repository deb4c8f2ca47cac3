"""History: what the last windows of one cache, or of several together, have seen, in columns."""

from collections.abc import Iterable

import msgspec

from kvstream.metrics.window import WindowCounts


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Windows in columns of equal length, oldest first; those in which nothing happened are left out.

    Attributes:
        window_seconds: Length of a window, or of as many as a row has.
        ts: Start of each, seconds since the Unix epoch.
        blocks: Blocks live at its end, of the caches that were busy in it.
        allocation_rate: Allocations a second.
        access_rate: Accesses a second.
        eviction_rate: Evictions a second.
        hit_ratio: accesses / (accesses + allocations); None without any, or where hits are unknown.
        never_reused_ratio: Share of evicted blocks that were never accessed; None likewise.
        lost: Frames lost, and events dropped unasked.
    """

    window_seconds: float
    ts: list[float]
    blocks: list[int]
    allocation_rate: list[float]
    access_rate: list[float]
    eviction_rate: list[float]
    hit_ratio: list[float | None]
    never_reused_ratio: list[float | None]
    lost: list[int]


class _Sums:
    """What the windows of one index have seen."""

    __slots__ = ("accesses", "allocations", "blocks", "evictions", "lookups", "lost", "never", "observed")

    def __init__(self) -> None:
        self.allocations = self.accesses = self.evictions = 0
        self.never = self.observed = self.blocks = self.lost = self.lookups = 0

    def add(self, window: WindowCounts, hits_are_known: bool) -> None:
        self.allocations += window.allocations
        self.accesses += window.accesses
        self.evictions += window.evictions
        if hits_are_known:
            self.lookups += window.accesses + window.allocations
            self.never += window.never_accessed
            self.observed += window.observed
        self.blocks += window.live
        self.lost += window.lost

    def follow(self, later: "_Sums") -> None:
        """Add a later window."""
        self.blocks = later.blocks
        for name in ("allocations", "accesses", "evictions", "lookups", "never", "observed", "lost"):
            setattr(self, name, getattr(self, name) + getattr(later, name))


class HistoryBuilder:
    """Adds up windows of caches, one cache after the other.

    Args:
        window_seconds: Length of a window.
    """

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._sums: dict[int, _Sums] = {}

    def add(self, windows: Iterable[WindowCounts], hits_are_known: bool) -> None:
        """Add windows of one cache.

        Args:
            windows: The windows.
            hits_are_known: Whether a hit of this cache was ever reported.
        """
        for window in windows:
            if not window.is_empty:
                self._sums.setdefault(window.index, _Sums()).add(window, hits_are_known)

    def history(self, limit: int | None = None) -> History:
        """Return the sums so far, in rows of several windows each where there are more than ``limit``."""
        span = max(self._sums) - min(self._sums) + 1 if self._sums else 0
        every = 1 if limit is None else max(1, -(-span // limit))
        joined: dict[int, _Sums] = {}
        for index in sorted(self._sums):
            joined.setdefault(index // every * every, _Sums()).follow(self._sums[index])
        rows = list(joined.items())
        seconds = self._window_seconds * every
        return History(
            window_seconds=seconds,
            ts=[index * self._window_seconds for index, _ in rows],
            blocks=[row.blocks for _, row in rows],
            allocation_rate=[row.allocations / seconds for _, row in rows],
            access_rate=[row.accesses / seconds for _, row in rows],
            eviction_rate=[row.evictions / seconds for _, row in rows],
            hit_ratio=[_share(row.accesses, row.lookups) for _, row in rows],
            never_reused_ratio=[_share(row.never, row.observed) for _, row in rows],
            lost=[row.lost for _, row in rows],
        )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
