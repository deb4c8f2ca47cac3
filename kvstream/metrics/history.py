"""History: what the last windows of one cache, or of several together, have seen, in columns."""

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.events.frame import I64
from kvstream.metrics.marks import Mark
from kvstream.metrics.window_counts import LIFETIMES, Rows


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Windows in columns of equal length, oldest first; those in which nothing happened are left out.

    Attributes:
        window_seconds: Length of a window, or of as many as a row has; the first and the last row may be
            of fewer.
        ts: Start of each, seconds since the Unix epoch.
        blocks: Blocks live at its end, in all of the caches, also in those that were idle in it.
        allocation_rate: Allocations a second.
        access_rate: Accesses a second; None where hits are unknown.
        eviction_rate: Evictions a second.
        hit_ratio: accesses / (accesses + allocations); None without any, or where hits are unknown.
        never_reused_ratio: Share of evicted blocks that were never accessed; None likewise.
        premature_rate: Premature evictions a second; None where contents are unknown.
        premature_ratio: Premature evictions by all evictions of caches with known contents; None
            without any.
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
    access_rate: list[float | None]
    eviction_rate: list[float]
    hit_ratio: list[float | None]
    never_reused_ratio: list[float | None]
    premature_rate: list[float | None]
    premature_ratio: list[float | None]
    lifetime_p05: list[float | None]
    lifetime_p50: list[float | None]
    lifetime_p95: list[float | None]
    lost: list[int]
    marks: list[Mark] = []


F64 = npt.NDArray[np.float64]

_COUNTS = ("allocations", "accesses", "evictions", "premature", "lost")
_SUMS = {
    name: column
    for column, name in enumerate(
        (
            *_COUNTS,
            "hits",
            "lookups",
            "never",
            "reused",
            "ended",
            *LIFETIMES,
            "hits_known",
            "contents_known",
            "followed",
            "busy",
            "live_change",
        )
    )
}


