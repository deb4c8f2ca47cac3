"""Buckets so fine that exponential ones and vLLM's are sums of them: intervals are counted once for both."""

from functools import cache

import msgspec
import numpy as np

from kvstream._core.table import IntervalBuckets
from kvstream.events.frame import I64
from kvstream.metrics.histogram import VLLM_BUCKETS_NS, ExponentialHistogram, upper_bounds

_POWERS = 53  # of two, up to 104 days, that cells are made for


class Buckets(msgspec.Struct, frozen=True, eq=False):
    """The buckets of one scale.

    Attributes:
        scale: Scale of the exponential buckets.
        bounds: Upper bounds, ns, ascending; the first is 0.
        exponential: Exponential bucket that each is a part of, but for the first, which none is.
        classic: Bucket of vLLM's that each is a part of.
        core: What counts in them.
    """

    scale: int
    bounds: I64
    exponential: I64
    classic: I64
    core: IntervalBuckets

    def count(self, values_ns: I64, classic_counts: I64) -> ExponentialHistogram:
        """Count intervals in both kinds of buckets.

        Args:
            values_ns: Intervals, at least one, ns, none negative, int64 (n,).
            classic_counts: Intervals by vLLM's buckets and beyond them; added to, int64 (bounds + 1,).

        Returns:
            Their exponential histogram.
        """
        made = ExponentialHistogram(self.scale)
        made.count = len(values_ns)
        made.zero_count, made.offset, made.counts, made.sum_ns, made.min_ns, made.max_ns = self.core.count(
            values_ns, classic_counts
        )
        return made


@cache
def buckets(scale: int) -> Buckets:
    """Return the buckets into which exponential ones of a scale and vLLM's are cut."""
    offset, exponential = upper_bounds(scale)
    bounds = np.unique(np.concatenate([[0], exponential, VLLM_BUCKETS_NS]))
    digits = scale + 2
    while True:
        cells = np.arange(_POWERS << digits)
        powers, rest = cells >> digits, cells & (1 << digits) - 1
        starts = np.ceil(np.ldexp(1.0 + rest / (1 << digits), powers)).astype(np.int64)
        lowest = bounds.searchsorted(starts)
        if int(np.diff(lowest).max()) <= 1:
            break
        digits += 1
    exponential_of = offset + exponential.searchsorted(bounds)
    classic_of = VLLM_BUCKETS_NS.searchsorted(bounds)
    core = IntervalBuckets(bounds, digits, lowest, exponential_of, classic_of)
    return Buckets(scale, bounds, exponential_of, classic_of, core)


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
        """Return the same in exponential buckets."""
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
    """Return the sums of the counts of each bucket, as floats hold them exactly."""
    return np.bincount(of, counts, length).astype(np.int64)
