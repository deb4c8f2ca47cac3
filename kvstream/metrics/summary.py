"""CacheMetricsSummary: the state of one source and tier, or of all of them, at one moment."""

from typing import Any

import msgspec

from kvstream.config import MetricsConfig
from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.miss_ratio import CacheSizes
from kvstream.metrics.reuse import ReuseByIdle, reuse_by_idle
from kvstream.metrics.trend import Trend
from kvstream.metrics.usage import LabelUsage
from kvstream.metrics.working_set import WorkingSet

ALL = "*"
"""Stands for every source, or every tier, in a summary of all of them."""


class Accounts(msgspec.Struct, kw_only=True):
    """Where every event and every block went.

    ``offered = processed + sum(dropped) + malformed + in_flight`` and
    ``allocations = live + evicted + cleared + forgotten`` hold at all times.

    Attributes:
        offered: Events that producers and inputs brought. A frame that cannot be decoded counts as one.
        processed: Events applied to block state, unknown blocks among them.
        dropped: Events dropped, by cause.
        malformed: Lines and frames that could not be decoded.
        in_flight: Events in producers' buffers and in queues.
        allocations: Generations begun.
        live: Generations that go on.
        evicted: Generations ended by eviction or replacement.
        cleared: Generations ended by a clear or a restart.
        forgotten: Generations that went on when their source was forgotten.
        unknown_accesses: Accesses of blocks that were not live.
        unknown_evictions: Evictions of blocks that were not live.
        unknown_reasons: Evictions for a reason nobody knows, kept as ``other``.
        time_regressions: Intervals that would have been negative, taken as 0.
        clock_steps: Steps back in time of more than ten windows.
        duplicate_frames: Frames seen before, or later than their place, and dropped.
        lost_frames: Frames missing by their numbers.
        restarts: Times that a source began a new epoch.
        forgotten_sources: Sources forgotten after a time without events.
    """

    offered: int = 0
    processed: int = 0
    dropped: dict[str, int] = {}
    malformed: int = 0
    in_flight: int = 0
    allocations: int = 0
    live: int = 0
    evicted: int = 0
    cleared: int = 0
    forgotten: int = 0
    unknown_accesses: int = 0
    unknown_evictions: int = 0
    unknown_reasons: int = 0
    time_regressions: int = 0
    clock_steps: int = 0
    duplicate_frames: int = 0
    lost_frames: int = 0
    restarts: int = 0
    forgotten_sources: int = 0

    @property
    def balanced(self) -> bool:
        """Whether both accounts add up."""
        events = self.processed + sum(self.dropped.values()) + self.malformed + self.in_flight
        blocks = self.live + self.evicted + self.cleared + self.forgotten
        return self.offered == events and self.allocations == blocks


class RecentMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """The last few windows. Rates are per second of event time.

    Attributes:
        seconds: How far back they reach.
        allocation_rate: Allocations a second.
        access_rate: Accesses a second.
        eviction_rate: Evictions a second.
        hit_ratio: accesses / (accesses + allocations), of blocks.
        dead_ratio: Share of evicted blocks that were never accessed.
        regret_ratio: Evicted content that came back, by evictions.
        lifetime: Allocation to eviction.
        idle: Last access to eviction.
        first_reuse: Allocation to first access.
        reuse_gap: Access to access.
    """

    seconds: float
    allocation_rate: float
    access_rate: float
    eviction_rate: float
    hit_ratio: float
    dead_ratio: float
    regret_ratio: float
    lifetime: IntervalStats
    idle: IntervalStats
    first_reuse: IntervalStats
    reuse_gap: IntervalStats


class PrematureEvictions(msgspec.Struct, frozen=True, kw_only=True):
    """Evicted content that was wanted again, as far as it is remembered.

    It is known where blocks are content hashes, or where allocations carry keys.

    Attributes:
        count: Evictions whose content came back.
        share: The same by all evictions.
        return_time: Eviction to return.
        extra_blocks_p50: Blocks more than there are that would have kept half of them, in an LRU cache:
            contents evicted later than one that had not come back by its return, and itself.
        extra_blocks_p90: Blocks more that would have kept 90 %.
        within_blocks: Evictions after which an eviction is forgotten: later returns are not counted.
        within_seconds: Seconds after which it is forgotten.
    """

    count: int
    share: float
    return_time: IntervalStats
    extra_blocks_p50: int
    extra_blocks_p90: int
    within_blocks: int
    within_seconds: float