class HistoryBuilder:
    """Adds up windows of caches, one cache after the other.

    A cache without events in a window goes on holding its blocks: they count in every row from its first
    window on, so that the blocks of several caches are those of all of them at each moment.

    Args:
        window_seconds: Length of a window.
    """

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._size = 0
        self._all_indices = np.zeros(0, np.int64)  # those there are, and room for more
        self._all_sums = np.zeros((0, len(_SUMS)))  # a row each
        self._live: dict[tuple[str, str], int] = {}

    def add(
        self,
        rows: Rows,
        hits_are_known: bool,
        cache: tuple[str, str] = ("", ""),
        premature_is_known: bool = True,
    ) -> None:
        """Add windows of one cache, all later than those of it that were added before.

        Args:
            rows: Their counts.
            hits_are_known: Whether a hit of this cache was ever reported.
            cache: Its source and tier.
            premature_is_known: Whether it can be seen that evicted content of this cache comes back.
        """
        known = (hits_are_known, premature_is_known)
        live = self._live.setdefault(cache, 0)
        if not len(rows):
            return
        self._live[cache] = int(rows["live"][-1])
        # After a step back of the clock windows are not in order, and may be there twice.
        is_in_order = bool((np.diff(rows["index"]) > 0).all())
        for some in (rows,) if is_in_order else np.split(rows, len(rows)):
            self._put(some["index"], _sums_of(some, *known, live))
            live = int(some["live"][-1])

    def history(
        self,
        limit: int | None = None,
        newest: int | None = None,
        until: int | None = None,
        every: int = 1,
    ) -> History:
        """Return the sums so far.

        Args:
            limit: Rows at most: where there would be more, each is of several windows.
            newest: Windows to go back from the newest one; None is all.
            until: Index of the newest window, as later ones are not whole yet; None is all.
            every: Windows of a row, if not more by the limit.
        """
        index, sums = self._all_indices[: self._size], self._all_sums[: self._size]
        busy = index[sums[:, _SUMS["busy"]] > 0]
        oldest, latest = (int(busy[0]), int(busy[-1])) if len(busy) else (0, -1)
        if limit is not None:
            every = max(every, -(-(latest - oldest + 1) // limit))
        last = latest if until is None else until
        first = oldest if newest is None else last - newest + 1
        live = np.cumsum(sums[:, _SUMS["live_change"]])
        shown = (index >= first) & (index <= last)
        index, sums, live = index[shown], sums[shown], live[shown]
        row = index // every
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        totals = np.add.reduceat(sums, starts, axis=0) if len(starts) else sums
        live = live[np.flatnonzero(np.diff(row, append=-1))]
        begins = row[starts] * every
        ends = np.minimum(begins + every, last + 1)
        # The rows at both ends may be of fewer windows than the others.
        seconds = (ends - np.maximum(begins, max(first, oldest))) * self._window_seconds
        is_busy = totals[:, _SUMS["busy"]] > 0
        column = {name: totals[is_busy, at] for name, at in _SUMS.items()}

        def rate(name: str) -> list[float]:
            return (column[name] / seconds[is_busy]).tolist()  # type: ignore[no-any-return]

        def known_rate(name: str, known: str) -> list[float | None]:
            pairs = zip(rate(name), column[known].tolist(), strict=True)
            return [each if is_known else None for each, is_known in pairs]

        def share(part: str, whole: str) -> list[float | None]:
            pairs = zip(column[part].tolist(), column[whole].tolist(), strict=True)
            return [each / of if of else None for each, of in pairs]

        if len(self._live) > 1:
            column["ended"][:] = 0
        p05, p50, p95 = (share(name, "ended") for name in LIFETIMES)
        return History(
            window_seconds=self._window_seconds * every,
            ts=(begins[is_busy] * self._window_seconds).tolist(),
            blocks=live[is_busy].astype(np.int64).tolist(),
            allocation_rate=rate("allocations"),
            access_rate=known_rate("accesses", "hits_known"),
            eviction_rate=rate("evictions"),
            hit_ratio=share("hits", "lookups"),
            never_reused_ratio=share("never", "reused"),
            premature_rate=known_rate("premature", "contents_known"),
            premature_ratio=share("premature", "followed"),
            lifetime_p05=p05,
            lifetime_p50=p50,
            lifetime_p95=p95,
            lost=column["lost"].astype(np.int64).tolist(),
        )

    def _put(self, index: I64, sums: F64) -> None:
        """Add sums to those of the same windows."""
        held = self._all_indices[: self._size]
        if not self._size or index[0] > held[-1]:
            self._make_room(len(index))
            end = self._size + len(index)
            self._all_indices[self._size : end], self._all_sums[self._size : end] = index, sums
            self._size = end
            return
        at = np.searchsorted(held, index)
        is_new = held[np.minimum(at, self._size - 1)] != index
        if is_new.any():
            indices = np.union1d(held, index)
            joint = np.zeros((len(indices), len(_SUMS)))
            joint[np.searchsorted(indices, held)] = self._all_sums[: self._size]
            self._all_indices, self._all_sums, self._size = indices, joint, len(indices)
            at = np.searchsorted(indices, index)
        self._all_sums[at] += sums

    def _make_room(self, more: int) -> None:
        missing = self._size + more - len(self._all_indices)
        if missing > 0:
            missing = max(missing, self._size)
            self._all_indices = np.pad(self._all_indices, (0, missing))
            self._all_sums = np.pad(self._all_sums, ((0, missing), (0, 0)))


def _sums_of(rows: Rows, hits_are_known: bool, premature_is_known: bool, live: int) -> F64:
    """Return what rows in order of time add to the sums; ``live`` are the blocks live before them."""
    sums = np.zeros((len(rows), len(_SUMS)))
    ended = np.where(rows["lifetime_p50_ns"] > 0, rows["observed"], 0)
    known = {name: rows[name] for name in _COUNTS}
    if hits_are_known:
        lookups = rows["accesses"] + rows["allocations"]
        known |= {"hits": rows["accesses"], "lookups": lookups, "hits_known": np.ones_like(lookups)}
        known |= {"never": rows["never_accessed"], "reused": rows["observed"]}
    if premature_is_known:
        known |= {"followed": rows["evictions"], "contents_known": np.ones(len(rows))}
    known |= {name: rows[name] * ended / 1e9 for name in LIFETIMES}
    known["ended"] = ended
    for name, values in known.items():
        sums[:, _SUMS[name]] = values
    is_busy = rows["is_empty"] == 0
    sums[~is_busy] = 0
    sums[:, _SUMS["live_change"]] = np.diff(rows["live"], prepend=live)
    sums[:, _SUMS["busy"]] = is_busy
    return sums
