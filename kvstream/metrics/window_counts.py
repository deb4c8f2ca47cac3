"""Window counts: what is kept of windows for longer than their histograms; the older, the coarser."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvstream.events.frame import I64

WINDOW_COUNTS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "index",  # event time divided by the window's length; of several windows, that of the first
            "allocations",  # generations begun
            "accesses",  # hits
            "evictions",  # generations ended other than by a clear
            "observed",  # of these, those that were observed
            "never_accessed",  # of the observed ones, those without a hit
            "live",  # blocks live at its end
            "lost",  # frames lost, and events dropped unasked
            "is_empty",  # whether nothing happened in it, 0 or 1
            "premature",  # premature evictions that were noticed in it
            "lifetime_p05_ns",  # 5th percentile of the lifetimes that ended in it; 0 where none was observed;
            "lifetime_p50_ns",  # their median, likewise;
            "lifetime_p95_ns",  # their 95th percentile; of several windows, the means of theirs by evictions
        )
    ]
)
_FIELDS = WINDOW_COUNTS.itemsize // 8
LIFETIMES = ("lifetime_p05_ns", "lifetime_p50_ns", "lifetime_p95_ns")

Rows = npt.NDArray[np.void]
"""Rows of ``WINDOW_COUNTS``, oldest first."""

SPANS = (1, 10, 60)
_COARSE_ROWS = 360  # of each further length: 3,600 windows by ten, and 21,600 before them by sixty
_FOLDED_AT_ONCE = 120  # rows, so that joining costs next to nothing a window


def joined(rows: Rows, every: int) -> Rows:
    """Return rows of ``every`` windows each, cut at multiples of it, from rows of fewer in order of time."""
    if not len(rows):
        return rows
    group = rows["index"] // every
    starts = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))
    result = _rows(np.add.reduceat(_table(rows), starts, axis=0))
    result["index"] = group[starts] * every
    result["live"] = rows["live"][np.append(starts[1:], len(rows)) - 1]
    result["is_empty"] = np.minimum.reduceat(rows["is_empty"], starts)
    observed = np.where(rows["lifetime_p50_ns"] > 0, rows["observed"], 0).astype(np.float64)
    weights = np.maximum(np.add.reduceat(observed, starts), 1.0)
    for name in LIFETIMES:
        result[name] = np.rint(np.add.reduceat(rows[name] * observed, starts) / weights)
    return result


def _table(rows: Rows) -> I64:
    return np.ascontiguousarray(rows).view(np.int64).reshape(len(rows), _FIELDS)


def _rows(table: I64) -> Rows:
    return np.ascontiguousarray(table).view(WINDOW_COUNTS).reshape(-1)


class _Kept:
    """Rows that are added at one end and taken from the other."""

    def __init__(self) -> None:
        self._data = np.zeros(16, WINDOW_COUNTS)
        self._first = self._end = 0

    def __len__(self) -> int:
        return self._end - self._first

    @property
    def rows(self) -> Rows:
        """Return all rows, oldest first, as a view that later calls may overwrite."""
        return self._data[self._first : self._end]

    def add(self, rows: Rows) -> None:
        """Add rows at the end."""
        count = len(rows)
        if self._end + count > len(self._data):
            held = self.rows
            self._data = np.zeros(2 * (len(held) + count), WINDOW_COUNTS)
            self._data[: len(held)] = held
            self._first, self._end = 0, len(held)
        self._data[self._end : self._end + count] = rows
        self._end += count

    def take(self, count: int) -> Rows:
        """Remove and return the oldest ``count`` rows, a copy."""
        self._first += count
        return self._data[self._first - count : self._first].copy()

    def clear(self) -> None:
        self._first = self._end = 0


class CountsLog:
    """The counts of closed windows: of the newest one by one, of older ones by ten, of still older by sixty.

    Args:
        keep: Windows kept one by one.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._kept = tuple(_Kept() for _ in SPANS)
        self._new: list[tuple[int, ...]] = []  # not taken in yet
        self._added = 0  # rows that were taken in

    def add(self, counts: tuple[int, ...]) -> None:
        """Add the fields of a window, in order of time."""
        self._new.append(counts)
        if len(self._new) >= _FOLDED_AT_ONCE:
            self._take_in()

    def newest(self, count: int) -> Rows:
        """Return a row each of the newest windows, as many as are kept one by one."""
        self._take_in()
        rows = self._kept[0].rows
        return rows[max(0, len(rows) - min(count, self._keep)) :].copy()

    def since(self, index: int) -> tuple[Rows, int]:
        """Return all rows from a window on, and the length in windows of the longest of them."""
        self._take_in()
        rows, longest = [], 1
        for span, kept in zip(reversed(SPANS), reversed(self._kept), strict=True):
            found = kept.rows[np.searchsorted(kept.rows["index"], index - span, side="right") :]
            longest = max(longest, span if len(found) else 1)
            rows.append(found)
        return np.concatenate(rows), longest

    def clear(self) -> None:
        """Forget all of them."""
        self._new.clear()
        for kept in self._kept:
            kept.clear()

    def save(self) -> dict[str, Any]:
        """Return the rows of each length, and how many were taken in."""
        self._take_in()
        return {"added": self._added, "rows": [_table(kept.rows).copy() for kept in self._kept]}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved; as many windows are kept one by one as is configured now."""
        self._added = saved["added"]
        for kept, table in zip(self._kept, saved["rows"], strict=True):
            missing = _FIELDS - table.shape[1]  # columns that were not counted yet when it was saved
            kept.add(_rows(np.pad(table, ((0, 0), (0, missing)))))

    def _take_in(self) -> None:
        """Take in what was added, and fold whenever another 120 rows were."""
        rows = _rows(np.array(self._new, np.int64).reshape(-1, _FIELDS))
        self._new.clear()
        while len(rows):
            room = _FOLDED_AT_ONCE - self._added % _FOLDED_AT_ONCE
            self._kept[0].add(rows[:room])
            self._added += len(rows[:room])
            rows = rows[room:]
            if self._added % _FOLDED_AT_ONCE == 0:
                self._fold()

    def _fold(self) -> None:
        """Join the oldest rows of each length where there are more than are kept."""
        for at, kept in enumerate(self._kept):
            too_many = len(kept) - (_COARSE_ROWS if at else self._keep)
            if too_many <= 0:
                continue
            if at + 1 == len(SPANS):
                kept.take(too_many)
                continue
            row = kept.rows["index"] // SPANS[at + 1]  # those of a row of the next length go together
            old = kept.take(int(np.searchsorted(row, row[too_many])))
            self._kept[at + 1].add(joined(old, SPANS[at + 1]))
