"""Histograms of intervals: exponential buckets as OpenTelemetry's, and vLLM's classic ones."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from kvstream._core.buckets import BucketCounts
from kvstream.events.frame import I64
from kvstream.metrics.buckets import VLLM_BUCKETS_NS, buckets

DEFAULT_SCALE = 4
_HALF = 2**32
_UNUSED = np.zeros(len(VLLM_BUCKETS_NS) + 1, dtype=np.int64)  # classic buckets of what needs none


class IntervalStats(msgspec.Struct, frozen=True):
    """A distribution in a few numbers, in seconds. All are None where ``count`` is 0."""

    count: int = 0
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class ExponentialHistogram(BucketCounts):
    """Intervals in base-2 exponential buckets of seconds.

    Bucket i counts values v with base**i < v <= base**(i + 1), base = 2**(2**-scale), exactly as
    OpenTelemetry's ExponentialHistogram, so that (scale, offset, counts, zero_count, sum, min, max)
    exports without loss. At scale 4 a quantile is off by 2.2 % at the most. Zero has a count of its
    own. Merging is addition.

    Source: https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram

    Args:
        scale: Buckets a factor of two are 2**scale.

    Examples:
        >>> histogram = ExponentialHistogram()
        >>> histogram.record(np.array([1_000_000_000] * 3))
        >>> histogram.quantile(0.5)
        1.0
    """

    __slots__ = ()

    def record(self, values_ns: I64) -> None:
        """Count intervals, ns, int64 (n,); negative ones are unknown, and are not counted."""
        if len(values_ns):
            buckets(self.scale).core.count(values_ns, self, _UNUSED)

    def stats(self) -> IntervalStats:
        """Return the distribution in a few numbers."""
        if not self.count:
            return IntervalStats()
        p50, p95, p99 = (self.quantile(q) for q in (0.5, 0.95, 0.99))
        return IntervalStats(self.count, self.sum_ns / self.count / 1e9, p50, p95, p99, self.max_ns / 1e9)

    def buckets(self) -> list[tuple[float, int]]:
        """Upper bound in seconds and count of each bucket that holds something, zero first."""
        held: list[tuple[float, int]] = [(0.0, self.zero_count)] if self.zero_count else []
        return held + [
            (2.0 ** ((self.offset + i + 1) / 2**self.scale), count)
            for i, count in enumerate(self.counts.tolist())
            if count
        ]


def save_histograms(histograms: Sequence[ExponentialHistogram]) -> dict[str, Any]:
    """Return histograms as a few arrays, a row each; of the counts, one array holds those of all."""
    counts = [h.counts for h in histograms]
    rows = [
        # A sum may be larger than 64 bits.
        (h.count, h.zero_count, h.offset, *divmod(h.sum_ns, _HALF), h.min_ns, h.max_ns, len(held))
        for h, held in zip(histograms, counts, strict=True)
    ]
    return {
        "rows": np.array(rows, dtype=np.int64).reshape(-1, 8),
        "counts": np.concatenate([np.empty(0, dtype=np.int64), *counts]),
    }


def restore_histograms(saved: dict[str, Any], scale: int = DEFAULT_SCALE) -> list[ExponentialHistogram]:
    """Return the histograms that were saved."""
    restored, at = [], 0
    for count, zeros, offset, high, low, shortest, longest, length in saved["rows"].tolist():
        histogram = ExponentialHistogram(scale)
        if count:
            counts = saved["counts"][at : at + length]
            histogram.add(count, zeros, offset, counts, high * _HALF + low, shortest, longest)
        at += length
        restored.append(histogram)
    return restored


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
        """Return how many values are at most each bound; the last entry counts all."""
        return self.counts.cumsum().tolist()  # type: ignore[no-any-return]
