# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, auto_pickle=False
"""Buckets of intervals: counting in exponential and classic ones at once, adding up, and finding a rank.

Windows are buckets of times: events are parted by them here as well.
"""

try:
    import cython
except ImportError:
    from kvstream._core import _no_cython as cython

import numpy as np

if cython.compiled:  # pragma: no cover
    from cython.cimports.kvstream._core.columns import Columns
    from cython.cimports.kvstream._core.native import give_back, leading_digits, zeros
else:
    from kvstream._core.columns import Columns
    from kvstream._core.native import give_back, leading_digits, zeros

_RELEASING = 4096  # intervals or times from which on other threads may run meanwhile


@cython.cclass
class BucketCounts:
    """Intervals by exponential bucket, from the bucket ``offset`` on, and what is known of all of them.

    Args:
        scale: Buckets a factor of two are 2**scale.
    """

    scale = cython.declare(cython.int, visibility="readonly")
    offset = cython.declare(cython.longlong, visibility="readonly")
    zero_count = cython.declare(cython.longlong, visibility="readonly")
    count = cython.declare(cython.longlong, visibility="readonly")
    sum_lower: cython.longlong  # 32 bits of the sum, ns, which can take more than 64
    sum_upper: cython.longlong  # its other bits
    min_ns = cython.declare(cython.longlong, visibility="readonly")
    max_ns = cython.declare(cython.longlong, visibility="readonly")
    # Plain memory, as an array of a few buckets costs more to make than they do to count; none while nothing
    # is held.
    cells: cython.p_longlong
    held: cython.Py_ssize_t  # buckets
    # Of the intervals that were taken last.
    low: cython.longlong  # the shortest that is not 0
    high: cython.longlong  # the longest; 0 if there is none
    zeros: cython.longlong

    def __init__(self, scale: int = 4):
        self.scale = scale
        self.offset = self.zero_count = self.count = self.min_ns = self.max_ns = 0
        self.sum_lower = self.sum_upper = 0
        self.held = 0

    def __dealloc__(self):
        give_back(self.cells)

    @property
    def sum_ns(self):
        """Return the sum of the intervals, ns, which may exceed 64 bits."""
        upper: object = self.sum_upper
        return (upper << 32) + self.sum_lower

    @property
    def counts(self):
        """Return the intervals by bucket, int64 (buckets,), a copy."""
        result = np.empty(self.held, dtype=np.int64)
        count: cython.longlong[::1] = memoryview(result)
        i: cython.Py_ssize_t
        for i in range(self.held):
            count[i] = self.cells[i]
        return result

    def add(
        self,
        count: cython.longlong,
        zero_count: cython.longlong,
        offset: cython.longlong,
        counts,
        sum_ns,
        min_ns: cython.longlong,
        max_ns: cython.longlong,
    ):
        """Add intervals, at least one, that are counted already.

        Args:
            count: How many they are.
            zero_count: How many of them are 0.
            offset: Bucket of the first count.
            counts: The others by bucket, int64 (buckets,).
            sum_ns: Their sum, ns.
            min_ns: The shortest, ns.
            max_ns: The longest, ns.
        """
        self._add_figures(count, zero_count, sum_ns & 0xFFFF_FFFF, sum_ns >> 32, min_ns, max_ns)
        more: cython.Py_ssize_t = len(counts)
        if not more:
            return
        self._make_room(offset, offset + more)
        added: cython.const[cython.longlong][::1] = memoryview(counts)
        start: cython.Py_ssize_t = offset - self.offset
        i: cython.Py_ssize_t
        for i in range(more):
            self.cells[start + i] += added[i]

    def merge(self, other: "BucketCounts"):
        """Add another histogram of the same scale."""
        if not other.count:
            return
        self._add_figures(
            other.count, other.zero_count, other.sum_lower, other.sum_upper, other.min_ns, other.max_ns
        )
        if not other.held:
            return
        self._make_room(other.offset, other.offset + other.held)
        start: cython.Py_ssize_t = other.offset - self.offset
        i: cython.Py_ssize_t
        for i in range(other.held):
            self.cells[start + i] += other.cells[i]

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _take(self, value: cython.const[cython.longlong][::1], length: cython.Py_ssize_t) -> cython.void:
        """Add all that is known of a column's first intervals, but the buckets; negative ones are none."""
        lower_bits: cython.longlong = 0xFFFF_FFFF
        low: cython.longlong = 0x7FFF_FFFF_FFFF_FFFF
        high: cython.longlong = 0
        zeros: cython.longlong = 0
        lower: cython.longlong = 0
        upper: cython.longlong = 0
        known: cython.longlong = 0
        i: cython.Py_ssize_t
        for i in range(length):
            if value[i] < 0:
                continue
            known += 1
            if value[i] == 0:
                zeros += 1
            else:
                low = min(low, value[i])
                high = max(high, value[i])
            lower += value[i] & lower_bits
            upper += value[i] >> 32
        self.low, self.high, self.zeros = low, high, zeros
        if known:
            self._add_figures(known, zeros, lower, upper, 0 if zeros else low, high)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _add_figures(
        self,
        count: cython.longlong,
        zero_count: cython.longlong,
        lower: cython.longlong,
        upper: cython.longlong,
        min_ns: cython.longlong,
        max_ns: cython.longlong,
    ) -> cython.void:
        """Add all that is known of some intervals, at least one, but the buckets.

        Args:
            count: How many they are.
            zero_count: How many of them are 0.
            lower: The sum of their lower 32 bits.
            upper: The sum of their other bits.
            min_ns: The shortest, ns.
            max_ns: The longest, ns.
        """
        lower_bits: cython.longlong = 0xFFFF_FFFF
        self.min_ns = min(self.min_ns, min_ns) if self.count else min_ns
        self.max_ns = max(self.max_ns, max_ns)
        self.count += count
        self.zero_count += zero_count
        lower += self.sum_lower
        self.sum_lower = lower & lower_bits
        self.sum_upper += upper + (lower >> 32)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1)
    def _make_room(self, low: cython.longlong, end: cython.longlong) -> cython.int:
        """Hold the buckets from ``low`` up to ``end``, and those that there are.

        Raises:
            MemoryError: If there is no memory for them; -1 says so in C.
        """
        if self.held:
            low = min(self.offset, low)
            end = max(self.offset + self.held, end)
            if end - low == self.held:
                return 0
        cells: cython.p_longlong = zeros(end - low)
        start: cython.Py_ssize_t = self.offset - low
        i: cython.Py_ssize_t
        for i in range(self.held):
            cells[start + i] = self.cells[i]
        if self.held:
            give_back(self.cells)
        self.offset, self.held, self.cells = low, end - low, cells
        return 0

    def quantile(self, q: cython.double) -> float:
        """Return the value in seconds below which a share ``q`` of the intervals lies; 0 if there are none.

        Interpolates geometrically inside the bucket and never leaves [min, max].
        """
        rank: cython.double = q * self.count
        if not self.count or (self.zero_count and rank <= self.zero_count):
            return 0.0
        i: cython.Py_ssize_t = 0
        below: cython.double = self.zero_count
        while i < self.held - 1 and below + self.cells[i] < rank:
            below += self.cells[i]
            i += 1
        inside: cython.double = min(max((rank - below) / self.cells[i], 0.0), 1.0)
        buckets: cython.double = 1 << self.scale
        value: cython.double = 2.0 ** ((self.offset + i + inside) / buckets)
        return min(max(value, self.min_ns / 1e9), self.max_ns / 1e9)

    def count_above(self, power: cython.int) -> int:
        """Return how many intervals are longer than ``2**power`` seconds, a bucket's bound: exact."""
        first: cython.longlong = power * (1 << self.scale) - self.offset
        total: cython.longlong = 0
        i: cython.Py_ssize_t
        for i in range(max(0, first), self.held):
            total += self.cells[i]
        return total


