"""Contents: when the same content was in each of several caches, from their samples."""

from collections.abc import Sequence
from functools import cached_property

import msgspec
import numpy as np

from kvstream._core.ids import are_below
from kvstream.events.frame import I64
from kvstream.metrics.content_sample import ALWAYS, REMEMBERED_NS, WHOLE
from kvstream.metrics.stays import NOT_ENDED, Flags, Stays

TIERS = ("gpu", "cpu", "disk", "remote")
"""Tiers by speed, the fastest first; any other is slower."""

MOST_TIERS = 8
"""Tiers that are distinguished; any more are one, ``other``."""

OTHER_TIER = "other"


class CacheContents(msgspec.Struct, frozen=True, eq=False):
    """What the sample of one cache shows.

    Attributes:
        source: Cache instance.
        tier: Its tier.
        stays: When contents that are followed came and went.
        threshold: Content was followed if its hash was below.
        oldest: Time from which on all is known of it, ns.
        last_ts: Time of its last event, ns.
        arrivals: Stays that began since the start, of all content; None if that is unknown.
        is_whole: Whether nothing was there before, and nothing is missing.
    """

    source: str
    tier: str
    stays: Stays
    threshold: int
    oldest: int
    last_ts: int
    arrivals: float | None
    is_whole: bool


class Contents:
    """Stays of contents in several caches, as far as all of them follow the content.

    Args:
        caches: What the sample of each shows.

    Attributes:
        caches: The same.
        rate: Share of the content that is followed.
        tiers: Names of the tiers, the fastest first; the last one can stand for several.
        content: Number of the content of each stay, int64 (n,).
        in_source: Number of content and source, int64 (n,).
        source: Number of the source, int64 (n,).
        tier: Place of the tier in ``tiers``, int64 (n,).
        cache: Place of the cache in ``caches``, int64 (n,).
        stays: When each began and ended, by cache, content and time.
        born: Rank of the time when it began among all times, int64 (n,).
        ended: Rank of the time when it ended, int64 (n,).
        fastest: Places of the caches that are the fastest tier of their source.
        is_whole: Whether all that the cache ever held is known, bool (n,).
        is_fastest: Whether it is in the fastest tier of its source, bool (n,).
        since: Time since which what happens is judged, as enough is known of the time before, ns.
        memory_ns: How much that is, ns; ``NOT_ENDED`` if it is all since the start.
        different: Different contents.
    """

    def __init__(self, caches: Sequence[CacheContents]) -> None:
        self.caches = caches
        threshold = min((cache.threshold for cache in caches), default=WHOLE)
        self.rate = threshold / WHOLE
        by_speed = sorted({cache.tier for cache in caches}, key=_slowness)
        self.tiers = by_speed if len(by_speed) <= MOST_TIERS else [*by_speed[: MOST_TIERS - 1], OTHER_TIER]
        rank_of = {tier: min(rank, MOST_TIERS - 1) for rank, tier in enumerate(by_speed)}
        number_of = {
            source: number for number, source in enumerate(dict.fromkeys(cache.source for cache in caches))
        }
        self.stays, lengths = _joined([_below(cache, threshold) for cache in caches])

        def each(values: Sequence[int]) -> I64:
            return np.repeat(np.array(values, dtype=np.int64), lengths)

        ranks = [rank_of[cache.tier] for cache in caches]
        fastest: dict[str, int] = {}
        for rank, cache in zip(ranks, caches, strict=True):
            fastest[cache.source] = min(rank, fastest.get(cache.source, rank))
        self.cache = each(range(len(caches)))
        self.source = each([number_of[cache.source] for cache in caches])
        self.tier = each(ranks)
        keys, numbers = np.unique(self.stays.content, return_inverse=True)
        self.content: I64 = numbers.reshape(-1)
        self.different = len(keys)
        self.in_source = self.source * self.different + self.content
        self.is_whole = each([cache.is_whole for cache in caches]) != 0
        is_fastest = [rank == fastest[cache.source] for rank, cache in zip(ranks, caches, strict=True)]
        self.fastest = [place for place, is_one in enumerate(is_fastest) if is_one]
        self.is_fastest: Flags = each(is_fastest) != 0
        oldest = max((cache.oldest for cache in caches), default=ALWAYS)
        self.memory_ns, self.since = NOT_ENDED, ALWAYS
        if oldest != ALWAYS:
            last_ts = max(cache.last_ts for cache in caches)
            self.memory_ns = max(0, min(REMEMBERED_NS, (last_ts - oldest) // 2))
            self.since = last_ts - self.memory_ns
        times, order = np.unique(np.concatenate([self.stays.born, self.stays.ended]), return_inverse=True)
        self.born, self.ended = order.reshape(2, -1)
        self._times = len(times)

    @cached_property
    def is_judged_miss(self) -> Flags:
        """Return whether each stay began with a miss of the fastest tier of its source, which is judged."""
        is_judged: Flags = self.is_fastest & (self.stays.born > self.since)
        return is_judged

    def count(self, times: I64, which: Flags, group: I64, at: I64, *, inclusive: bool = False) -> I64:
        """Return, for each stay, how many others of its group have a time before a time of its own.

        Args:
            times: Rank of the time that counts, ``born`` or ``ended``, int64 (n,).
            which: Stays that are counted, bool (n,).
            group: Group of each stay, int64 (n,).
            at: Rank of the time before which they are counted, int64 (n,).
            inclusive: Whether the same time counts.
        """
        first = group * self._times
        marks = np.sort(first[which] + times[which])
        return marks.searchsorted(first + at, "right" if inclusive else "left") - marks.searchsorted(first)

    def held(self, which: Flags, group: I64) -> I64:
        """Return, for each stay, how many of some others of its group went on when it began, int64 (n,).

        They began before it, and had not ended before it.
        """
        begun = self.count(self.born, which, group, self.born)
        return begun - self.count(self.ended, which, group, self.born)

    @cached_property
    def found_in(self) -> I64:
        """Return, for each stay, the fastest other tier that held the content when it began, -1 if none."""
        found = np.full(len(self.content), -1, dtype=np.int64)
        for rank in reversed(range(len(self.tiers))):
            found[(self.held(self.tier == rank, self.in_source) > 0) & (self.tier != rank)] = rank
        return found


def _slowness(tier: str) -> tuple[int, str]:
    return TIERS.index(tier) if tier in TIERS else len(TIERS), tier


def _below(cache: CacheContents, threshold: int) -> Stays:
    stays = cache.stays
    if cache.threshold == threshold:
        return stays
    which = are_below(stays.content, threshold)
    return Stays(stays.content[which], stays.born[which], stays.ended[which], stays.cleared[which])


def _joined(parts: Sequence[Stays]) -> tuple[Stays, list[int]]:
    """Return stays one after another, and how many each part has."""
    nothing = np.empty(0, dtype=np.int64)
    return Stays(
        np.concatenate([nothing, *(part.content for part in parts)]),
        np.concatenate([nothing, *(part.born for part in parts)]),
        np.concatenate([nothing, *(part.ended for part in parts)]),
        np.concatenate([nothing.astype(np.bool_), *(part.cleared for part in parts)]),
    ), [len(part.content) for part in parts]
