"""Histograms of intervals: exponential buckets as OpenTelemetry's, and vLLM's classic ones."""

import math
from functools import cache

import msgspec
import numpy as np

from kvstream._core.table import find_rank
from kvstream.events.frame import I64

DEFAULT_SCALE = 4

VLLM_BUCKETS_SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0),
)
"""Upper bounds of vLLM's kv_block_* histograms (vllm/v1/metrics/loggers.py)."""

VLLM_BUCKETS_NS = np.array([math.floor(bound * 1e9) for bound in VLLM_BUCKETS_SECONDS], dtype=np.int64)
"""The same in ns; a whole number of ns is at most a bound exactly if it is at most the one here."""


class IntervalStats(msgspec.Struct, frozen=True):
    """A distribution in a few numbers, in seconds. All are 0 where ``count`` is 0."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class ExponentialHistogram:
    """Intervals in base-2 exponential buckets of seconds.

    Bucket i counts values v with base**i < v <= base**(i + 1), base = 2**(2**-scale), exactly as
    OpenTelemetry's ExponentialHistogram, so that (scale, offset, counts, zero_count, sum, min, max)
    exports without loss. At scale 4 a quantile is off by 2.2 % at the most. Zero has a count of its
    own. Merging is addition.

    Source: https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram

    Args:
        scale: Buckets a factor of two are 2**scale.

    Example:
        >>> histogram = ExponentialHistogram()
        >>> histogram.record(np.array([1_000_000_000] * 3))
        >>> histogram.quantile(0.5)
        1.0
    """

    __slots__ = ("count", "counts", "max_ns", "min_ns", "offset", "scale", "sum_ns", "zero_count")

    def __init__(self, scale: int = DEFAULT_SCALE) -> None:
        self.scale = scale
        self.counts: I64 = np.empty(0, dtype=np.int64)
        self.offset = 0
        self.zero_count = 0
        self.count = 0
        self.sum_ns = 0
        self.min_ns = 0
        self.max_ns = 0

    def record(self, values_ns: I64) -> None:
        """Count intervals in nanoseconds, int64 of shape (n,), none negative."""
        self.record_ascending(np.sort(values_ns))

    def record_ascending(self, values_ns: I64) -> None:
        """Count intervals that are sorted already.

        The places of the bounds among sorted values give exact counts, at a third of what looking up
        each value's bucket costs.
        """
        n = len(values_ns)
        if not n:
            return
        low, high = int(values_ns[0]), int(values_ns[-1])
        self.min_ns = low if not self.count else min(self.min_ns, low)
        self.max_ns = max(self.max_ns, high)
        self.count += n
        self.sum_ns += exact_sum(values_ns, high)
        zeros = 0 if low else int(values_ns.searchsorted(0, side="right"))
        self.zero_count += zeros
        if zeros == n:
            return
        lowest, bounds = upper_bounds(self.scale)
        first = int(bounds.searchsorted(values_ns[zeros]))
        last = int(bounds.searchsorted(high))
        places = values_ns.searchsorted(bounds[first : last + 1], side="right")
        places[1:] -= places[:-1].copy()
        places[0] -= zeros
        self._add(lowest + first, places)

    def merge(self, other: "ExponentialHistogram") -> None:
        """Add another histogram of the same scale."""
        if not other.count:
            return
        self.min_ns = other.min_ns if not self.count else min(self.min_ns, other.min_ns)
        self.max_ns = max(self.max_ns, other.max_ns)
        self.count += other.count
        self.sum_ns += other.sum_ns
        self.zero_count += other.zero_count
        if len(other.counts):
            self._add(other.offset, other.counts)

    def _add(self, offset: int, counts: I64) -> None:
        if not len(self.counts):
            self.offset, self.counts = offset, counts.astype(np.int64)
            return
        low = min(self.offset, offset)
        high = max(self.offset + len(self.counts), offset + len(counts))
        if low < self.offset or high > self.offset + len(self.counts):
            wider = np.zeros(high - low, dtype=np.int64)
            wider[self.offset - low : self.offset - low + len(self.counts)] = self.counts
            self.offset, self.counts = low, wider
        self.counts[offset - low : offset - low + len(counts)] += counts

    def quantile(self, q: float) -> float:
        """Return the value in seconds below which a share ``q`` of the intervals lies; 0 if there are none.

        Interpolates geometrically inside the bucket and never leaves [min, max].
        """
        if not self.count:
            return 0.0
        rank = q * self.count
        if rank <= self.zero_count and self.zero_count:
            return 0.0
        i, below = find_rank(self.counts, self.zero_count, rank)
        inside = (rank - below) / int(self.counts[i])
        value = 2.0 ** ((self.offset + i + min(max(inside, 0.0), 1.0)) / 2**self.scale)
        return float(min(max(value, self.min_ns / 1e9), self.max_ns / 1e9))

    def count_above(self, power: int) -> int:
        """How many intervals are longer than ``2**power`` seconds, exactly, as that is a bucket's bound."""
        return int(self.counts[max(0, (power << self.scale) - self.offset) :].sum())

    @property
    def mean(self) -> float:
        """Mean in seconds, 0 if there are no intervals."""
        return self.sum_ns / self.count / 1e9 if self.count else 0.0

    def stats(self) -> IntervalStats:
        """Return the distribution in a few numbers."""
        p50, p95, p99 = (self.quantile(q) for q in (0.5, 0.95, 0.99))
        return IntervalStats(self.count, self.mean, p50, p95, p99, self.max_ns / 1e9)

    def buckets(self) -> list[tuple[float, int]]:
        """Upper bound in seconds and count of each bucket that holds something, zero first."""
        held: list[tuple[float, int]] = [(0.0, self.zero_count)] if self.zero_count else []
        return held + [
            (2.0 ** ((self.offset + i + 1) / 2**self.scale), int(self.counts[i]))
            for i in np.flatnonzero(self.counts).tolist()
        ]