@cython.final
@cython.cclass
class IntervalBuckets:
    """Counts intervals in exponential buckets and in classic ones, which are both made of finer ones.

    A value's bucket is found by its cell, which its power of two and its first binary digits name.

    Args:
        bounds: Upper bounds of the fine buckets, ns, ascending from 0, int64 (b,).
        digits: Binary digits after the first one that name a cell.
        lowest: Lowest fine bucket of each cell from that of 1 ns on, int32; a cell has at most two.
        exponential: Exponential bucket that each fine one is a part of, but for the first, int32 (b,).
        classic: Classic bucket that each fine one is a part of, int32 (b,).
    """

    bounds: cython.const[cython.longlong][::1]
    digits: cython.int
    lowest: cython.const[cython.int][::1]
    lowest_bounds: cython.const[cython.longlong][::1]  # of the lowest fine bucket of each cell
    exponential: cython.const[cython.int][::1]
    classic: cython.const[cython.int][::1]

    def __init__(self, bounds, digits: int, lowest, exponential, classic):
        self.bounds, self.lowest = memoryview(bounds), memoryview(lowest)
        self.lowest_bounds = memoryview(bounds[lowest])
        self.exponential, self.classic = memoryview(exponential), memoryview(classic)
        self.digits = digits

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _bucket(self, value: cython.longlong) -> cython.Py_ssize_t:
        """Return the first fine bucket with an upper bound of at least a value."""
        if value < 1:
            return 0
        cell: cython.longlong = leading_digits(value, self.digits)
        at: cython.Py_ssize_t
        if cell < len(self.lowest):
            at = self.lowest[cell]
            return at + (value > self.lowest_bounds[cell])
        at = self.lowest[len(self.lowest) - 1]
        while at < len(self.bounds) and value > self.bounds[at]:
            at += 1
        return at

    def count(self, values, exponential_counts: BucketCounts, classic_counts):
        """Count intervals.

        Args:
            values: Intervals, ns, int64 (n,); negative ones are unknown, and are not counted.
            exponential_counts: Exponential buckets that they are added to.
            classic_counts: Intervals by classic bucket, int64; added to.
        """
        value: cython.const[cython.longlong][::1] = memoryview(values)
        self._add(value, len(value), exponential_counts, memoryview(classic_counts))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1)
    def _add(
        self,
        value: cython.const[cython.longlong][::1],
        length: cython.Py_ssize_t,
        counts: BucketCounts,
        classic_count: cython.longlong[::1],
    ) -> cython.int:
        """Count the first intervals of a column as ``count`` does.

        Raises:
            MemoryError: If there is no memory for their buckets; all else is added then. -1 says so in C.
        """
        counts._take(value, length)
        classic_count[self.classic[0]] += counts.zeros
        if not counts.high:
            return 0
        low: cython.longlong = self.exponential[self._bucket(counts.low)]
        counts._make_room(low, self.exponential[self._bucket(counts.high)] + 1)
        first: cython.longlong = counts.offset
        count: cython.p_longlong = counts.cells
        i: cython.Py_ssize_t
        at: cython.Py_ssize_t
        for i in range(length):
            if value[i] > 0:
                at = self._bucket(value[i])
                count[self.exponential[at] - first] += 1
                classic_count[self.classic[at]] += 1
        return 0

    def count_rows(self, values, rows, row_count: cython.Py_ssize_t):
        """Count intervals by row and fine bucket.

        Args:
            values: Intervals, ns, none negative, int64 (n,), n at least 1.
            rows: Row of each interval, below ``row_count``, uint16 (n,).
            row_count: Rows.

        Returns:
            The first fine bucket that is counted in; the intervals by row and bucket from that one on, int64;
            and of each row the shortest and longest interval, int64, and their sum.
        """
        value: cython.const[cython.longlong][::1] = memoryview(values)
        row_of: cython.const[cython.ushort][::1] = memoryview(rows)
        low: cython.longlong = value[0]
        high: cython.longlong = value[0]
        i: cython.Py_ssize_t
        for i in range(len(value)):
            low = min(low, value[i])
            high = max(high, value[i])
        first: cython.Py_ssize_t = self._bucket(low)
        counts = np.zeros((row_count, self._bucket(high) - first + 1), dtype=np.int64)
        shortest = np.full(row_count, 2**63 - 1, dtype=np.int64)
        longest = np.zeros(row_count, dtype=np.int64)
        sums = np.zeros((row_count, 2), dtype=np.int64)  # their lower 32 bits, and the others
        count: cython.longlong[:, ::1] = memoryview(counts)
        least: cython.longlong[::1] = memoryview(shortest)
        most: cython.longlong[::1] = memoryview(longest)
        total: cython.longlong[:, ::1] = memoryview(sums)
        if len(value) >= _RELEASING:
            with cython.nogil:
                self._count_rows(value, row_of, first, count, least, most, total)
        else:
            self._count_rows(value, row_of, first, count, least, most, total)
        return first, counts, shortest, longest, [(upper << 32) + lower for lower, upper in sums.tolist()]

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _count_rows(
        self,
        value: cython.const[cython.longlong][::1],
        row_of: cython.const[cython.ushort][::1],
        first: cython.longlong,
        count: cython.longlong[:, ::1],
        least: cython.longlong[::1],
        most: cython.longlong[::1],
        total: cython.longlong[:, ::1],
    ) -> cython.void:
        """Count intervals by row and fine bucket from a first one on, and what else is kept of each row."""
        lower_bits: cython.longlong = 0xFFFF_FFFF
        i: cython.Py_ssize_t
        row: cython.Py_ssize_t
        for i in range(len(value)):
            row = row_of[i]
            least[row] = min(least[row], value[i])
            most[row] = max(most[row], value[i])
            total[row, 0] += value[i] & lower_bits
            total[row, 1] += value[i] >> 32
            count[row, self._bucket(value[i]) - first] += 1


