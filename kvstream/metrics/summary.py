"""CacheMetricsSummary: the state of one source and tier, or of all of them, at one moment."""

from typing import Annotated, Any

import msgspec

from kvstream.config import MetricsConfig
from kvstream.events.counters import CacheCounts, Count, HitsReported, SourceCounts, counts_of
from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.miss_ratio import CacheSizes
from kvstream.metrics.misses import MissCauses
from kvstream.metrics.premature import REMEMBERED_SECONDS
from kvstream.metrics.reuse import ReuseByIdle, reuse_by_idle
from kvstream.metrics.sharing import SharedContent
from kvstream.metrics.tiers import TierUse
from kvstream.metrics.trend import Trend
from kvstream.metrics.usage import LabelUsage
from kvstream.metrics.working_set import WorkingSet

ALL = "*"
"""Stands for every source, or every tier, in a summary of all of them."""


class Accounts(msgspec.Struct, kw_only=True):
    """Where every event and every block went.

    ``offered = processed + sum(dropped) + malformed + in_flight`` and
    ``allocations + unknown_births = live + evicted + cleared + forgotten`` hold at all times.

    Attributes:
        offered: Events that producers and inputs brought. A frame that cannot be decoded counts as one.
        processed: Events applied to block state, unknown blocks among them.
        dropped: Events dropped, by drop reason.
        malformed: Lines and frames that could not be decoded.
        in_flight: Events in producers' buffers and in queues.
        allocations: Generations begun.
        unknown_births: Generations that had begun before anything was heard of them: a snapshot or an access
            shows that they are live, and nobody knows since when.
        unknown_lifetimes: Those of them that were evicted, which are in no distribution of lifetimes.
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
        lost_frames: Frames missing by their sequence numbers.
        restarts: Times that a source began a new epoch.
        forgotten_sources: Sources forgotten after a time without events.
    """

    offered: Annotated[int, Count("Events that came.", "kvstream_events_offered")] = 0
    processed: Annotated[int, Count("Events applied to block state.", "kvstream_events_processed")] = 0
    dropped: dict[str, int] = {}
    malformed: Annotated[int, Count("Lines and frames that could not be decoded.", "kvstream_malformed")] = 0
    in_flight: Annotated[
        int, Count("Events in buffers and queues.", "kvstream_events_in_flight", kind="gauge")
    ] = 0
    allocations: int = 0
    unknown_births: int = 0
    unknown_lifetimes: int = 0
    live: int = 0
    evicted: int = 0
    cleared: int = 0
    forgotten: Annotated[
        int, Count("Blocks live when their source was forgotten.", "kvstream_forgotten_blocks")
    ] = 0
    unknown_accesses: int = 0
    unknown_evictions: int = 0
    unknown_reasons: int = 0
    time_regressions: int = 0
    clock_steps: int = 0
    duplicate_frames: int = 0
    lost_frames: int = 0
    restarts: int = 0
    forgotten_sources: Annotated[
        int, Count("Sources forgotten as they were silent.", "kvstream_forgotten_sources", is_problem=True)
    ] = 0

    @property
    def balanced(self) -> bool:
        """Return whether both accounts add up."""
        events = self.processed + sum(self.dropped.values()) + self.malformed + self.in_flight
        blocks = self.live + self.evicted + self.cleared + self.forgotten
        return self.offered == events and self.allocations + self.unknown_births == blocks


PROBLEM_COUNTS = tuple(
    name
    for kind in (CacheCounts, SourceCounts, Accounts)
    for name, count in counts_of(kind).items()
    if count.is_problem
)
"""Fields of ``Accounts`` that are 0 where all is well, in the order of reports."""


class RecentMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """The last few windows. Rates are per second of event time.

    Attributes:
        seconds: How far back they reach.
        allocation_rate: Allocations a second.
        access_rate: Accesses a second; None where hits are unknown.
        eviction_rate: Evictions a second.
        hit_ratio: accesses / (accesses + allocations), of blocks; None where hits are unknown or nothing was
            looked up.
        never_reused_ratio: Share of evicted blocks that were never accessed; None where hits are unknown or
            nothing was evicted.
        premature_rate: Premature evictions a second; None where contents are unknown.
        premature_ratio: Premature evictions by all evictions of caches with known contents; None
            without any.
        lifetime: Allocation to eviction.
        idle: Last access to eviction; None where hits are unknown.
        first_reuse: Allocation to first access; None where hits are unknown.
        reuse_gap: Access to access; None where hits are unknown.
    """

    seconds: float
    allocation_rate: float
    access_rate: float | None
    eviction_rate: float
    hit_ratio: float | None
    never_reused_ratio: float | None
    premature_rate: float | None
    premature_ratio: float | None
    lifetime: IntervalStats
    idle: IntervalStats | None
    first_reuse: IntervalStats | None
    reuse_gap: IntervalStats | None


class PrematureEvictions(msgspec.Struct, frozen=True, kw_only=True):
    """Premature evictions: evicted content that was looked up again, as far as it is remembered.

    It is known where blocks are content hashes, or where allocations carry keys.

    Attributes:
        count: Evictions of content that was looked up again.
        share: Their share of all evictions of caches with known contents; None without any.
        return_time: Time from eviction to the next lookup of the content.
        extra_blocks_p50: How many more blocks an LRU cache would have needed to keep half of them: contents
            evicted after it that had not come back by its return. None without such a block.
        extra_blocks_p90: How many more blocks would have kept 90 %.
        within_blocks: Later evictions after which an eviction is forgotten.
        within_seconds: Seconds after which an eviction is forgotten.
    """

    count: int
    share: float | None
    return_time: IntervalStats
    extra_blocks_p50: int | None
    extra_blocks_p90: int | None
    within_blocks: int
    within_seconds: float


class SavedState(msgspec.Struct, frozen=True, kw_only=True):
    """The saved state of a stream at one moment.

    Attributes:
        path: The directory that it is kept in.
        saved_at: When the last whole snapshot was begun, seconds since the Unix epoch; None before the first.
        age_seconds: Since then; without one, since the stream was opened.
        interval_seconds: From one snapshot to the next; longer where they cost more.
        bytes: Length of the last snapshot.
        snapshots: Snapshots taken since the stream was opened.
        failures: Attempts that failed.
        error: Why the last attempt failed; empty if it did not.
        unsaved_frames: Frames that were acknowledged though no snapshot holds them, as none could be written
            for so long that their sender would have had to drop events.
        degraded: Sources of which the state was lost, so that their figures are not true yet.
    """

    path: str
    saved_at: float | None
    age_seconds: Annotated[
        float, Count("Time since the last snapshot was begun.", "kvstream_state_age_seconds", kind="gauge")
    ]
    interval_seconds: Annotated[
        float, Count("Time from one snapshot to the next.", "kvstream_state_interval_seconds", kind="gauge")
    ]
    bytes: Annotated[int, Count("Length of the last snapshot.", "kvstream_state_bytes", kind="gauge")]
    snapshots: Annotated[int, Count("Snapshots taken.", "kvstream_state_snapshots")]
    failures: Annotated[int, Count("Snapshots that failed.", "kvstream_state_failures")]
    error: str
    unsaved_frames: Annotated[
        int, Count("Frames acknowledged though no snapshot holds them.", "kvstream_state_unsaved_frames")
    ]
    degraded: list[str]


