# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Buckets of intervals: counting in exponential and classic ones at once, and finding a rank."""

try:
    import cython
except ImportError:
    from kvstream._core import _no_cython as cython

import numpy as np

if cython.compiled:  # pragma: no cover
    from cython.cimports.kvstream._core.native import bit_length
else:
    bit_length = int.bit_length

_RELEASING = 1024  # intervals from which on other threads may run meanwhile


@cython.final
@cython.cclass
class IntervalBuckets:
    """Counts intervals in exponential buckets and in classic ones, which are both made of finer ones.

    A value's bucket is found by its cell, which its power of two and its first binary digits name.

    Args:
        bounds: Upper bounds of the fine buckets, ns, ascending from 0, int64 (b,).
        digits: Binary digits after the first one that name a cell.
        lowest: Lowest fine bucket of each cell from that of 1 ns on, int64; a cell has at most two.
        exponential: Exponential bucket that each fine one is a part of, but for the first, int64 (b,).
        classic: Classic bucket that each fine one is a part of, int64 (b,).
    """

    bounds: cython.const[cython.longlong][::1]
    digits: cython.int
    lowest: cython.const[cython.longlong][::1]
    exponential: cython.const[cython.longlong][::1]
    classic: cython.const[cython.longlong][::1]

    def __init__(self, bounds, digits: int, lowest, exponential, classic):
        self.bounds, self.lowest = memoryview(bounds), memoryview(lowest)
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
        power: cython.int = bit_length(value) - 1
        cell: cython.longlong = power
        cell <<= self.digits
        below: cython.longlong = value & ((cython.cast(cython.longlong, 1) << power) - 1)
        if power >= self.digits:
            cell += below >> (power - self.digits)
        else:
            cell += below << (self.digits - power)
        at: cython.Py_ssize_t
        if cell < len(self.lowest):
            at = self.lowest[cell]
            return at + (value > self.bounds[at])
        at = self.lowest[len(self.lowest) - 1]
        while at < len(self.bounds) and value > self.bounds[at]:
            at += 1
        return at

    def count(self, values, classic_counts):
        """Count intervals.

        Args:
            values: Intervals, ns, none negative, int64 (n,), n at least 1.
            classic_counts: Intervals by classic bucket, int64; added to.

        Returns:
            How many are 0; the first exponential bucket that is counted in, and the intervals by bucket from
            there on, int64; the sum; the shortest and the longest, ns.
        """
        lower_bits: cython.longlong = 0xFFFF_FFFF
        value: cython.const[cython.longlong][::1] = memoryview(values)
        classic_count: cython.longlong[::1] = memoryview(classic_counts)
        low: cython.longlong = 0x7FFF_FFFF_FFFF_FFFF  # of those that are not 0
        high: cython.longlong = 0
        zeros: cython.longlong = 0
        lower: cython.longlong = 0  # the sum of the lower 32 bits, and of the others
        upper: cython.longlong = 0
        i: cython.Py_ssize_t
        for i in range(len(value)):
            if value[i] == 0:
                zeros += 1
            else:
                low = min(low, value[i])
                high = max(high, value[i])
            lower += value[i] & lower_bits
            upper += value[i] >> 32
        classic_count[self.classic[0]] += zeros
        if not high:
            return zeros, 0, np.empty(0, dtype=np.int64), 0, 0, 0
        first: cython.longlong = self.exponential[self._bucket(low)]
        last: cython.longlong = self.exponential[self._bucket(high)]
        counts = np.zeros(last - first + 1, dtype=np.int64)
        count: cython.longlong[::1] = memoryview(counts)
        if len(value) >= _RELEASING:
            with cython.nogil:
                self._count(value, first, count, classic_count)
        else:
            self._count(value, first, count, classic_count)
        total: object = upper  # a Python integer, as a few of the longest intervals take more than 64 bits
        return zeros, first, counts, (total << 32) + lower, 0 if zeros else low, high

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _count(
        self,
        value: cython.const[cython.longlong][::1],
        first: cython.longlong,
        count: cython.longlong[::1],
        classic_count: cython.longlong[::1],
    ) -> cython.void:
        """Count intervals that are not 0 in exponential buckets, from ``first`` on, and in classic ones."""
        i: cython.Py_ssize_t
        at: cython.Py_ssize_t
        for i in range(len(value)):
            if value[i]:
                at = self._bucket(value[i])
                count[self.exponential[at] - first] += 1
                classic_count[self.classic[at]] += 1

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