@cython.final
@cython.cclass
class IntervalCounter:
    """Counts the intervals that the block table shows, as it shows them.

    Args:
        buckets: How they are counted.
        lifetime: Lifetimes by classic bucket, int64; added to.
        idle: Idle times, likewise.
        first_reuse: First reuses, likewise.
        reuse_gap: Reuse gaps, likewise.
    """

    buckets: IntervalBuckets
    classic_lifetime: cython.longlong[::1]
    classic_idle: cython.longlong[::1]
    classic_first_reuse: cython.longlong[::1]
    classic_reuse_gap: cython.longlong[::1]
    unused: cython.longlong[::1]  # classic buckets of returns, which none shows
    lifetime: BucketCounts
    idle: BucketCounts
    first_reuse: BucketCounts
    reuse_gap: BucketCounts
    return_time: BucketCounts
    return_distance: BucketCounts

    def __init__(self, buckets: IntervalBuckets, lifetime, idle, first_reuse, reuse_gap):
        self.buckets = buckets
        self.classic_lifetime, self.classic_idle = memoryview(lifetime), memoryview(idle)
        self.classic_first_reuse, self.classic_reuse_gap = memoryview(first_reuse), memoryview(reuse_gap)
        self.unused = memoryview(np.zeros(len(lifetime), dtype=np.int64))

    def enter(
        self,
        lifetime: BucketCounts,
        idle: BucketCounts,
        first_reuse: BucketCounts,
        reuse_gap: BucketCounts,
        return_time: BucketCounts,
        return_distance: BucketCounts,
    ):
        """Count in these exponential buckets from now on."""
        self.lifetime, self.idle = lifetime, idle
        self.first_reuse, self.reuse_gap = first_reuse, reuse_gap
        self.return_time, self.return_distance = return_time, return_distance

    def count_returns(self, times, distances):
        """Count evicted content that came back.

        Args:
            times: From eviction to return, ns, int64 (m,).
            distances: Blocks more that would have kept each, times 10**9, int64 (m,).
        """
        self.buckets._add(memoryview(times), len(times), self.return_time, self.unused)
        self.buckets._add(memoryview(distances), len(distances), self.return_distance, self.unused)

    def count(self, columns: Columns):
        """Count what applying events has shown."""
        if columns.gap_count + columns.first_count + 2 * columns.evicted_count >= _RELEASING:
            with cython.nogil:
                self._count(columns)
        else:
            self._count(columns)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1)
    def _count(self, columns: Columns) -> cython.int:
        """Count what applying events has shown.

        Raises:
            MemoryError: If there is no memory for their buckets; all else is added then. -1 says so in C.
        """
        self.buckets._add(columns.lifetime, columns.evicted_count, self.lifetime, self.classic_lifetime)
        self.buckets._add(columns.idle, columns.evicted_count, self.idle, self.classic_idle)
        self.buckets._add(
            columns.first_reuse, columns.first_count, self.first_reuse, self.classic_first_reuse
        )
        self.buckets._add(columns.reuse_gap, columns.gap_count, self.reuse_gap, self.classic_reuse_gap)
        return 0


