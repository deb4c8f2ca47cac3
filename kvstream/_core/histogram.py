# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Counts of an exponential histogram: added up, and read at a rank, without numpy calls for a few buckets."""

try:
    import cython
except ImportError:
    from kvstream._core import _no_cython as cython

import numpy as np

_NONE = np.empty(0, dtype=np.int64)
_NONE.flags.writeable = False


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
    sum_ns = cython.declare(
        object, visibility="readonly"
    )  # a Python integer, as it can take more than 64 bits
    min_ns = cython.declare(cython.longlong, visibility="readonly")
    max_ns = cython.declare(cython.longlong, visibility="readonly")
    counts = cython.declare(object, visibility="readonly")  # int64 (buckets,), not to be changed
    cells: cython.longlong[::1]  # the same
    held: cython.Py_ssize_t  # buckets

    def __init__(self, scale: int = 4):
        self.scale = scale
        self.offset = self.zero_count = self.count = self.min_ns = self.max_ns = 0
        self.sum_ns = 0
        self.counts = _NONE
        self.held = 0

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
            counts: The others by bucket, int64 (buckets,); may be kept, and changed.
            sum_ns: Their sum, ns.
            min_ns: The shortest, ns.
            max_ns: The longest, ns.
        """
        self._add_figures(count, zero_count, sum_ns, min_ns, max_ns)
        more: cython.Py_ssize_t = len(counts)
        if not more:
            return
        if not self.held:
            self._hold(offset, counts)
            return
        added: cython.longlong[::1] = memoryview(counts)
        self._add_cells(offset, added)

    def merge(self, other: "BucketCounts"):
        """Add another histogram of the same scale."""
        if not other.count:
            return
        self._add_figures(other.count, other.zero_count, other.sum_ns, other.min_ns, other.max_ns)
        if not other.held:
            return
        if not self.held:
            self._hold(other.offset, other.counts.copy())
        else:
            self._add_cells(other.offset, other.cells)

    @cython.cfunc
    def _add_figures(
        self,
        count: cython.longlong,
        zero_count: cython.longlong,
        sum_ns: object,
        min_ns: cython.longlong,
        max_ns: cython.longlong,
    ):
        self.min_ns = min(self.min_ns, min_ns) if self.count else min_ns
        self.max_ns = max(self.max_ns, max_ns)
        self.count += count
        self.zero_count += zero_count
        self.sum_ns += sum_ns

    @cython.cfunc
    def _hold(self, offset: cython.longlong, counts: object):
        self.offset, self.counts = offset, counts
        self.held = len(counts)
        self.cells = memoryview(counts)

    @cython.cfunc
    def _add_cells(self, offset: cython.longlong, added: cython.longlong[::1]):
        low: cython.longlong = min(self.offset, offset)
        high: cython.longlong = max(self.offset + self.held, offset + len(added))
        i: cython.Py_ssize_t
        if high - low > self.held:
            before: cython.longlong[::1] = self.cells
            start: cython.Py_ssize_t = self.offset - low
            self._hold(low, np.zeros(high - low, dtype=np.int64))
            for i in range(len(before)):
                self.cells[start + i] = before[i]
        start = offset - low
        for i in range(len(added)):
            self.cells[start + i] += added[i]

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