class CacheMetricsSummary(msgspec.Struct, kw_only=True, tag="summary"):
    """What a cache has done since the start, lately, and what is wrong.

    Attributes:
        source: Cache instance, ``*`` for all.
        tier: Tier, ``*`` for all.
        timestamp: Event time of the summary, seconds since the Unix epoch; 0 before any event.
        final: Whether the stream has ended.
        blocks_live: Blocks live now.
        capacity: Blocks there is room for, if known.
        occupancy: ``blocks_live / capacity``, if known.
        hit_rate_estimate: accesses / (accesses + allocations) since the start, of blocks.
        total_blocks_sampled: Generations whose intervals are measured.
        total_evictions: Generations ended by eviction or replacement.
        evictions_by_reason: The same by reason; ``cleared`` ones stand apart from the total.
        accesses: Accesses of live blocks.
        avg_lifetime_seconds: Mean lifetime.
        avg_idle_seconds: Mean time from last access to eviction.
        avg_access_count: Mean accesses of an evicted block.
        avg_reuse_gap_seconds: Mean time between accesses.
        p50_lifetime: Median lifetime, seconds.
        p95_lifetime: 95th percentile.
        p99_lifetime: 99th percentile.
        lifetime: Allocation to eviction, since the start.
        idle: Last access to eviction.
        first_reuse: Allocation to first access.
        reuse_gap: Access to access.
        zero_access_rate: Share of evicted blocks never accessed.
        single_access_rate: Share accessed once.
        multi_access_rate: Share accessed more often.
        premature: Evictions whose content was wanted again.
        recent: The last windows.
        reuse_by_idle: What became of blocks that had been idle for a time.
        working_set: Different blocks in use lately.
        sizes: What caches of other sizes would do; of one source and tier only.
        labels: What the blocks of each value of each label have done, most room first.
        trends: Where windowed values are going, by metric.
        alerts: Alerts that are firing, as dictionaries.
        pending: What is bad, but not for long enough to fire, in the same form.
        accounts: Where every event and block went.
    """

    source: str
    tier: str
    timestamp: float
    final: bool = False
    blocks_live: int
    capacity: int | None
    occupancy: float | None
    hit_rate_estimate: float
    total_blocks_sampled: int
    total_evictions: int
    evictions_by_reason: dict[str, int]
    accesses: int
    avg_lifetime_seconds: float
    avg_idle_seconds: float
    avg_access_count: float
    avg_reuse_gap_seconds: float
    p50_lifetime: float
    p95_lifetime: float
    p99_lifetime: float
    lifetime: IntervalStats
    idle: IntervalStats
    first_reuse: IntervalStats
    reuse_gap: IntervalStats
    zero_access_rate: float
    single_access_rate: float
    multi_access_rate: float
    premature: PrematureEvictions
    recent: RecentMetrics
    reuse_by_idle: list[ReuseByIdle]
    working_set: WorkingSet
    sizes: CacheSizes
    labels: dict[str, list[LabelUsage]]
    trends: dict[str, Trend]
    alerts: list[dict[str, Any]]
    pending: list[dict[str, Any]]
    accounts: Accounts

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of plain values."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


def recent_metrics(seen: Measurements, seconds: float) -> RecentMetrics:
    """Rates and distributions of measurements that span ``seconds``."""
    per_second = 1.0 / seconds if seconds > 0 else 0.0
    return RecentMetrics(
        seconds=seconds,
        allocation_rate=seen.allocations * per_second,
        access_rate=seen.accesses * per_second,
        eviction_rate=seen.total_evictions * per_second,
        hit_ratio=seen.hit_ratio,
        dead_ratio=seen.dead_ratio,
        regret_ratio=seen.regret_ratio,
        lifetime=seen.lifetime.stats(),
        idle=seen.idle.stats(),
        first_reuse=seen.first_reuse.stats(),
        reuse_gap=seen.reuse_gap.stats(),
    )


def summarize(
    seen: Measurements,
    recent: RecentMetrics,
    *,
    source: str,
    tier: str,
    timestamp: float,
    live: int,
    config: MetricsConfig,
    capacity: int | None,
    working_set: WorkingSet,
    sizes: CacheSizes,
    labels: dict[str, list[LabelUsage]],
    trends: dict[str, Trend],
    alerts: list[dict[str, Any]],
    pending: list[dict[str, Any]],
    accounts: Accounts,
    final: bool = False,
) -> CacheMetricsSummary:
    """A summary of the measurements since the start and of the recent ones."""
    lifetime, idle = seen.lifetime.stats(), seen.idle.stats()
    first_reuse, reuse_gap = seen.first_reuse.stats(), seen.reuse_gap.stats()
    return CacheMetricsSummary(
        source=source,
        tier=tier,
        timestamp=timestamp,
        final=final,
        blocks_live=live,
        capacity=capacity,
        occupancy=live / capacity if capacity else None,
        hit_rate_estimate=seen.hit_ratio,
        total_blocks_sampled=seen.sampled_allocations,
        total_evictions=seen.total_evictions,
        evictions_by_reason=seen.ended_by_reason,
        accesses=seen.accesses,
        avg_lifetime_seconds=lifetime.mean,
        avg_idle_seconds=idle.mean,
        avg_access_count=seen.mean_accesses,
        avg_reuse_gap_seconds=reuse_gap.mean,
        p50_lifetime=lifetime.p50,
        p95_lifetime=lifetime.p95,
        p99_lifetime=lifetime.p99,
        lifetime=lifetime,
        idle=idle,
        first_reuse=first_reuse,
        reuse_gap=reuse_gap,
        zero_access_rate=seen.dead_ratio,
        single_access_rate=seen.single_access_ratio,
        multi_access_rate=seen.multi_access_ratio,
        premature=PrematureEvictions(
            count=seen.return_time.count,
            share=seen.regret_ratio,
            return_time=seen.return_time.stats(),
            extra_blocks_p50=round(seen.return_distance.quantile(0.5)),
            extra_blocks_p90=round(seen.return_distance.quantile(0.9)),
            within_blocks=config.ghost_blocks,
            within_seconds=config.ghost_seconds,
        ),
        recent=recent,
        reuse_by_idle=reuse_by_idle(seen),
        working_set=working_set,
        sizes=sizes,
        labels=labels,
        trends=trends,
        alerts=alerts,
        pending=pending,
        accounts=accounts,
    )