def window_runs(ts, window_ns: cython.longlong, stands, late: cython.longlong):
    """Return the runs of events that count in one window, in order.

    Args:
        ts: Times, ns, int64 (n,), n at least 1.
        window_ns: Length of a window.
        stands: Index of the window where the stream stands, in which events count that come a little late;
            None where it stands nowhere.
        late: Windows; if all events are further behind, they begin where the first of them is.

    Returns:
        Index of the window, first event and end of each run.
    """
    time: cython.const[cython.longlong][::1] = memoryview(ts)
    first: cython.longlong = _floored(time[0], window_ns)
    at: cython.longlong = first if stands is None else stands
    if _is_behind(first, at, late) and _is_behind(_floored(times_range(ts)[1], window_ns), at, late):
        at = first
    runs: list = []
    start: cython.Py_ssize_t = 0
    end: cython.Py_ssize_t
    while start < len(time):
        end = _first_after(time, start, _end_of(at, window_ns))
        if end > start:
            runs.append((at, start, end))
        if end < len(time):
            at = _floored(time[end], window_ns)
        start = end
    return runs


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _is_behind(window: cython.longlong, other: cython.longlong, late: cython.longlong) -> cython.bint:
    """Return whether a window is more than ``late`` windows before another, of any indices of 64 bits."""
    full: cython.ulonglong = 0xFFFF_FFFF_FFFF_FFFF
    behind: cython.ulonglong = (other & full) - (window & full)
    return window < other and (behind & full) > late


