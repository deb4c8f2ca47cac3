"""ContentGathering: what the samples of contents of several caches show together."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from kvstream.engine.cache import CacheMonitor
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
    """The samples of some caches, and of all other tiers of their sources.

    Args:
        caches: The caches that will be added.
        most_events: Arrivals and evictions looked at together.
    """

    def __init__(self, caches: Iterable[CacheMonitor], most_events: int = MOST_EVENTS) -> None:
        tiers = {id(tier): tier for cache in caches for tier in cache.tiers.values()}
        followed = (tier.settled_sample() for tier in tiers.values())
        samples = [sample for sample in followed if len(sample)]
        self._threshold = min((sample.threshold for sample in samples), default=WHOLE)
        while sum(len(each) * self._threshold // each.threshold for each in samples) > most_events:
            self._threshold //= 2
        self._gathered: dict[tuple[str, str], CacheContents] = {}
        self._counts: dict[tuple[str, str], CacheCounts] = {}
        self._without_hits: set[tuple[str, str]] = set()  # nobody knows whether there are none
        self._has_salts = False
        self._asked: set[tuple[str, str]] = set()

    def add(self, cache: CacheMonitor) -> None:
        """Take in what the sample of a cache shows."""
        self._asked.add((cache.source, cache.tier))
        for tier in cache.tiers.values():
            name = tier.source, tier.tier
            if name not in self._gathered:
                self._gathered[name] = tier.contents(self._threshold)
                self._counts[name] = tier.counts()
                if not tier.hits_are_known:
                    self._without_hits.add(name)
                self._has_salts |= (
                    tier.table.label_sets is not None and tier.table.label_sets.salts is not None
                )

    def figures(self) -> ContentFigures:
        """Return what they show together."""
        names = list(self._gathered)
        contents = Contents(list(self._gathered.values()))
        if not contents.different:
            return ContentFigures()
        asked = np.array([name in self._asked for name in names])
        fastest = {names[cache]: self._counts[names[cache]] for cache in contents.fastest}
        hits: Counter[str] = Counter()
        lookups = 0
        if not self._without_hits & fastest.keys():
            for (_, tier), counts in fastest.items():
                hits[tier if tier in contents.tiers else OTHER_TIER] += counts.accesses
                lookups += counts.accesses + counts.allocations
        return ContentFigures(
            miss_causes(contents, asked, self._other_salt(fastest)),
            tier_uses(contents, hits, lookups),
            shared_content(contents, hits.total() / lookups if lookups else None),
        )

    def _other_salt(self, fastest: Mapping[tuple[str, str], CacheCounts]) -> float | None:
        """Return the share of misses of content that was there under another salt; None without salts."""
        if not self._has_salts:
            return None
        counted = [counts for name, counts in fastest.items() if name in self._asked]
        shared = sum(counts.shared_between_salts for counts in counted)
        misses = shared + sum(counts.allocations for counts in counted)
        return shared / misses if misses else None
