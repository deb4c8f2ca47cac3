"""History: what the last windows of one cache, or of several together, have seen, in columns."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from kvstream.metrics.marks import Mark
from kvstream.metrics.window import WindowCounts


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Windows in columns of equal length, oldest first; those in which nothing happened are left out.

    Attributes:
        window_seconds: Length of a window, or of as many as a row has.
        ts: Start of each, seconds since the Unix epoch.
        blocks: Blocks live at its end, in all of the caches, also in those that were idle in it.
        allocation_rate: Allocations a second.
        access_rate: Accesses a second.
        eviction_rate: Evictions a second.
        hit_ratio: accesses / (accesses + allocations); None without any, or where hits are unknown.
        never_reused_ratio: Share of evicted blocks that were never accessed; None likewise.
        premature_ratio: Premature evictions by all evictions; None without evictions.
        lifetime_p05: 5th percentile of the lifetimes that ended in it, seconds; None without any, or where
            a row is of several caches. Of a row of several windows, the mean of theirs by evictions.
        lifetime_p50: Their median, likewise.
        lifetime_p95: Their 95th percentile, likewise.
        lost: Frames lost, and events dropped unasked.
        marks: Moments that people noted, since the first window.
    """

    window_seconds: float
    ts: list[float]
    blocks: list[int]
    allocation_rate: list[float]
    access_rate: list[float]
    eviction_rate: list[float]
    hit_ratio: list[float | None]
    never_reused_ratio: list[float | None]
    premature_ratio: list[float | None]
    lifetime_p05: list[float | None]
    lifetime_p50: list[float | None]
    lifetime_p95: list[float | None]
    lost: list[int]
    marks: list[Mark] = []


_LIFETIMES = ("lifetime_p05_ns", "lifetime_p50_ns", "lifetime_p95_ns")
_COUNTS = ("allocations", "accesses", "evictions", "premature", "lookups", "hits", "never", "reused", "lost")


class _Sums:
    """What the windows of one index have seen."""

    __slots__ = ("blocks", "observed", *_COUNTS, *_LIFETIMES)

    def __init__(self) -> None:
        self.allocations = self.accesses = self.evictions = self.premature = 0
        self.never = self.reused = self.observed = self.lost = self.lookups = self.hits = 0
        self.blocks = 0
        self.lifetime_p05_ns = self.lifetime_p50_ns = self.lifetime_p95_ns = 0  # each by ``observed``

    def add(self, window: WindowCounts, hits_are_known: bool) -> None:
        self.allocations += window.allocations
        self.accesses += window.accesses
        self.evictions += window.evictions
        self.premature += window.premature
        if hits_are_known:
            self.lookups += window.accesses + window.allocations
            self.hits += window.accesses
            self.never += window.never_accessed
            self.reused += window.observed
        if window.lifetime_p50_ns:
            self.observed += window.observed
            for name in _LIFETIMES:
                setattr(self, name, getattr(self, name) + getattr(window, name) * window.observed)
        self.lost += window.lost

    def follow(self, later: "_Sums") -> None:
        """Add a later window."""
        self.blocks = later.blocks
        for name in ("observed", *_COUNTS, *_LIFETIMES):
            setattr(self, name, getattr(self, name) + getattr(later, name))


class HistoryBuilder:
    """Adds up windows of caches, one cache after the other.

    A cache without events in a window goes on holding its blocks: they count in every row from its first
    window on, so that the blocks of several caches are those of all of them at each moment.

    Args:
        window_seconds: Length of a window.
    """

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._sums: dict[int, _Sums] = {}
        self._changes: Counter[int] = Counter()  # of blocks live, by window
        self._live: dict[tuple[str, str], int] = {}

    def add(
        self, windows: Iterable[WindowCounts], hits_are_known: bool, cache: tuple[str, str] = ("", "")
    ) -> None:
        """Add windows of one cache, all later than those of it that were added before.

        Args:
            windows: The windows.
            hits_are_known: Whether a hit of this cache was ever reported.
            cache: Its source and tier.
        """
        live = self._live.get(cache, 0)
        for window in sorted(windows, key=lambda window: window.index):
            self._changes[window.index] += window.live - live
            live = window.live
            if not window.is_empty:
                self._sums.setdefault(window.index, _Sums()).add(window, hits_are_known)
        self._live[cache] = live

    def history(
        self, limit: int | None = None, newest: int | None = None, until: int | None = None
    ) -> History:
        """Return the sums so far.

        Args:
            limit: Rows at most: where there would be more, each is of several windows.
            newest: Windows to go back from the newest one; None is all.
            until: Index of the newest window, as later ones are not whole yet; None is all.
        """
        self._count_blocks()
        span = max(self._sums) - min(self._sums) + 1 if self._sums else 0
        every = 1 if limit is None else max(1, -(-span // limit))
        last = max(self._sums, default=0) if until is None else until
        first = last - newest + 1 if newest is not None else min(self._sums, default=0)
        joined: dict[int, _Sums] = {}
        for index in sorted(self._sums):
            if first <= index <= last:
                joined.setdefault(index // every * every, _Sums()).follow(self._sums[index])
        rows = list(joined.items())
        seconds = self._window_seconds * every
        p05, p50, p95 = (
            [_mean_seconds(getattr(row, name), row.observed, len(self._live)) for _, row in rows]
            for name in _LIFETIMES
        )
        return History(
            window_seconds=seconds,
            ts=[index * self._window_seconds for index, _ in rows],
            blocks=[row.blocks for _, row in rows],
            allocation_rate=[row.allocations / seconds for _, row in rows],
            access_rate=[row.accesses / seconds for _, row in rows],
            eviction_rate=[row.evictions / seconds for _, row in rows],
            hit_ratio=[_share(row.hits, row.lookups) for _, row in rows],
            never_reused_ratio=[_share(row.never, row.reused) for _, row in rows],
            premature_ratio=[_share(row.premature, row.evictions) for _, row in rows],
            lifetime_p05=p05,
            lifetime_p50=p50,
            lifetime_p95=p95,
            lost=[row.lost for _, row in rows],
        )

    def _count_blocks(self) -> None:
        """Give each row the blocks that were live at its end in all caches."""
        blocks = 0
        for index in sorted(self._changes):
            blocks += self._changes[index]
            if index in self._sums:
                self._sums[index].blocks = blocks


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean_seconds(total_ns: int, count: int, caches: int) -> float | None:
    return total_ns / count / 1e9 if count and caches == 1 else None
