"""Histograms of intervals: exponential buckets as OpenTelemetry's, and vLLM's classic ones."""

import msgspec
import numpy as np

from kvstream._core.buckets import find_rank
from kvstream.events.frame import I64
from kvstream.metrics.buckets import VLLM_BUCKETS_NS, buckets

DEFAULT_SCALE = 4


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

    def record(self, values_ns: I64, classic: "ClassicHistogram | None" = None) -> None:
        """Count intervals, and count them in classic buckets at the same time.

        Args:
            values_ns: Intervals, ns, none negative, int64 (n,).
            classic: Histogram that they are added to as well.
        """
        if not len(values_ns):
            return
        made = ExponentialHistogram(self.scale)
        made.count = len(values_ns)
        made.zero_count, made.offset, made.counts, made.sum_ns, made.min_ns, made.max_ns = buckets(
            self.scale
        ).core.count(values_ns, (classic or ClassicHistogram()).counts)
        self.merge(made)

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


class ClassicHistogram:
    """Exact cumulative counts for vLLM's upper bounds, as Prometheus's classic histograms have them.

    A value equal to a bound counts below it.

    Attributes:
        counts: Intervals by bucket, the last for those above all bounds, int64 (bounds + 1,).
    """

    def __init__(self) -> None:
        self.counts = np.zeros(len(VLLM_BUCKETS_NS) + 1, dtype=np.int64)

    def add(self, counts: I64) -> None:
        """Add intervals by bucket, the last for those above all bounds, int64 (bounds + 1,)."""
        self.counts += counts

    def cumulative(self) -> list[int]:
        """How many values are at most each bound; the last entry counts all of them."""
        return self.counts.cumsum().tolist()  # type: ignore[no-any-return]
