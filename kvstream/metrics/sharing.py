"""SharedContent: content that several engines hold, and what they would gain by sharing it."""

import msgspec
import numpy as np

from kvstream.metrics.contents import Contents
from kvstream.metrics.stays import NOT_ENDED

MOST_HOLDERS = 8
"""Engines that hold a content, from which on they are counted together."""


class SharedContent(msgspec.Struct, frozen=True, kw_only=True):
    """Content that several engines hold, by the hashes that they publish, and the gain of sharing it.

    Engines hash alike where they run the same version with the same block size and, for vLLM, the same
    ``PYTHONHASHSEED``. As long as nothing was seen in two of them, nothing is known of what they would gain.

    Attributes:
        engines: Sources with known content.
        rate: Share of the content that is followed, chosen by hash.
        followed: Blocks live now that ``held_by`` rests on, each content once for each source.
        held_by: Share of them with content that 1, 2, … sources hold; the eighth is of 8 and more.
        duplicates: Share of them that another source holds as well, but for one of each content.
        misses: Misses that the next two rest on.
        held_elsewhere: Share of the misses in fastest tiers with content that no tier of their source held at
            that moment, but another source did: an upper bound of what prefix-aware routing makes hits.
        stored_before: Share with content that no tier of their source held, but any source had stored before
            and no clear had taken: a shared tier that keeps everything for so long would have held it.
        routing_gain: What that would add to the hit ratio; None where hits are unknown.
        shared_tier_gain: Likewise of a shared tier.
    """

    engines: int
    rate: float
    followed: int
    held_by: list[float]
    duplicates: float | None
    misses: int
    held_elsewhere: float | None
    stored_before: float | None
    routing_gain: float | None
    shared_tier_gain: float | None


def shared_content(contents: Contents, hit_ratio: float | None) -> SharedContent | None:
    """Return what the sources share; None where fewer than two have known content.

    Args:
        contents: Stays in the caches of all sources.
        hit_ratio: Hit ratio of the fastest tiers of all of them; None if it is unknown.
    """
    engines = len(np.unique(contents.source))
    if engines < 2:
        return None
    stays = contents.stays
    pairs = np.unique(contents.in_source)
    is_shared = bool((np.bincount(pairs % contents.different) > 1).any())
    live = np.unique(contents.in_source[stays.ended == NOT_ENDED]) % contents.different
    holders = np.bincount(live)
    blocks = np.bincount(np.minimum(holders, MOST_HOLDERS), holders, MOST_HOLDERS + 1)[1:]
    miss = contents.is_judged_miss & (contents.found_in < 0)
    judged = int(contents.is_judged_miss.sum())
    everywhere = contents.tier >= 0
    elsewhere = contents.held(everywhere, contents.content) > contents.held(everywhere, contents.in_source)
    before = elsewhere | (contents.count(contents.born, ~stays.cleared, contents.content, contents.born) > 0)
    held_elsewhere = stored_before = None
    if is_shared and judged:
        held_elsewhere = int((miss & elsewhere).sum()) / judged
        stored_before = int((miss & before).sum()) / judged
    return SharedContent(
        engines=engines,
        rate=contents.rate,
        followed=len(live),
        held_by=np.trim_zeros(blocks / len(live), "b").tolist() if len(live) else [],
        duplicates=1.0 - int((holders > 0).sum()) / len(live) if len(live) else None,
        misses=judged,
        held_elsewhere=held_elsewhere,
        stored_before=stored_before,
        routing_gain=_gain(held_elsewhere, hit_ratio),
        shared_tier_gain=_gain(stored_before, hit_ratio),
    )


def _gain(share: float | None, hit_ratio: float | None) -> float | None:
    return None if share is None or hit_ratio is None else share * (1.0 - hit_ratio)
