# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, auto_pickle=False
"""Columns: those of frames joined on their way to the block table, and what its loop shows on its way out."""

try:
    import cython
except ImportError:
    from kvstream._core import _no_cython as cython

import numpy as np

from kvstream.events.counters import CacheCounts, counts_of
from kvstream.events.types import REASONS

if cython.compiled:  # pragma: no cover
    from cython.cimports.kvstream._core import native
else:
    from kvstream._core import native

AT_ONCE = 16_384
"""Events that are applied before what they showed is taken out; more would only take more memory."""

COUNTED = (*counts_of(CacheCounts), "lookups")
"""Names of what can be counted, by place in ``Columns.counts``; lookups are those of known content."""

COUNTED_BY_LABEL_SET = (
    "allocations",
    "unknown_births",
    "accesses",  # with an interval that is unknown or not sampled
    "evictions",
    "never_accessed",
    "accessed_once",
    "access_total",
    "held_lower",  # sum of the times, ns, at which generations ended less those at which they began: 32 bits
    "held_upper",  # its other bits
    "cleared",
    "premature",
)
"""Names of what is counted of the blocks of each label set (``LabelSetCounts``), by column."""

# Places in COUNTED of what the columns show.
_ACCESSES = cython.declare(cython.Py_ssize_t, COUNTED.index("accesses"))
_NEVER_ACCESSED = cython.declare(cython.Py_ssize_t, COUNTED.index("never_accessed"))
_ACCESSED_ONCE = cython.declare(cython.Py_ssize_t, COUNTED.index("accessed_once"))
_ACCESS_TOTAL = cython.declare(cython.Py_ssize_t, COUNTED.index("access_total"))
# Places in COUNTED_BY_LABEL_SET.
_SET_ALLOCATIONS = cython.declare(cython.Py_ssize_t, COUNTED_BY_LABEL_SET.index("allocations"))
_SET_UNKNOWN_BIRTHS = cython.declare(cython.Py_ssize_t, COUNTED_BY_LABEL_SET.index("unknown_births"))
_SET_ACCESSES = cython.declare(cython.Py_ssize_t, COUNTED_BY_LABEL_SET.index("accesses"))
_SET_EVICTIONS = cython.declare(cython.Py_ssize_t, COUNTED_BY_LABEL_SET.index("evictions"))
_SET_NEVER_ACCESSED = cython.declare(cython.Py_ssize_t, COUNTED_BY_LABEL_SET.index("never_accessed"))
_SET_ACCESSED_ONCE = cython.declare(cython.Py_ssize_t, COUNTED_BY_LABEL_SET.index("accessed_once"))
_SET_ACCESS_TOTAL = cython.declare(cython.Py_ssize_t, COUNTED_BY_LABEL_SET.index("access_total"))
_SET_HELD_LOWER = cython.declare(cython.Py_ssize_t, COUNTED_BY_LABEL_SET.index("held_lower"))
_SET_HELD_UPPER = cython.declare(cython.Py_ssize_t, COUNTED_BY_LABEL_SET.index("held_upper"))

_SHOWN = tuple(map(COUNTED.index, ("allocations", "accesses", "unknown_births", "lookups")))


def joined_columns(columns: list, dtype):
    """Return columns of one type as one.

    ``np.concatenate`` gives the GIL up for each column, and then waits for it, which adds up where other
    threads apply events.

    Args:
        columns: Contiguous columns of the type, of shape (n,) each.
        dtype: Their type.

    Raises:
        ValueError: If a column has another shape or type; compiled, also if it is not contiguous.
    """
    whole = np.empty(sum(map(len, columns)), dtype=dtype)
    native.copy_all(columns, whole)
    return whole


