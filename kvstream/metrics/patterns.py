"""What the accesses say: how blocks are reused, and how long they live."""

from typing import Any

import msgspec

from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.measurements import Measurements


class AccessPatternAnalysis(msgspec.Struct, frozen=True):
    """How evicted blocks had been used.

    Attributes:
        pattern: ``no_data``, ``scan`` (hardly any block is reused), ``hot_set`` (few blocks take most
            accesses), ``reuse`` (most blocks are reused) or ``mixed``.
        zero_access_rate: Share of evicted blocks never accessed.
        single_access_rate: Share accessed once.
        multi_access_rate: Share accessed more often.
        avg_access_count: Mean accesses of an evicted block.
        first_reuse: Allocation to first access.
        reuse_gap: Access to access.
    """

    pattern: str
    zero_access_rate: float
    single_access_rate: float
    multi_access_rate: float
    avg_access_count: float
    first_reuse: IntervalStats
    reuse_gap: IntervalStats

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of plain values."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


class LifetimeDistribution(msgspec.Struct, frozen=True):
    """How long evicted blocks had lived.

    Attributes:
        stats: Count, mean and percentiles in seconds.
        buckets: (upper bound in seconds, count) of each bucket that holds something.
    """

    stats: IntervalStats
    buckets: list[tuple[float, int]]

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of plain values."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


def analyze_access_pattern(seen: Measurements) -> AccessPatternAnalysis:
    """Names the way blocks are reused, with the figures behind it."""
    zero = seen.dead_ratio
    if not seen.lifetime.count:
        pattern = "no_data"
    elif zero >= 0.9:
        # Accesses that go to a few survivors leave the victims unused.
        pattern = "hot_set" if seen.hit_ratio >= 0.5 else "scan"
    elif zero <= 0.5:
        pattern = "reuse"
    else:
        pattern = "mixed"
    return AccessPatternAnalysis(
        pattern=pattern,
        zero_access_rate=zero,
        single_access_rate=seen.single_access_ratio,
        multi_access_rate=seen.multi_access_ratio,
        avg_access_count=seen.mean_accesses,
        first_reuse=seen.first_reuse.stats(),
        reuse_gap=seen.reuse_gap.stats(),
    )


def lifetime_distribution(seen: Measurements) -> LifetimeDistribution:
    """The lifetimes as percentiles and buckets."""
    return LifetimeDistribution(seen.lifetime.stats(), seen.lifetime.buckets())
