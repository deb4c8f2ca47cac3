"""Analysis: why a cache does what it does, and what would help, in words and figures."""

import msgspec

from kvstream.alerts.types import CacheAlert
from kvstream.blocks.state import HotBlock
from kvstream.config import MetricsConfig
from kvstream.engine.cache import CacheMonitor, Outcome
from kvstream.engine.monitor import Monitor
from kvstream.engine.recorded import RecordedTime
from kvstream.events.frame import EventFrame
from kvstream.metrics.summary import ALL, CacheMetricsSummary
from kvstream.reports.lines import misses, shared, within
from kvstream.text.numbers import gib, percent, seconds

_HARDLY = 0.02  # of hit ratio: less is not worth speaking of
_AGREE = 0.03  # of hit ratio: what is measured and what an LRU cache would have differ by no more
_FULL = 0.9
_NEARLY_ALL = 0.8  # of evictions
_A_LITTLE = 0.3  # of the blocks that there are
_CONTENTS = 8192
_NO_HITS = "No hit was reported, so that hit ratios are not known: docs/engines.md says what publishes hits."
_NO_CONTENT = (
    "Content is not known, so that what more memory would give is not known either: that takes block ids "
    "that are content hashes, or content keys of allocations."
)
_ENOUGH = 100  # misses
_MUCH_DROPPED = 0.5
_HOT_BLOCKS = 10
_MUCH_ASKED_ONCE = 0.5
_MANY_EVICTED = 0.2
_LABEL = {"tenant": "Tenant", "lora": "Adapter", "model": "Model", "group": "Group"}
_WORSE = {
    "hit_ratio": ("hit ratio", "falling"),
    "lifetime": ("lifetimes", "falling"),
    "eviction_rate": ("evictions", "rising"),
}
_MUCH_ROOM = 0.1  # of all block time
_LITTLE_USE = 0.5  # of the hits that its share of room would have


class CacheAnalysis(msgspec.Struct, frozen=True, kw_only=True, tag="analysis"):
    """The analysis of one source and tier.

    Attributes:
        source: Cache instance.
        tier: Tier.
        verdict: The answer, a sentence each.
        hottest: The live blocks that were accessed most.
        longest_held: The live blocks that were held for the longest time.
        summary: All figures.
    """

    source: str
    tier: str
    verdict: list[str]
    hottest: list[HotBlock]
    longest_held: list[HotBlock]
    summary: CacheMetricsSummary


class Analysis:
    """Take in frames and say what they mean.

    Args:
        config: What is measured; ``capacity`` is the size that there is. The miss-ratio curve is of all
            that is taken in, and of as much content as it takes.
    """

    def __init__(self, config: MetricsConfig | None = None) -> None:
        whole = msgspec.structs.replace(
            config or MetricsConfig(), curve_keys=_CONTENTS, curve_half_life_seconds=0.0
        )
        self.monitor = Monitor(whole)
        self._time = RecordedTime(self.monitor)
        self._simulated: dict[str, str] = {}

    def process(self, frame: EventFrame, records: bool = False) -> Outcome:
        """Take in a frame; ``records`` asks for what was evicted."""
        changed = self._time.reach([frame])
        outcome = self.monitor.process(frame, records)
        return msgspec.structs.replace(outcome, alerts=changed + outcome.alerts) if changed else outcome

    def mark_simulated(self, source: str, simulation: str) -> None:
        """Have the verdict on a source say that its cache is simulated, and what that rests on."""
        self._simulated[source] = simulation

    def end(self) -> list[CacheAlert]:
        """Judge the silence of every cache up to the newest event of all; return the alerts that changed."""
        return self._time.end()

    def results(self) -> list[CacheAnalysis]:
        """Return one analysis for each cache, sorted by name."""
        caches = sorted(self.monitor.caches(), key=lambda cache: (cache.source, cache.tier))
        return [self._result(cache) for cache in caches]

    def overall(self) -> CacheAnalysis | None:
        """Return the analysis of all sources together; None of a single one."""
        if len(self.monitor.sources) < 2:
            return None
        summary = self.monitor.summary()
        return CacheAnalysis(
            source=ALL, tier=ALL, verdict=verdict(summary), hottest=[], longest_held=[], summary=summary
        )

    def _result(self, cache: CacheMonitor) -> CacheAnalysis:
        summary = self.monitor.summary(cache.source, cache.tier)
        said = verdict(summary)
        if cache.source in self._simulated:
            simulation = self._simulated[cache.source]
            said.append(f"{simulation[0].upper()}{simulation[1:]}.")
        return CacheAnalysis(
            source=cache.source,
            tier=cache.tier,
            verdict=said,
            hottest=cache.table.hottest(_HOT_BLOCKS, cache.last_ts),
            longest_held=cache.table.longest_held(_HOT_BLOCKS, cache.last_ts),
            summary=summary,
        )