@cython.cfunc
def _first_after(
    time: cython.const[cython.longlong][::1], start: cython.Py_ssize_t, end_ns: cython.longlong
) -> cython.Py_ssize_t:
    """Return the first event from one on that is later than a time; how many there are if none is."""
    near: cython.Py_ssize_t = min(len(time), start + _RELEASING)
    start = _next_after(time, start, near, end_ns)
    if start == near < len(time):
        with cython.nogil:
            return _next_after(time, start, len(time), end_ns)
    return start


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _next_after(
    time: cython.const[cython.longlong][::1],
    start: cython.Py_ssize_t,
    end: cython.Py_ssize_t,
    end_ns: cython.longlong,
) -> cython.Py_ssize_t:
    while start < end and time[start] <= end_ns:
        start += 1
    return start


def times_range(ts):
    """Return the earliest and the latest of some times, ns.

    Args:
        ts: The times, int64 (n,), n at least 1.
    """
    time: cython.const[cython.longlong][::1] = memoryview(ts)
    both: tuple[cython.longlong, cython.longlong]
    if len(time) >= _RELEASING:
        with cython.nogil:
            both = _range_of(time)
    else:
        both = _range_of(time)
    return both


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _range_of(time: cython.const[cython.longlong][::1]) -> tuple[cython.longlong, cython.longlong]:
    earliest: cython.longlong = time[0]
    latest: cython.longlong = time[0]
    i: cython.Py_ssize_t
    for i in range(len(time)):
        earliest = min(earliest, time[i])
        latest = max(latest, time[i])
    return earliest, latest


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _floored(value: cython.longlong, divisor: cython.longlong) -> cython.longlong:
    """Return a quotient, rounded down."""
    quotient: cython.longlong = value // divisor
    return quotient - (quotient * divisor > value)  # as C rounds those below 0 up


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _end_of(window: cython.longlong, window_ns: cython.longlong) -> cython.longlong:
    """Return the last nanosecond of a window, of which 64 bits hold some at least."""
    most: cython.longlong = 0x7FFF_FFFF_FFFF_FFFF
    return most if window >= most // window_ns else (window + 1) * window_ns - 1
