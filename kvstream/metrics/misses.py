"""MissCauses: why what was looked up was not in the cache.

Source: the adjustment "SHARDS-adj" of C. Waldspurger, N. Park, A. Garthwaite, I. Ahmad, "Efficient MRC
Construction with SHARDS", FAST 2015.
"""

import msgspec
import numpy as np

from kvstream.metrics.contents import Contents
from kvstream.metrics.stays import NOT_ENDED, Flags


class MissCauses(msgspec.Struct, frozen=True, kw_only=True):
    """Why lookups of known content were misses in the fastest tier of their source.

    Shares add up to 1. They cover all misses since the start until something had to be forgotten, and from
    then on at most the last hour. They are estimated from contents chosen by hash.

    Attributes:
        followed: Misses that the shares are estimated from.
        rate: Share of the content that is followed, chosen by hash.
        never_stored: Share of content stored for the first time since the start.
        evicted: Share of content that had been evicted, and that no other tier held.
        cleared: Share of content that a clear or restart had removed, likewise.
        other_tier: Share of content that a slower tier of the source held, by tier.
        other_salt: Share of content that was stored under another cache salt, since the start; None where no
            salts are seen. Where hashes include the salt, as in vLLM, such content counts as another one.
        unknown: Share of content that is not remembered: never stored, or evicted long ago.
        memory_seconds: How far back evictions are remembered; None: since the start.
        evicted_ago_p50: Median seconds from eviction to return of evicted content; None without any.
        evicted_ago_p90: The 90th percentile of the same.
        pressure: Blocks evicted a second, over the time between eviction and return; None without any.
    """

    followed: int
    rate: float
    never_stored: float
    evicted: float
    cleared: float
    other_tier: dict[str, float]
    other_salt: float | None
    unknown: float
    memory_seconds: float | None
    evicted_ago_p50: float | None
    evicted_ago_p90: float | None
    pressure: float | None


def miss_causes(contents: Contents, asked: Flags, other_salt: float | None) -> MissCauses | None:
    """Return why contents were missed in the fastest tiers; None where no miss of known content is seen.

    Each content is stored for the first time once, so that a sample says well how many are; how often they
    come back differs much, and a few that do so all the time are in the sample or not. So where all misses
    are counted, those for the first time are compared with that count.

    Args:
        contents: Stays in caches, all tiers of each source among them.
        asked: Whether this is about each of the caches, bool (caches,).
        other_salt: Share of the misses of content that was there under another salt, which begin no stay.
    """
    stays = contents.stays
    miss = asked[contents.cache] & contents.is_judged_miss
    misses = int(miss.sum())
    if not misses:
        return None
    found_in = contents.found_in
    other = miss & (found_in >= 0)
    again = np.zeros(len(miss), dtype=np.bool_)  # stays of content that was in the cache before
    again[1:] = (contents.cache[1:] == contents.cache[:-1]) & (contents.content[1:] == contents.content[:-1])
    before = np.arange(len(miss)) - again  # the stay before
    ago = np.maximum(stays.born - stays.ended[before], 0)
    remembered = miss & ~other & again & (contents.is_whole | (ago <= contents.memory_ns))
    cleared = remembered & stays.cleared[before]
    evicted = remembered & ~cleared
    never = miss & ~other & ~again & contents.is_whole
    unknown = miss & ~other & ~remembered & ~never
    ended = ~stays.cleared & (stays.ended != NOT_ENDED)
    ends = contents.count(contents.ended, ended, contents.cache, contents.born)
    ends -= contents.count(contents.ended, ended, contents.cache, contents.ended[before], inclusive=True)
    ago_seconds = ago[evicted] / 1e9
    away_seconds = int(ago[evicted].sum()) / 1e9
    first = int(never.sum())
    first_share = first / misses
    total = _all_misses(contents, asked)
    if first < misses and total:
        first_share = min(1.0, first / contents.rate / total)
    of_salt = 1.0 - (other_salt or 0.0)
    share = of_salt * (1.0 - first_share) / max(1, misses - first)
    by_tier = np.bincount(found_in[other], minlength=len(contents.tiers)).tolist()
    return MissCauses(
        followed=misses,
        rate=contents.rate,
        never_stored=of_salt * first_share,
        evicted=int(evicted.sum()) * share,
        cleared=int(cleared.sum()) * share,
        other_tier={
            tier: count * share for tier, count in zip(contents.tiers, by_tier, strict=True) if count
        },
        other_salt=other_salt,
        unknown=int(unknown.sum()) * share,
        memory_seconds=None if contents.memory_ns == NOT_ENDED else contents.memory_ns / 1e9,
        evicted_ago_p50=float(np.quantile(ago_seconds, 0.5)) if len(ago_seconds) else None,
        evicted_ago_p90=float(np.quantile(ago_seconds, 0.9)) if len(ago_seconds) else None,
        pressure=float(np.maximum(ends[evicted], 0).sum()) / contents.rate / away_seconds
        if away_seconds
        else None,
    )


def _all_misses(contents: Contents, asked: Flags) -> float | None:
    """Return the misses of all content in the fastest tiers since the start; None if not counted."""
    if contents.rate == 1.0 or contents.memory_ns != NOT_ENDED:
        return None  # as all are in the stays, or not all are judged
    counted = [contents.caches[place].arrivals for place in contents.fastest if asked[place]]
    return None if None in counted else sum(filter(None, counted))
