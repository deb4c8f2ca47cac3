"""ContentGathering: what the samples of contents of several caches show together."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from kvstream.engine.cache import CacheMonitor, CacheName
from kvstream.events.counters import CacheCounts
from kvstream.metrics.content_sample import WHOLE
from kvstream.metrics.contents import OTHER_TIER, CacheContents, Contents
from kvstream.metrics.misses import MissCauses, miss_causes
from kvstream.metrics.sharing import SharedContent, shared_content
from kvstream.metrics.tiers import TierUse, tier_uses

MOST_EVENTS = 8192
"""Arrivals and evictions looked at together, which takes some milliseconds; of more caches, less content."""


class ContentFigures(msgspec.Struct, frozen=True):
    """What contents show that several caches hold.

    Attributes:
        misses: Why lookups were misses; None where no content is known.
        tiers: What each tier does, the fastest first; empty where there is only one.
        shared: What sources share; None of one of them.
    """

    misses: MissCauses | None = None
    tiers: list[TierUse] = []
    shared: SharedContent | None = None


class ContentGathering:
    """The samples of some caches, and of all other tiers of their sources, cache by cache.

    Every cache is expected before the first is added, so that it is known how much content is looked at; then
    they are compared.

    Args:
        most_events: Arrivals and evictions looked at together.

    Attributes:
        figures: What they show together, once they have been compared.
    """

    def __init__(self, most_events: int = MOST_EVENTS) -> None:
        self.figures = ContentFigures()
        self._most_events = most_events
        self._threshold = WHOLE
        self._events = 0.0  # of all content, as far as known
        self._expected: set[CacheName] = set()
        self._gathered: dict[CacheName, CacheContents] = {}
        self._counts: dict[CacheName, CacheCounts] = {}
        self._without_hits: set[CacheName] = set()  # nobody knows whether there are none
        self._has_salts = False
        self._asked: set[CacheName] = set()

    def expect(self, cache: CacheMonitor) -> None:
        """Note the size of the sample of a cache that will be added."""
        for tier in cache.tiers.values():
            name = tier.name
            if name not in self._expected:
                self._expected.add(name)
                if count := len(sample := tier.settled_sample()):
                    self._threshold = min(self._threshold, sample.threshold)
                    self._events += count / (sample.threshold / WHOLE)
        while self._events * (self._threshold / WHOLE) > self._most_events:
            self._threshold //= 2

    def add(self, cache: CacheMonitor) -> None:
        """Take in what the sample of a cache shows."""
        self._asked.add(cache.name)
        for tier in cache.tiers.values():
            name = tier.name
            if name not in self._gathered:
                self._gathered[name] = tier.contents(self._threshold)
                self._counts[name] = tier.counts()
                if not tier.hits_are_known:
                    self._without_hits.add(name)
                self._has_salts |= (
                    tier.table.label_sets is not None and tier.table.label_sets.salts is not None
                )

    def add_all(self, caches: Sequence[CacheMonitor]) -> None:
        """Take in all caches, and compare them, at once."""
        for cache in caches:
            self.expect(cache)
        for cache in caches:
            self.add(cache)
        deque(self.compare(), maxlen=0)

    def compare(self) -> Iterator[None]:
        """Compare what was added, in steps of some milliseconds, between which the caches may change."""
        names = list(self._gathered)
        contents = Contents(list(self._gathered.values()))
        if not contents.different:
            return
        yield
        asked = np.array([name in self._asked for name in names])
        fastest = {names[cache]: self._counts[names[cache]] for cache in contents.fastest}
        hits: Counter[str] = Counter()
        lookups = 0
        if not self._without_hits & fastest.keys():
            for (_, tier), counts in fastest.items():
                hits[tier if tier in contents.tiers else OTHER_TIER] += counts.accesses
                lookups += counts.accesses + counts.allocations
        misses = miss_causes(contents, asked, self._other_salt(fastest))
        yield
        tiers = tier_uses(contents, hits, lookups)
        yield
        shared = shared_content(contents, hits.total() / lookups if lookups else None)
        self.figures = ContentFigures(misses, tiers, shared)

    def _other_salt(self, fastest: Mapping[CacheName, CacheCounts]) -> float | None:
        """Return the share of misses of content that was there under another salt; None without salts."""
        if not self._has_salts:
            return None
        counted = [counts for name, counts in fastest.items() if name in self._asked]
        shared = sum(counts.shared_between_salts for counts in counted)
        misses = shared + sum(counts.allocations for counts in counted)
        return shared / misses if misses else None
