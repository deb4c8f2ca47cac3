"""Readings: every metric of a stream and its value now, for all exporters."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Literal, NamedTuple

from anyio.lowlevel import checkpoint
from msgspec import Struct

from kvstream.engine.cache import CacheMonitor
from kvstream.engine.contents import ContentFigures, ContentGathering
from kvstream.engine.source import SourceMonitor
from kvstream.events.counters import CacheCounts, SourceCounts, counts_of
from kvstream.exporters.process import cpu_seconds, resident_bytes
from kvstream.metrics.histogram import ExponentialHistogram
from kvstream.metrics.summary import Accounts, SavedState
from kvstream.metrics.usage import usage_by_label
from kvstream.stream import KVStream, consumers_of

TIER = ("source", "tier")

LabelValues = tuple[str, ...]


class Interval(NamedTuple):
    """A distribution: how many values are at most each of vLLM's bounds, and a native histogram."""

    below: list[int]
    native: ExponentialHistogram


class Family(NamedTuple):
    """One metric; the name of a counter is without ``_total``."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""

    @property
    def sample_name(self) -> str:
        """Return the name of its samples."""
        return self.name + ("_total" if self.kind == "counter" else "")


Reading = tuple[Family, LabelValues, "float | Interval"]
"""A family, label values, and the value now, which changes no more."""


def _families(kind: type[Struct], labels: LabelValues) -> dict[str, Family]:
    """Return the metrics of those counts of a Struct that are exported, by the name of its field."""
    return {
        name: Family(count.kind, count.metric, count.help, labels)
        for name, count in counts_of(kind).items()
        if count.metric
    }


_OF_CACHE = _families(CacheCounts, TIER)
_OF_SOURCE = _families(SourceCounts, ("source",))
_OF_STREAM = _families(Accounts, ())
_OF_STATE = _families(SavedState, ())
_CAUSES = ("never_stored", "evicted", "cleared", "other_salt", "unknown")  # fields of ``MissCauses``
_WAYS = ("copied", "demoted", "promoted", "dropped", "dropped_unused")  # and of ``TierUse``
_RESTING_ON_HITS = {name for name, count in counts_of(CacheCounts).items() if count.rests_on_hits}

_BLOCKS = Family("gauge", "kvstream_blocks", "Blocks live.", TIER)
_CAPACITY = Family("gauge", "kvstream_capacity_blocks", "Blocks there is room for.", TIER)
_LAST_EVENT = Family(
    "gauge", "kvstream_last_event_timestamp_seconds", "Time of the last event.", TIER, "seconds"
)
_EVICTIONS = Family("counter", "kvstream_evictions", "Generations ended, by reason.", (*TIER, "reason"))
_PREMATURE = Family(
    "counter", "kvstream_premature_evictions", "Evicted content that was looked up again.", TIER
)
_LIFETIME = Family("histogram", "kvstream_block_lifetime_seconds", "Allocation to eviction.", TIER, "seconds")
_IDLE = Family(
    "histogram", "kvstream_block_idle_before_evict_seconds", "Last access to eviction.", TIER, "seconds"
)
_REUSE_GAP = Family("histogram", "kvstream_block_reuse_gap_seconds", "Access to access.", TIER, "seconds")
_FIRING = Family("gauge", "kvstream_alert_firing", "1 for each alert that fires.", (*TIER, "rule", "level"))
_LABEL = (*TIER, "label", "value")
_LABEL_BLOCKS = Family("gauge", "kvstream_label_blocks", "Blocks live, by label of allocation.", _LABEL)
_LABEL_ALLOCATIONS = Family("counter", "kvstream_label_allocations", "Blocks allocated, by label.", _LABEL)
_LABEL_ACCESSES = Family("counter", "kvstream_label_accesses", "Hits on blocks, by their label.", _LABEL)
_LABEL_EVICTIONS = Family("counter", "kvstream_label_evictions", "Blocks evicted, by their label.", _LABEL)
_LABEL_PREMATURE = Family(
    "counter", "kvstream_label_premature_evictions", "Evicted content that a label allocated again.", _LABEL
)
_LABEL_SHARE = Family(
    "gauge", "kvstream_label_residency_ratio", "Share of all block seconds, by label.", _LABEL, "ratio"
)
_MISS_CAUSE = Family(
    "gauge",
    "kvstream_miss_cause_ratio",
    "Share of the misses of known content, by why it was not there; estimated, of the last hour at most.",
    ("cause",),
    "ratio",
)
_FOLLOWED = Family(
    "gauge",
    "kvstream_content_followed_ratio",
    "Share of all content that causes of misses, tiers and sharing are estimated from.",
    unit="ratio",
)
_TIER_HITS = Family(
    "gauge", "kvstream_tier_hit_ratio", "Share of lookups found first in a tier.", ("tier",), "ratio"
)
_TIER_CONTENT = Family(
    "gauge",
    "kvstream_tier_content_ratio",
    "Share of what came into a tier (copied, demoted) or was evicted (promoted, dropped, dropped_unused).",
    ("tier", "way"),
    "ratio",
)
_SHARED = Family(
    "gauge",
    "kvstream_shared_content_ratio",
    "Share of live blocks by the number of engines that hold their content; 8 are 8 or more.",
    ("engines",),
    "ratio",
)
_SHARING_GAIN = Family(
    "gauge",
    "kvstream_sharing_gain_ratio",
    "What prefix-aware routing or a shared tier would add to the hit ratio, at most.",
    ("by",),
    "ratio",
)
_DROPPED = Family("counter", "kvstream_events_dropped", "Events dropped, by drop reason.", ("reason",))
_UNDELIVERED = Family(
    "counter", "kvstream_subscriber_dropped", "Items that a subscriber did not take in time.", ("subscriber",)
)
_FAULTS = Family(
    "counter", "kvstream_faults", "Errors contained at the edges, by part and reason.", ("part", "reason")
)
_FAILURES = Family(
    "counter", "kvstream_subscriber_failures", "Exceptions raised by a handler.", ("subscriber",)
)
_INPUT_AGE = Family(
    "gauge", "kvstream_input_age_seconds", "Time since the last frame of a source.", ("source",), "seconds"
)
_EVENT_LAG = Family(
    "gauge",
    "kvstream_event_lag_seconds",
    "From the newest event of a source to when it was applied, by our clock.",
    ("source",),
    "seconds",
)
_INPUT = ("input",)
_INPUT_CONNECTED = Family("gauge", "kvstream_input_connected", "1 if an input is connected.", _INPUT)
_INPUT_BATCHES = Family("counter", "kvstream_input_batches", "Batches of an input that were decoded.", _INPUT)
_INPUT_LOST = Family("counter", "kvstream_input_lost_batches", "Batches missed that no replay had.", _INPUT)
_QUEUE_FILL = Family(
    "gauge", "kvstream_queue_fill_ratio", "Share of a queue's room that is taken.", ("consumer",), "ratio"
)
_CPU = Family("counter", "kvstream_process_cpu_seconds", "CPU time of the whole process.", unit="seconds")
_MEMORY = Family("gauge", "kvstream_process_resident_bytes", "Memory of the whole process.", unit="bytes")

FAMILIES = (
    *(_BLOCKS, _CAPACITY, _LAST_EVENT, *_OF_CACHE.values(), _EVICTIONS, _PREMATURE),
    *(_LIFETIME, _IDLE, _REUSE_GAP, *_OF_SOURCE.values(), _FIRING),
    *(_LABEL_BLOCKS, _LABEL_SHARE, _LABEL_ALLOCATIONS, _LABEL_ACCESSES, _LABEL_EVICTIONS, _LABEL_PREMATURE),
    *(_INPUT_AGE, _EVENT_LAG, _QUEUE_FILL, _CPU, _MEMORY),
    *(_INPUT_CONNECTED, _INPUT_BATCHES, _INPUT_LOST),
    *(_FOLLOWED, _MISS_CAUSE, _TIER_HITS, _TIER_CONTENT, _SHARED, _SHARING_GAIN),
    *_OF_STATE.values(),
    *(*_OF_STREAM.values(), _DROPPED, _UNDELIVERED, _FAILURES, _FAULTS),
)
"""Every metric, in the order of the exposition."""


async def readings_in_steps(stream: KVStream) -> AsyncIterator[Iterator[Reading]]:
    """Yield the values of a stream, source by source; other tasks run in between.

    Those of a source are of one moment. A source that begins meanwhile may be left out, and one that is
    forgotten meanwhile is shown as it was before.
    """
    consumers = consumers_of(stream)
    contents = ContentGathering()
    async for cache in consumers.caches_in_turn():
        contents.expect(cache)
    async for source in consumers.in_turn(consumers.sources()):
        yield source_readings(stream, source)
        for cache in source.tiers.values():
            contents.add(cache)
    for _ in contents.compare():
        await checkpoint()
    yield content_readings(contents.figures)
    await checkpoint()
    yield stream_readings(stream)
    await checkpoint()


def readings(stream: KVStream) -> Iterator[Reading]:
    """Yield the same at once."""
    consumers = consumers_of(stream)
    for source in consumers.sources():
        yield from source_readings(stream, source)
    contents = ContentGathering()
    contents.add_all(consumers.caches())
    yield from content_readings(contents.figures)
    yield from stream_readings(stream)


def source_readings(stream: KVStream, source: SourceMonitor) -> Iterator[Reading]:
    """Yield the values of a source and of its tiers."""
    of_source = (source.source,)
    lag = stream.event_lag(source.source)
    if lag is not None:
        yield _INPUT_AGE, of_source, stream.input_age(source.source)
        yield _EVENT_LAG, of_source, lag
    yield from cache_readings(source)


def cache_readings(source: SourceMonitor) -> Iterator[Reading]:
    """Yield what a source itself holds: its counts, and those of its tiers."""
    for name, family in _OF_SOURCE.items():
        yield family, (source.source,), getattr(source.counts, name)
    for cache in source.tiers.values():
        yield from _of_one_cache(cache)


def _of_one_cache(cache: CacheMonitor) -> Iterator[Reading]:
    labels = (cache.source, cache.tier)
    seen = cache.measurements()
    yield _BLOCKS, labels, cache.table.live_count
    if cache.config.capacity:
        yield _CAPACITY, labels, cache.config.capacity
    yield _LAST_EVENT, labels, cache.last_ts / 1e9
    hits_are_known = cache.hits_are_known  # else a 0 would say that there were none
    for name, family in _OF_CACHE.items():
        if hits_are_known or name not in _RESTING_ON_HITS:
            yield family, labels, getattr(seen, name)
    for reason, count in seen.ended_by_reason.items():
        yield _EVICTIONS, (*labels, reason), count
    if cache.premature_is_known:
        yield _PREMATURE, labels, seen.return_time.count
    classic = cache.classic
    yield _LIFETIME, labels, Interval(classic["lifetime"].cumulative(), seen.lifetime)
    if hits_are_known:
        yield _IDLE, labels, Interval(classic["idle"].cumulative(), seen.idle)
        yield _REUSE_GAP, labels, Interval(classic["reuse_gap"].cumulative(), seen.reuse_gap)
    for alert in cache.rules.firing():
        yield _FIRING, (*labels, alert.rule, alert.level.value), 1
    for name, label_sets in usage_by_label(cache.usage()).items():
        for label_set in label_sets:
            of_label_set = (*labels, name, label_set.value or "")
            yield _LABEL_BLOCKS, of_label_set, label_set.blocks_live
            yield _LABEL_SHARE, of_label_set, label_set.residency_share
            yield _LABEL_ALLOCATIONS, of_label_set, label_set.allocations
            if hits_are_known:
                yield _LABEL_ACCESSES, of_label_set, label_set.accesses
            yield _LABEL_EVICTIONS, of_label_set, label_set.evictions
            if cache.premature_is_known:
                yield _LABEL_PREMATURE, of_label_set, label_set.premature


def content_readings(contents: ContentFigures) -> Iterator[Reading]:
    """Yield why lookups of all sources missed, what their tiers do, and what they share."""
    misses, shared = contents.misses, contents.shared
    if misses is not None:
        yield _FOLLOWED, (), misses.rate
        causes = {
            **{cause: getattr(misses, cause) for cause in _CAUSES},
            "other_tier": sum(misses.other_tier.values()),
        }
        yield from _known(_MISS_CAUSE, (), causes)
    for tier in contents.tiers:
        yield from _known(_TIER_HITS, (), {tier.tier: tier.hit_share})
        yield from _known(_TIER_CONTENT, (tier.tier,), {way: getattr(tier, way) for way in _WAYS})
    if shared is not None:
        yield from _known(_SHARED, (), {str(n): share for n, share in enumerate(shared.held_by, 1)})
        gains = {"routing": shared.routing_gain, "shared_tier": shared.shared_tier_gain}
        yield from _known(_SHARING_GAIN, (), gains)


def _known(family: Family, labels: LabelValues, values: Mapping[str, float | None]) -> Iterator[Reading]:
    """Yield the values that are known, by a further label."""
    for name, value in values.items():
        if value is not None:
            yield family, (*labels, name), value


def stream_readings(stream: KVStream) -> Iterator[Reading]:
    """Return the readings that belong to the stream as a whole."""
    inside = stream.statistics()
    accounts = inside.accounts
    for name, family in _OF_STREAM.items():
        yield family, (), getattr(accounts, name)
    if inside.state is not None:
        for name, family in _OF_STATE.items():
            yield family, (), getattr(inside.state, name)
    yield _CPU, (), cpu_seconds()
    yield _MEMORY, (), resident_bytes()
    for seen in inside.inputs:
        of_input = (seen.input,)
        yield _INPUT_CONNECTED, of_input, int(seen.state == "connected")
        yield _INPUT_BATCHES, of_input, seen.batches
        yield _INPUT_LOST, of_input, seen.lost_batches
    for number, queue in enumerate(inside.queues):
        yield _QUEUE_FILL, (str(number),), queue.events / queue.limit_events
    if (heartbeat := stream.heartbeat()) is not None:
        yield _FIRING, (heartbeat.source, heartbeat.tier, heartbeat.rule, heartbeat.level.value), 1
    for alert in stream.drop_alerts():
        yield _FIRING, (alert.source, alert.tier, alert.rule, alert.level.value), 1
    for reason, count in sorted(accounts.dropped.items()):
        yield _DROPPED, (reason,), count
    dropped: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for subscriber in inside.subscribers:
        dropped[subscriber.name] += subscriber.dropped
        failures[subscriber.name] += subscriber.failures
    for fault, count in sorted(inside.faults.items()):
        yield _FAULTS, fault, count
    for name in dropped:
        yield _UNDELIVERED, (name,), dropped[name]
        yield _FAILURES, (name,), failures[name]