@cython.final
@cython.cclass
class Columns:
    """What applying at most ``AT_ONCE`` events showed: counts, and columns in the order of the events.

    Attributions are numbers of label sets, of which there is one for each entry of the column beside it.
    """

    def __init__(self):
        self.arrays = {}
        self.counts = self._make("counts", np.int64, len(COUNTED))
        self.evictions = self._make("evictions", np.int64, len(REASONS))
        self.reuse_gap = self._make("reuse_gap", np.int64)
        self.gap_of = self._make("gap_of", np.uint16)
        self.first_reuse = self._make("first_reuse", np.int64)
        self.first_of = self._make("first_of", np.uint16)
        self.unobserved_of = self._make("unobserved_of", np.uint16)
        self.used = self._make("used", np.int64)
        self.looked_up = self._make("looked_up", np.int64)
        self.begun_ts = self._make("begun_ts", np.int64)
        self.begun_of = self._make("begun_of", np.uint16)
        self.late_of = self._make("late_of", np.uint16)
        self.ended_ts = self._make("ended_ts", np.int64)
        self.ended_of = self._make("ended_of", np.uint16)
        self.lifetime = self._make("lifetime", np.int64)
        self.idle = self._make("idle", np.int64)
        self.access_count = self._make("access_count", np.int64)
        self.evicted_of = self._make("evicted_of", np.uint16)
        self.evicted_block = self._make("evicted_block", np.int64)
        self.evicted_ts = self._make("evicted_ts", np.int64)
        self.evicted_reason = self._make("evicted_reason", np.uint8)
        self.change_key = self._make("change_key", np.int64, 2 * AT_ONCE)
        self.change_ts = self._make("change_ts", np.int64, 2 * AT_ONCE)
        self.change_begins = self._make("change_begins", np.uint8, 2 * AT_ONCE)
        self.change_of = self._make("change_of", np.uint16, 2 * AT_ONCE)
        self.see_to_history(1)
        self.empty()

    def _make(self, name: str, kind, shape=AT_ONCE):
        self.arrays[name] = np.empty(shape, dtype=kind)
        return memoryview(self.arrays[name])

    def see_to_history(self, depth: cython.Py_ssize_t):
        """Make room for the access times of each evicted block."""
        if "history" not in self.arrays or self.history.shape[1] != depth:
            self.history = self._make("history", np.int64, (AT_ONCE, depth))

    def empty(self):
        """Forget what was shown."""
        self.gap_count = self.first_count = self.unobserved_count = self.used_count = 0
        self.looked_up_count = self.begun_count = self.ended_count = self.evicted_count = 0
        self.change_count = self.late_count = 0
        i: cython.Py_ssize_t
        for i in range(len(self.counts)):
            self.counts[i] = 0
        for i in range(len(self.evictions)):
            self.evictions[i] = 0

    def count_by_label_set(self, counts: cython.longlong[:, ::1]) -> cython.void:
        """Count for its label set what became of each block, in rows of ``COUNTED_BY_LABEL_SET``."""
        i: cython.Py_ssize_t
        row: cython.Py_ssize_t
        for i in range(self.begun_count):
            row = self.begun_of[i]
            counts[row, _SET_ALLOCATIONS] += 1
            _hold(counts, row, self.begun_ts[i], -1)
        for i in range(self.late_count):
            row = self.late_of[i]
            counts[row, _SET_ALLOCATIONS] -= 1
            counts[row, _SET_UNKNOWN_BIRTHS] += 1
        for i in range(self.unobserved_count):
            counts[self.unobserved_of[i], _SET_ACCESSES] += 1
        for i in range(self.ended_count):
            row = self.ended_of[i]
            counts[row, _SET_EVICTIONS] += 1
            _hold(counts, row, self.ended_ts[i], 1)
        for i in range(self.evicted_count):
            if self.lifetime[i] >= 0:  # of known birth
                row = self.evicted_of[i]
                counts[row, _SET_NEVER_ACCESSED] += self.access_count[i] == 0
                counts[row, _SET_ACCESSED_ONCE] += self.access_count[i] == 1
                counts[row, _SET_ACCESS_TOTAL] += self.access_count[i]

    def count_shown(self) -> cython.void:
        """Count what the columns show, so that the loop need not count it event by event."""
        never: cython.longlong = 0
        once: cython.longlong = 0
        total: cython.longlong = 0
        i: cython.Py_ssize_t
        for i in range(self.evicted_count):
            if self.lifetime[i] >= 0:  # of known birth
                never += self.access_count[i] == 0
                once += self.access_count[i] == 1
                total += self.access_count[i]
        self.counts[_NEVER_ACCESSED] = never
        self.counts[_ACCESSED_ONCE] = once
        self.counts[_ACCESS_TOTAL] = total
        self.counts[_ACCESSES] = self.gap_count + self.first_count + self.unobserved_count

    def add_to(self, seen, attributed: bool, records: bool, counted: bool) -> dict:
        """Add what was shown to what was seen before, but for the columns that make records of some kind.

        Args:
            seen: Counts are added to the fields of its counts, some to its own as well, and columns to its
                lists (``Observations``).
            attributed: Whether there are label sets.
            records: Whether records of evictions are made.
            counted: Whether intervals are counted already, and of no use but for records.

        Returns:
            The other columns that hold anything, by name: of ends of generations, of content that came and
            went, and of the label sets of intervals.
        """
        self.count_shown()
        counts = seen.counts
        i: cython.Py_ssize_t
        for i in range(len(self.counts) - 1):  # the last, lookups, are only shown
            if self.counts[i]:
                name = COUNTED[i]
                setattr(counts, name, getattr(counts, name) + self.counts[i])
        for i in _SHOWN:
            if self.counts[i]:
                name = COUNTED[i]
                setattr(seen, name, getattr(seen, name) + self.counts[i])
        arrays: dict = self.arrays
        if self.ended_count:
            counts.evictions += arrays["evictions"]
        if self.gap_count and not counted:
            seen.reuse_gaps.append(arrays["reuse_gap"][: self.gap_count].copy())
        if self.first_count and not counted:
            seen.first_reuses.append(arrays["first_reuse"][: self.first_count].copy())
        if self.used_count:
            seen.used.append(arrays["used"][: self.used_count].copy())
        if self.looked_up_count:
            seen.looked_up.append(arrays["looked_up"][: self.looked_up_count].copy())
        names: list = []
        if self.evicted_count and (records or not counted):
            names += [("lifetime", self.evicted_count), ("idle", self.evicted_count)]
            if records:
                of_records = ("access_count", "evicted_block", "evicted_ts", "evicted_reason", "history")
                names += [(name, self.evicted_count) for name in of_records]
        if self.change_count:
            names += [(name, self.change_count) for name in ("change_key", "change_ts", "change_begins")]
            if attributed:
                names.append(("change_of", self.change_count))
        if attributed and self.gap_count + self.first_count + self.evicted_count:
            names += [
                ("gap_of", self.gap_count),
                ("first_of", self.first_count),
                ("evicted_of", self.evicted_count),
            ]
        return {name: arrays[name][:count].copy() for name, count in names}


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _hold(
    counts: cython.longlong[:, ::1], row: cython.Py_ssize_t, time: cython.longlong, sign: cython.longlong
) -> cython.void:
    """Add the time, ns, at which a block of a label set went, or take off that at which it came."""
    lower_bits: cython.longlong = 0xFFFF_FFFF
    lower: cython.longlong = counts[row, _SET_HELD_LOWER] + sign * (time & lower_bits)
    counts[row, _SET_HELD_LOWER] = lower & lower_bits
    counts[row, _SET_HELD_UPPER] += sign * (time >> 32) + (lower >> 32)
