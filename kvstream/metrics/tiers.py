"""TierUse: the tiers of a source as one cache, and the way of contents through them."""

from collections.abc import Mapping

import msgspec

from kvstream.metrics.contents import Contents
from kvstream.metrics.stays import NOT_ENDED, Flags


class TierUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one tier does for its source, and how contents move through it.

    It covers the same time and contents as ``MissCauses``. Figures that are unknown, or rest on nothing, are
    None.

    Attributes:
        tier: Tier.
        hit_share: Share of all lookups that were found here first.
        found: Share of the misses of the fastest tier that were found here first.
        copied: Share of the arrivals of content that a faster tier held, and went on to hold.
        demoted: Share of the arrivals of content that a faster tier had evicted.
        promoted: Share of its evictions before which the content had come into a faster tier.
        dropped: Share of its evictions after which no tier held the content.
        dropped_unused: Share of its evictions after which no tier held it, and before which it had not
            come into a faster tier.
    """

    tier: str
    hit_share: float | None
    found: float | None
    copied: float | None
    demoted: float | None
    promoted: float | None
    dropped: float | None
    dropped_unused: float | None


def tier_uses(contents: Contents, hits: Mapping[str, int], lookups: int) -> list[TierUse]:
    """Return what each tier does, the fastest first; nothing where there is only one.

    Args:
        contents: Stays in caches, all tiers of each source among them.
        hits: Hits in the fastest tiers of the sources, by tier.
        lookups: Lookups there; 0 where hits are unknown.
    """
    if len(contents.tiers) < 2:
        return []
    stays, in_source = contents.stays, contents.in_source
    miss = contents.is_judged_miss
    misses = int(miss.sum())
    missed = 1.0 - sum(hits.values()) / lookups if lookups else None
    found_in = contents.found_in
    has_ended = (stays.ended != NOT_ENDED) & ~stays.cleared & (stays.ended >= contents.since)
    everywhere = contents.tier >= 0
    # What comes in just as it is evicted elsewhere has moved on.
    left = contents.count(contents.born, everywhere, in_source, contents.ended, inclusive=True)
    left -= contents.count(contents.ended, everywhere, in_source, contents.ended, inclusive=True)
    uses = []
    for rank, tier in enumerate(contents.tiers):
        here, faster = contents.tier == rank, contents.tier < rank
        found = int((miss & (found_in == rank)).sum()) / misses if misses else None
        slower = here & ~contents.is_fastest
        arrived = slower & (stays.born > contents.since)
        going_on = contents.count(contents.born, faster, in_source, contents.born, inclusive=True)
        before = going_on > 0
        going_on -= contents.count(contents.ended, faster, in_source, contents.born, inclusive=True)
        gone = has_ended & here
        into_faster = contents.count(contents.born, faster, in_source, contents.ended, inclusive=True)
        into_faster -= contents.count(contents.born, faster, in_source, contents.born, inclusive=True)
        hit_share = None
        if missed is not None and found is not None:
            hit_share = hits.get(tier, 0) / lookups + missed * found
        uses.append(
            TierUse(
                tier=tier,
                hit_share=hit_share,
                found=found if slower.any() else None,
                copied=_share(going_on > 0, arrived),
                demoted=_share(before & (going_on <= 0), arrived),
                promoted=_share(into_faster > 0, gone & ~contents.is_fastest),
                dropped=_share(left <= 0, gone),
                dropped_unused=_share((left <= 0) & (into_faster == 0), gone & ~contents.is_fastest),
            )
        )
    return uses


def _share(which: Flags, among: Flags) -> float | None:
    count = int(among.sum())
    return int((which & among).sum()) / count if count else None