class CacheMetricsSummary(msgspec.Struct, kw_only=True, tag="summary"):
    """What a cache has done since the start and recently, and what is wrong.

    Until a hit is reported, hits are unknown, as many engines publish none; they are never taken to be 0.
    Figures that rest on hits are None then, and such caches are left out of the totals of several.

    Attributes:
        source: Cache instance, ``*`` for all.
        tier: Tier, ``*`` for all.
        timestamp: Event time of the summary, seconds since the Unix epoch; 0 before any event.
        final: Whether the stream has ended.
        blocks_live: Blocks live now.
        capacity: Blocks there is room for, if known.
        occupancy: ``blocks_live / capacity``, if known.
        block_tokens: Tokens in a block, if known, and the same in all blocks.
        block_sizes: Tokens in a block as events give them, ascending: several where groups of layers or
            engines differ, or where it changed; none where the events do not say it.
        block_bytes: Bytes of a block, if known, and the same of all blocks.
        live_bytes: Bytes of the blocks live now, if known.
        capacity_bytes: Bytes there is room for, if known.
        hit_tokens: Tokens of the accesses since the start; None where hits or sizes of blocks are unknown.
        lookup_tokens: Tokens of the accesses and allocations, likewise. What does not fill a block is in
            neither.
        hits_reported: Whether requests report what they find in the cache: ``none``, ``some`` (those that ask
            for it) or ``all``; None as long as too little was seen.
        hit_rate_estimate: accesses / (accesses + allocations) since the start, of blocks; None where hits
            are unknown.
        total_blocks_sampled: Generations with measured intervals.
        total_evictions: Generations ended by eviction or replacement.
        evictions_by_reason: The same by reason; ``cleared`` ones stand apart from the total.
        accesses: Accesses of live blocks.
        avg_lifetime_seconds: Mean lifetime; None without evictions, as all of these are.
        avg_idle_seconds: Mean time from last access to eviction; None where hits are unknown.
        avg_access_count: Mean accesses of an evicted block; None where hits are unknown.
        avg_reuse_gap_seconds: Mean time between accesses; None where hits are unknown.
        p50_lifetime: Median lifetime, seconds.
        p95_lifetime: 95th percentile.
        p99_lifetime: 99th percentile.
        lifetime: Allocation to eviction, since the start.
        idle: Last access to eviction; None where hits are unknown.
        first_reuse: Allocation to first access; None where hits are unknown.
        reuse_gap: Access to access; None where hits are unknown.
        zero_access_rate: Share of evicted blocks never accessed; None where hits are unknown.
        single_access_rate: Share accessed once, likewise.
        multi_access_rate: Share accessed more often, likewise.
        premature: Evictions of content that was looked up again.
        recent: The last windows.
        reuse_by_idle: What became of blocks that had been idle for a time; empty where hits are unknown.
        working_set: Different blocks in use recently.
        sizes: Hit ratios at other sizes; only for one source and tier.
        misses: Why lookups were misses; None for slower tiers, and where no content is known.
        tiers: What each tier does for its sources, the fastest first; empty if there is only one.
        shared: What several sources share; None for a single source.
        labels: Usage by value of each label, the largest residency first.
        shared_between_salts: Stores and hits of blocks that were stored under another cache salt, within the
            label sets that are followed.
        trends: Trends of windowed values, by metric.
        alerts: Alerts that are firing, as dictionaries.
        pending: What is bad, but not for long enough to fire, in the same form.
        accounts: Where every event and block went.
        state: The saved state; only for all sources and tiers, and None without ``state``.
    """

    source: str
    tier: str
    timestamp: float
    final: bool = False
    blocks_live: int
    capacity: int | None
    occupancy: float | None
    block_tokens: int | None
    block_sizes: list[int]
    block_bytes: int | None
    live_bytes: int | None
    capacity_bytes: int | None
    hit_tokens: int | None
    lookup_tokens: int | None
    hits_reported: HitsReported | None
    hit_rate_estimate: float | None
    total_blocks_sampled: int
    total_evictions: int
    evictions_by_reason: dict[str, int]
    accesses: int
    avg_lifetime_seconds: float | None
    avg_idle_seconds: float | None
    avg_access_count: float | None
    avg_reuse_gap_seconds: float | None
    p50_lifetime: float | None
    p95_lifetime: float | None
    p99_lifetime: float | None
    lifetime: IntervalStats
    idle: IntervalStats | None
    first_reuse: IntervalStats | None
    reuse_gap: IntervalStats | None
    zero_access_rate: float | None
    single_access_rate: float | None
    multi_access_rate: float | None
    premature: PrematureEvictions
    recent: RecentMetrics
    reuse_by_idle: list[ReuseByIdle]
    working_set: WorkingSet
    sizes: CacheSizes
    misses: MissCauses | None
    tiers: list[TierUse]
    shared: SharedContent | None
    labels: dict[str, list[LabelUsage]]
    shared_between_salts: int
    trends: dict[str, Trend]
    alerts: list[dict[str, Any]]
    pending: list[dict[str, Any]]
    accounts: Accounts
    state: SavedState | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


