"""Gathering: what several caches have seen, taken together in a summary."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kvstream.config import MetricsConfig
from kvstream.engine.cache import CacheMonitor
from kvstream.engine.contents import ContentGathering
from kvstream.engine.source import ForgottenSources
from kvstream.events.counters import CacheCounts, joint_hits_reported
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.miss_ratio import CacheSizes
from kvstream.metrics.summary import (
    ALL,
    Accounts,
    BlockSize,
    CacheMetricsSummary,
    recent_metrics,
    summarize,
)
from kvstream.metrics.usage import UsageByLabel
from kvstream.metrics.working_set import WorkingSet, total_working_set


def total_measurements(caches: Iterable[CacheMonitor]) -> Measurements:
    """Return what several caches have measured since the start."""
    total = Measurements.empty()
    for cache in caches:
        total.merge(cache.measurements())
    return total


class Gathering:
    """A summary in the making, cache by cache, as many of them take their time.

    Args:
        config: What is measured.
        caches: What is to be summarized.
    """

    def __init__(self, config: MetricsConfig, caches: Sequence[CacheMonitor]) -> None:
        self._config, self._caches = config, caches
        self._known, self._unknown = Measurements.empty(), Measurements.empty()  # by whether hits are known
        self._recent_known, self._recent_unknown = Measurements.empty(), Measurements.empty()
        self._hits_are_known = self._contents_are_known = False
        self._followed = self._recent_followed = 0  # evictions of caches with known contents
        self._by_source: dict[str, CacheCounts] = {}
        self._working_sets: list[WorkingSet] = []
        self._usage = UsageByLabel()
        self._contents = ContentGathering()
        self._firing: list[dict[str, Any]] = []
        self._pending: list[dict[str, Any]] = []
        self._newest = max(
            (cache.ring.latest for cache in caches if cache.ring.latest is not None), default=None
        )
        self._span = 0
        if self._newest is not None:
            oldest = min(cache.ring.oldest for cache in caches if cache.ring.oldest is not None)
            self._span = min(config.recent_windows, self._newest - oldest + 1)

    def expect(self, cache: CacheMonitor) -> None:
        """Note a cache that will be added, before the first is (``ContentGathering``)."""
        self._contents.expect(cache)

    def add(self, cache: CacheMonitor) -> None:
        """Take in what one of the caches has seen."""
        self._hits_are_known |= cache.hits_are_known
        self._contents_are_known |= cache.premature_is_known
        seen = cache.measurements()
        (self._known if cache.hits_are_known else self._unknown).merge(seen)
        self._followed += seen.total_evictions if cache.premature_is_known else 0
        if self._span:
            recent = cache.recent(self._span, self._newest)
            (self._recent_known if cache.hits_are_known else self._recent_unknown).merge(recent)
            self._recent_followed += recent.total_evictions if cache.premature_is_known else 0
        self._by_source.setdefault(cache.source, CacheCounts()).add_counts(seen)
        self._working_sets.append(cache.working_set.recent(self._newest))
        self._usage.add(cache.usage())
        self._contents.add(cache)
        self._firing += [alert.to_dict() for alert in cache.rules.firing()]
        self._pending += [alert.to_dict() for alert in cache.rules.pending()]

    def compare(self) -> Iterator[None]:
        """Compare the caches' contents in steps, once every cache was taken in (``ContentGathering``)."""
        return self._contents.compare()

    def add_all(self) -> None:
        """Take in every cache, and compare their contents, at once."""
        for cache in self._caches:
            self.expect(cache)
        for cache in self._caches:
            self.add(cache)
        deque(self.compare(), maxlen=0)

    def add_forgotten(self, forgotten: ForgottenSources) -> None:
        """Take in what forgotten sources had seen since the start."""
        seen = forgotten.measurements
        self._by_source.setdefault("", CacheCounts()).add_counts(seen)
        self._hits_are_known |= seen.accesses > 0
        self._contents_are_known |= forgotten.followed_evictions > 0
        self._followed += forgotten.followed_evictions
        (self._known if seen.accesses else self._unknown).merge(seen)

    def summary(
        self, source: str | None, tier: str | None, accounts: Accounts, final: bool
    ) -> CacheMetricsSummary:
        """Return the summary, once every cache was taken in and their contents were compared."""
        config, caches = self._config, self._caches
        alone = caches[0] if len(caches) == 1 else None
        total, recent = Measurements.empty(), Measurements.empty()
        for part in (self._known, self._unknown):
            total.merge(part)
        for part in (self._recent_known, self._recent_unknown):
            recent.merge(part)
        known, recent_known = self._known, self._recent_known
        contents = self._contents.figures
        return summarize(
            total,
            known if self._hits_are_known else None,
            recent_metrics(
                recent,
                recent_known if self._hits_are_known else None,
                self._span * config.window_seconds,
                self._recent_followed if self._contents_are_known else None,
            ),
            source=source or ALL,
            tier=tier or ALL,
            timestamp=max((cache.last_ts for cache in caches), default=0) / 1e9,
            live=accounts.live,
            config=config,
            capacity=config.capacity * len(caches) if config.capacity and caches else None,
            block_size=_block_size(config, caches),
            trends=alone.trends() if alone else {},
            followed_evictions=self._followed if self._contents_are_known else None,
            hits_reported=joint_hits_reported(counts.hits_reported for counts in self._by_source.values()),
            alerts=self._firing,
            sizes=alone.sizes() if alone else CacheSizes(),
            working_set=total_working_set(self._working_sets),
            labels=self._usage.labels(),
            misses=contents.misses,
            tiers=contents.tiers,
            shared=contents.shared if source is None and tier is None else None,
            pending=self._pending,
            accounts=accounts,
            final=final,
        )


def _block_size(config: MetricsConfig, caches: Sequence[CacheMonitor]) -> BlockSize:
    """Return how large the blocks of some caches are."""
    given = {tokens for cache in caches for tokens in cache.block_sizes}
    tokens = given | {config.block_tokens or 0 for cache in caches if not cache.block_sizes} - {0}
    sizes = [cache.block_bytes for cache in caches] or [config.block_bytes]
    known = [size for size in sizes if size is not None]
    is_known = len(known) == len(sizes)
    live = sum(cache.table.live_count * size for cache, size in zip(caches, known, strict=False))
    return BlockSize(
        given=sorted(given),
        tokens=min(tokens, default=config.block_tokens) if len(tokens) < 2 else None,
        bytes=known[0] if is_known and len(set(known)) == 1 else None,
        live_bytes=live if is_known else None,
        capacity_bytes=config.capacity * sum(known) if is_known and caches and config.capacity else None,
    )
