"""Buckets so fine that exponential ones and vLLM's are sums of them: intervals are counted once for both."""

from functools import cache

import msgspec
import numpy as np

from kvstream.events.frame import I64
from kvstream.metrics.histogram import VLLM_BUCKETS_NS, ExponentialHistogram, upper_bounds

_MANTISSA_BITS = 52
_EXACT_FLOAT = 1 << 53


class Buckets(msgspec.Struct, frozen=True, eq=False):
    """The buckets of one scale.

    A value's bucket is found by its cell, which the exponent and the first digits of a float name.

    Attributes:
        scale: Scale of the exponential buckets.
        bounds: Upper bounds, ns, ascending; the first is 0.
        exponential: Exponential bucket that each is a part of, but for the first, which none is.
        classic: Bucket of vLLM's that each is a part of.
        cell_shift: Bits of a float that say nothing of its cell.
        first_cell: Number of the cell that begins at 1 ns.
        lowest: Lowest bucket of each cell from there on, to values that floats tell apart. A cell has two
            at the most.
    """

    scale: int
    bounds: I64
    exponential: I64
    classic: I64
    cell_shift: int
    first_cell: int
    lowest: I64

    def span(self, low: int, high: int) -> tuple[int, int]:
        """The bucket of the first of two values, and how many there are from it to that of the second."""
        first, last = self.bounds.searchsorted([low, high]).tolist()
        return first, last - first + 1

    def of(self, values_ns: I64) -> I64:
        """The bucket of each value, none negative, int64 (n,)."""
        if int(values_ns.max(initial=0)) >= _EXACT_FLOAT:
            return self.bounds.searchsorted(values_ns)
        cells = values_ns.astype(np.float64).view(np.int64)
        cells >>= self.cell_shift
        cells -= self.first_cell
        places = self.lowest.take(cells, mode="clip")
        places += values_ns > self.bounds.take(places)
        return places


@cache
def buckets(scale: int) -> Buckets:
    """The buckets into which exponential ones of a scale and vLLM's are cut."""
    offset, exponential = upper_bounds(scale)
    bounds = np.unique(np.concatenate([[0], exponential, VLLM_BUCKETS_NS]))
    digits = scale + 2
    while True:
        shift = _MANTISSA_BITS - digits
        first, last = (np.array([1.0, _EXACT_FLOAT]).view(np.int64) >> shift).tolist()
        starts = (np.arange(first, last + 1) << shift).view(np.float64)
        lowest = bounds.searchsorted(np.ceil(starts).astype(np.int64))
        if int(np.diff(lowest).max()) <= 1:
            break
        digits += 1
    lowest[0] = 0  # so that 0, which is below all cells, is found in the one of 1
    return Buckets(
        scale,
        bounds,
        offset + exponential.searchsorted(bounds),
        VLLM_BUCKETS_NS.searchsorted(bounds),
        shift,
        first,
        lowest,
    )


class Counted(msgspec.Struct, frozen=True, eq=False):
    """Intervals, at least one, counted by bucket.

    Attributes:
        of: The buckets.
        first: The bucket of the first count.
        counts: Intervals in each bucket from there on, int64.
        sum_ns: Their sum, ns.
        min_ns: The shortest, ns.
        max_ns: The longest, ns.
    """

    of: Buckets
    first: int
    counts: I64
    sum_ns: int
    min_ns: int
    max_ns: int

    def exponential(self) -> ExponentialHistogram:
        """The same in exponential buckets."""
        made = ExponentialHistogram(self.of.scale)
        made.count = int(self.counts.sum())
        made.sum_ns, made.min_ns, made.max_ns = self.sum_ns, self.min_ns, self.max_ns
        held = self.counts.nonzero()[0]
        if held[0] + self.first == 0:
            made.zero_count = int(self.counts[held[0]])
            held = held[1:]
        if len(held):
            part = slice(int(held[0]), int(held[-1]) + 1)
            of = self.of.exponential[self.first :][part]
            made.offset = int(of[0])
            made.counts = _sums(of - of[0], self.counts[part])
        return made

    def classic(self) -> I64:
        """How many are in each of vLLM's buckets and beyond them, int64 (bounds + 1,)."""
        of = self.of.classic[self.first : self.first + len(self.counts)]
        return _sums(of, self.counts, len(VLLM_BUCKETS_NS) + 1)


def _sums(of: I64, counts: I64, length: int = 0) -> I64:
    """The sums of the counts of each bucket, as floats hold them exactly."""
    return np.bincount(of, counts, length).astype(np.int64)