class BlockSize(msgspec.Struct, frozen=True, kw_only=True):
    """How large the blocks of some caches are, each None where it is unknown.

    Attributes:
        given: Tokens in a block as events give them, ascending.
        tokens: Tokens in every block.
        bytes: Bytes of every block.
        live_bytes: Bytes of the blocks live now.
        capacity_bytes: Bytes there is room for.
    """

    given: list[int]
    tokens: int | None
    bytes: int | None
    live_bytes: int | None
    capacity_bytes: int | None


class HitFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What rests on hits, of measurements where they are known; all None where they are not."""

    hit_ratio: float | None = None
    never_accessed: float | None = None
    accessed_once: float | None = None
    accessed_more: float | None = None
    mean_accesses: float | None = None
    idle: IntervalStats | None = None
    first_reuse: IntervalStats | None = None
    reuse_gap: IntervalStats | None = None


def hit_figures(known: Measurements | None) -> HitFigures:
    """Return what rests on hits; ``known`` is of caches that report hits, None if there are none."""
    if known is None:
        return HitFigures()
    return HitFigures(
        hit_ratio=known.hit_ratio,
        never_accessed=known.never_reused_ratio,
        accessed_once=known.single_access_ratio,
        accessed_more=known.multi_access_ratio,
        mean_accesses=known.mean_accesses,
        idle=known.idle.stats(),
        first_reuse=known.first_reuse.stats(),
        reuse_gap=known.reuse_gap.stats(),
    )


def recent_metrics(
    seen: Measurements, known: Measurements | None, seconds: float, followed_evictions: int | None
) -> RecentMetrics:
    """Return rates and distributions of measurements that span ``seconds``.

    Args:
        seen: What all caches have seen.
        known: What the caches that report hits have counted; None if there are none.
        seconds: What they span.
        followed_evictions: Evictions of caches with known contents; None if there are none.
    """
    hits = hit_figures(known)
    per_second = 1.0 / seconds if seconds > 0 else 0.0
    return RecentMetrics(
        seconds=seconds,
        allocation_rate=seen.allocations * per_second,
        access_rate=None if known is None else known.accesses * per_second,
        eviction_rate=seen.total_evictions * per_second,
        hit_ratio=hits.hit_ratio,
        never_reused_ratio=hits.never_accessed,
        premature_rate=None if followed_evictions is None else seen.return_time.count * per_second,
        premature_ratio=seen.premature_share(followed_evictions),
        lifetime=seen.lifetime.stats(),
        idle=hits.idle,
        first_reuse=hits.first_reuse,
        reuse_gap=hits.reuse_gap,
    )


def summarize(
    seen: Measurements,
    known: Measurements | None,
    recent: RecentMetrics,
    *,
    source: str,
    tier: str,
    timestamp: float,
    live: int,
    config: MetricsConfig,
    capacity: int | None,
    block_size: BlockSize,
    working_set: WorkingSet,
    sizes: CacheSizes,
    misses: MissCauses | None,
    tiers: list[TierUse],
    shared: SharedContent | None,
    labels: dict[str, list[LabelUsage]],
    trends: dict[str, Trend],
    alerts: list[dict[str, Any]],
    pending: list[dict[str, Any]],
    followed_evictions: int | None,
    hits_reported: HitsReported | None,
    accounts: Accounts,
    final: bool = False,
) -> CacheMetricsSummary:
    """Return a summary of the measurements since the start, and of the recent ones.

    Args:
        seen: What all caches have seen.
        known: What the caches that report hits have counted; None if there are none.
        recent: The last windows.
        source: Cache instance, ``*`` for all.
        tier: Tier, ``*`` for all.
        timestamp: Event time, seconds since the Unix epoch.
        live: Blocks live now.
        config: What is measured.
        capacity: Blocks there is room for, if known.
        block_size: How large blocks are.
        working_set: Different blocks in use recently.
        sizes: What caches of other sizes would do.
        misses: Why lookups were misses, if known.
        tiers: What each tier does.
        shared: What several sources share.
        labels: What the blocks of each value of each label have done.
        trends: Where windowed values are going.
        alerts: What fires.
        pending: What is bad, but not for long enough.
        followed_evictions: Evictions of caches with known contents; None if there are none.
        hits_reported: Whether requests report what they find in the cache.
        accounts: Where every event and block went.
        final: Whether the stream has ended.
    """
    lifetime = seen.lifetime.stats()
    hits = hit_figures(known)
    sized = known if known is not None and known.sized_lookups == known.lookups else None
    return CacheMetricsSummary(
        source=source,
        tier=tier,
        timestamp=timestamp,
        final=final,
        blocks_live=live,
        capacity=capacity,
        occupancy=live / capacity if capacity else None,
        block_tokens=block_size.tokens,
        block_sizes=block_size.given,
        block_bytes=block_size.bytes,
        live_bytes=block_size.live_bytes,
        capacity_bytes=block_size.capacity_bytes,
        hit_tokens=None if sized is None else sized.hit_tokens,
        lookup_tokens=None if sized is None else sized.lookup_tokens,
        hits_reported=hits_reported,
        hit_rate_estimate=hits.hit_ratio,
        total_blocks_sampled=seen.sampled_allocations,
        total_evictions=seen.total_evictions,
        evictions_by_reason=seen.ended_by_reason,
        accesses=seen.accesses,
        avg_lifetime_seconds=lifetime.mean,
        avg_idle_seconds=None if hits.idle is None else hits.idle.mean,
        avg_access_count=hits.mean_accesses,
        avg_reuse_gap_seconds=None if hits.reuse_gap is None else hits.reuse_gap.mean,
        p50_lifetime=lifetime.p50,
        p95_lifetime=lifetime.p95,
        p99_lifetime=lifetime.p99,
        lifetime=lifetime,
        idle=hits.idle,
        first_reuse=hits.first_reuse,
        reuse_gap=hits.reuse_gap,
        zero_access_rate=hits.never_accessed,
        single_access_rate=hits.accessed_once,
        multi_access_rate=hits.accessed_more,
        premature=PrematureEvictions(
            count=seen.return_time.count,
            share=seen.premature_share(followed_evictions),
            return_time=seen.return_time.stats(),
            extra_blocks_p50=round(seen.return_distance.quantile(0.5))
            if seen.return_distance.count
            else None,
            extra_blocks_p90=round(seen.return_distance.quantile(0.9))
            if seen.return_distance.count
            else None,
            within_blocks=config.remembered_evictions,
            within_seconds=REMEMBERED_SECONDS,
        ),
        recent=recent,
        reuse_by_idle=[] if known is None else reuse_by_idle(known),
        working_set=working_set,
        sizes=sizes,
        misses=misses,
        tiers=tiers,
        shared=shared,
        labels=labels,
        shared_between_salts=seen.shared_between_salts,
        trends=trends,
        alerts=alerts,
        pending=pending,
        accounts=accounts,
    )