def verdict(summary: CacheMetricsSummary) -> list[str]:
    """Say what the figures mean, a sentence each; what is not known is not said.

    Args:
        summary: Of one source and tier; of all of them there is less to say.
    """
    is_one = ALL not in (summary.source, summary.tier)
    sentences = []
    if summary.capacity is not None and summary.blocks_live > summary.capacity:
        sentences.append(
            f"WARNING: {summary.blocks_live:,} blocks are live, more than the capacity of "
            f"{summary.capacity:,}: that is not what the cache holds, or evictions are missing."
        )
    if summary.accounts.lost_frames:
        sentences.append(f"{summary.accounts.lost_frames:,} frames are missing, so that figures are too low.")
    sentences += _of_evictions(summary)
    if summary.misses is not None and summary.misses.followed >= _ENOUGH:
        sentences.append(f"Causes of misses: {misses(summary.misses)}.")
    sentences += _of_tiers(summary)
    if summary.shared is not None:
        sentences += shared(summary.shared)
    if is_one:
        sentences += _of_reuse(summary)
        sentences += _of_size(summary)
    sentences += _of_labels(summary)
    return sentences + _of_trends(summary)


def _of_evictions(summary: CacheMetricsSummary) -> list[str]:
    """Return what evictions cost."""
    premature = summary.premature
    if not summary.total_evictions:
        return ["Nothing was evicted: the cache holds all that is asked of it."]
    sentences = []
    if premature.count:
        more = _blocks(premature.extra_blocks_p50 or 0, summary.block_bytes)
        sentences.append(
            f"{percent(premature.share)} of evictions were premature: their content was looked up again, "
            f"half of it {within(premature.return_time.p50 or 0.0)}. "
            f"{more} more would have kept half of it, "
            f"{premature.extra_blocks_p90:,} would have kept 90%."
        )
    blocks, extra_blocks = summary.sizes.blocks, premature.extra_blocks_p90 or 0
    is_cycle = (premature.share or 0.0) > _NEARLY_ALL and 0 < extra_blocks <= _A_LITTLE * blocks
    if is_cycle:
        sentences.append(
            "Nearly all content comes back just after it was evicted, as in a scan that goes round and "
            f"round: a cache larger by {percent(extra_blocks / blocks)} would hold it."
        )
    if summary.zero_access_rate is not None and summary.zero_access_rate > 0.5:
        sentences.append(
            f"{percent(summary.zero_access_rate)} of evictions were of blocks that were never reused."
        )
    return sentences


def _of_tiers(summary: CacheMetricsSummary) -> list[str]:
    """Return what slower tiers find, and whether what they take in is of use."""
    sentences = []
    for use in summary.tiers:
        if use.found is not None:
            sentences.append(f"The tier {use.tier} held {percent(use.found)} of what faster tiers missed.")
        if use.dropped_unused is not None and use.dropped_unused > _MUCH_DROPPED:
            sentences.append(
                f"{percent(use.dropped_unused)} of what {use.tier} evicted was in no other tier, and had not "
                "come into a faster one."
            )
    return sentences


def _of_reuse(summary: CacheMetricsSummary) -> list[str]:
    """Return whether anything is looked up more than once, and for how long blocks are worth their room."""
    sizes = summary.sizes
    if _nothing_came_twice(summary):
        if sizes.asked_once == 1.0:
            reported = "" if summary.accesses else ", as far as is reported"
            return [f"Nothing came twice{reported}: no cache size helps."]
        return [f"Hardly anything came twice ({percent(sizes.asked_once)} came once): no cache size helps."]
    sentences = []
    if sizes.points and sizes.asked_once is not None and sizes.asked_once > _MUCH_ASKED_ONCE:
        sentences.append(f"{percent(sizes.asked_once)} of the content was looked up only once.")
    return sentences + _of_idle(summary)


def _nothing_came_twice(summary: CacheMetricsSummary) -> bool:
    sizes = summary.sizes
    once = sizes.asked_once
    if not summary.total_evictions or summary.premature.count > _HARDLY * summary.total_evictions:
        return False
    best = sizes.points[-1].hit_ratio if sizes.points else 0.0
    return once is not None and once > 1.0 - _HARDLY and best < _HARDLY


