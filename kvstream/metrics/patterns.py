"""What the accesses say: how blocks are reused, and how long they live."""

from typing import Any

import msgspec

from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.summary import hit_figures


class AccessPatternAnalysis(msgspec.Struct, frozen=True):
    """How evicted blocks were used before.

    Attributes:
        pattern: ``no_data`` (nothing was evicted), ``unknown`` (no hit was ever reported),
            ``scan`` (hardly any block is reused), ``hot_set`` (few blocks take most
            accesses), ``reuse`` (most blocks are reused) or ``mixed``.
        zero_access_rate: Share of evicted blocks never accessed; None, as is all that follows, where hits
            are unknown.
        single_access_rate: Share accessed once.
        multi_access_rate: Share accessed more often.
        avg_access_count: Mean accesses of an evicted block.
        first_reuse: Allocation to first access.
        reuse_gap: Access to access.
    """

    pattern: str
    zero_access_rate: float | None
    single_access_rate: float | None
    multi_access_rate: float | None
    avg_access_count: float | None
    first_reuse: IntervalStats | None
    reuse_gap: IntervalStats | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


class LifetimeDistribution(msgspec.Struct, frozen=True):
    """Distribution of the lifetimes of evicted blocks.

    Attributes:
        stats: Count, mean and percentiles in seconds.
        buckets: (upper bound in seconds, count) of each bucket that holds something.
    """

    stats: IntervalStats
    buckets: list[tuple[float, int]]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


def analyze_access_pattern(seen: Measurements) -> AccessPatternAnalysis:
    """Return the pattern of reuse, with the figures that it rests on."""
    zero = seen.never_reused_ratio or 0.0
    hits = hit_figures(seen if seen.accesses else None)
    if not seen.lifetime.count:
        pattern = "no_data"
    elif not seen.accesses:
        pattern = "unknown"
    elif zero >= 0.9:
        # Accesses that go to a few survivors leave the evicted blocks without any.
        pattern = "hot_set" if (seen.hit_ratio or 0.0) >= 0.5 else "scan"
    elif zero <= 0.5:
        pattern = "reuse"
    else:
        pattern = "mixed"
    return AccessPatternAnalysis(
        pattern=pattern,
        zero_access_rate=hits.never_accessed,
        single_access_rate=hits.accessed_once,
        multi_access_rate=hits.accessed_more,
        avg_access_count=hits.mean_accesses,
        first_reuse=hits.first_reuse,
        reuse_gap=hits.reuse_gap,
    )


def lifetime_distribution(seen: Measurements) -> LifetimeDistribution:
    """Return the lifetimes as percentiles and buckets."""
    return LifetimeDistribution(seen.lifetime.stats(), seen.lifetime.buckets())