@cache
def upper_bounds(scale: int) -> tuple[int, I64]:
    """Return the bucket of 1 ns, and the upper bounds in whole ns of that and all further buckets."""
    lowest = math.ceil(math.log2(1e-9) * 2**scale) - 1
    highest = math.ceil(math.log2(2**63 / 1e9) * 2**scale)
    bounds = np.exp2(np.arange(lowest + 1, highest + 1) / 2**scale) * 1e9
    return lowest, np.append(bounds[bounds < 2**63].astype(np.int64), 2**63 - 1)


def exact_sum(values: I64, largest: int) -> int:
    """Return the sum as a Python int, also where int64 would overflow."""
    return int(values.sum()) if sums_fit(values, largest) else sum(values.tolist())


def sums_fit(values: I64, largest: int) -> bool:
    """Return whether no sum of some of the values overflows int64."""
    return not largest or len(values) <= (2**63 - 1) // largest


class ClassicHistogram:
    """Exact cumulative counts for vLLM's upper bounds, as Prometheus's classic histograms have them.

    A value equal to a bound counts below it.

    Attributes:
        counts: Intervals by bucket, the last for those above all bounds, int64 (bounds + 1,).
    """

    def __init__(self) -> None:
        self.counts = np.zeros(len(VLLM_BUCKETS_NS) + 1, dtype=np.int64)

    def record(self, values_ns: I64) -> None:
        """Count intervals in nanoseconds, int64 of shape (n,)."""
        self.record_ascending(np.sort(values_ns))

    def record_ascending(self, values_ns: I64) -> None:
        """Count intervals that are sorted already."""
        places = values_ns.searchsorted(VLLM_BUCKETS_NS, side="right")
        self.counts[:-1] += places
        self.counts[1:] -= places
        self.counts[-1] += len(values_ns)

    def add(self, counts: I64) -> None:
        """Add intervals by bucket, the last for those above all bounds, int64 (bounds + 1,)."""
        self.counts += counts

    def cumulative(self) -> list[int]:
        """How many values are at most each bound; the last entry counts all of them."""
        return self.counts.cumsum().tolist()  # type: ignore[no-any-return]