def _of_size(summary: CacheMetricsSummary) -> list[str]:
    """Return what other sizes of cache would do."""
    sizes = summary.sizes
    curve = sizes.points
    if summary.hit_rate_estimate is None:
        return [_NO_HITS] if summary.accounts.allocations else []
    if not curve:
        return [_NO_CONTENT]
    if _nothing_came_twice(summary) or summary.blocks_live > sizes.blocks:
        return []
    now = next(point for point in curve if point.factor == 1.0)
    if sizes.measured is not None and abs(now.hit_ratio - sizes.measured) > _AGREE:
        return [
            f"An LRU cache of {sizes.blocks:,} blocks would have a hit ratio of {now.hit_ratio:.2f}, but "
            f"{sizes.measured:.2f} was measured: hits are partly reported, or the capacity is not what was "
            "given. So there is no advice on sizes."
        ]
    gain = curve[-1].hit_ratio - now.hit_ratio
    if gain < _HARDLY:
        before, after = f"{now.hit_ratio:.2f}", f"{curve[-1].hit_ratio:.2f}"
        lifted = f"would lift the hit ratio from {before} to {after}"
        if before == after:
            lifted = f"would leave the hit ratio at {before}"
        sentences = [f"More memory would hardly help: {curve[-1].factor:g}× {lifted}."]
    else:
        enough = next(point for point in curve if point.hit_ratio - now.hit_ratio >= gain / 2)
        sentences = [
            f"{enough.factor:g}× the memory{_in_bytes(enough.blocks, summary.block_bytes)} would lift the "
            f"hit ratio from {now.hit_ratio:.2f} to {enough.hit_ratio:.2f}."
        ]
    sentences += _of_less(summary, now.hit_ratio)
    if sizes.blocks_for_90 is not None:
        sentences.append(f"A hit ratio of 0.9 takes {_blocks(sizes.blocks_for_90, summary.block_bytes)}.")
    return sentences


def _of_less(summary: CacheMetricsSummary, now: float) -> list[str]:
    """Return what less memory would do, which only a cache that was full for long enough can say.

    While it fills, all sizes do the same; and until as many blocks were evicted as it holds, some have lived
    since the beginning, however little they are worth.
    """
    sizes = summary.sizes
    if sizes.peak < _FULL * sizes.blocks:
        return [f"The cache was never full ({sizes.peak:,} of {sizes.blocks:,} blocks at most)."]
    if summary.evictions_by_reason.get("capacity", 0) < sizes.blocks:
        return []
    smaller = next(point for point in sizes.points if now - point.hit_ratio < _HARDLY / 2)
    return [f"{smaller.factor:g}× the memory would do as well."] if smaller.factor < 1.0 else []


def _of_idle(summary: CacheMetricsSummary) -> list[str]:
    """Return the idle time after which blocks are hardly reused, where many are kept for longer."""
    many = _MANY_EVICTED * summary.total_evictions
    for row in summary.reuse_by_idle:
        if row.idle_seconds and row.reuse_share < _HARDLY and row.evicted > many:
            kept = row.evicted / summary.total_evictions
            return [
                f"Of blocks that were idle for more than {seconds(row.idle_seconds)} "
                f"{percent(row.reuse_share)} were reused; {percent(kept)} of evicted ones were kept so long."
            ]
    return []


def _of_labels(summary: CacheMetricsSummary) -> list[str]:
    """Return the labels with a far larger share of room than of hits."""
    return [
        f"{_LABEL[name]} {usage.value} holds {percent(usage.residency_share)} of block time for "
        f"{percent(usage.hit_share)} of hits."
        for name, values in summary.labels.items()
        for usage in values
        if usage.value is not None
        and usage.hit_share is not None
        and usage.residency_share >= _MUCH_ROOM
        and usage.hit_share < _LITTLE_USE * usage.residency_share
    ]


def _of_trends(summary: CacheMetricsSummary) -> list[str]:
    """Return what gets worse: hit ratio and lifetimes that fall, evictions that rise."""
    worse = [
        f"{name} {direction}"
        for metric, (name, direction) in _WORSE.items()
        if metric in summary.trends and summary.trends[metric].direction == direction
    ]
    return [f"Recent trend: {', '.join(worse)}."] if worse else []


def _blocks(blocks: int, block_bytes: int | None) -> str:
    return f"{blocks:,} blocks{_in_bytes(blocks, block_bytes)}"


def _in_bytes(blocks: int, block_bytes: int | None) -> str:
    return f" ({gib(blocks * block_bytes)} GiB)" if block_bytes else ""
