"""Stays: from when to when contents were in a cache."""

from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.events.frame import I64
from kvstream.events.types import BIRTH_UNKNOWN

NOT_ENDED = 2**63 - 1
"""End of what is in the cache now, ns."""

Flags = npt.NDArray[np.bool_]


class ContentEvents(msgspec.Struct, frozen=True, eq=False):
    """Content of one cache that came in or was evicted, in order, in columns of equal length n.

    Attributes:
        content: Content keys, int64 (n,).
        ts: Times, ns, int64 (n,).
        begins: Whether it came in, bool (n,).
        era: Clears of the cache before it, int64 (n,).
        clears: Times of the clears, ns, int64 (eras,).
    """

    content: I64
    ts: I64
    begins: Flags
    era: I64
    clears: I64


class Stays(msgspec.Struct, frozen=True, eq=False):
    """Stays of contents in one cache, by content and then by time, in columns of equal length m.

    Attributes:
        content: Content keys, int64 (m,).
        born: When it came in, ns, or ``BIRTH_UNKNOWN`` if that was not seen, int64 (m,).
        ended: When it was evicted or cleared, ns, not before it came in, int64 (m,); ``NOT_ENDED`` if it is
            there now.
        cleared: Whether a clear ended it, bool (m,).
    """

    content: I64
    born: I64
    ended: I64
    cleared: Flags


class _Pairs(NamedTuple):
    """Events in order of content, and which of them are the two ends of a stay.

    Attributes:
        order: The events, by content, era and time.
        group: Content and era of each of them.
        starts: Whether the content was in no block of the cache before, and is now; or, if it is evicted, was
            there before anything was heard of it.
        stops: Whether it was evicted from the last one.
    """

    order: I64
    group: I64
    starts: Flags
    stops: Flags


def _pairs(events: ContentEvents) -> _Pairs:
    order = np.argsort(events.content, kind="stable")
    content, era = events.content[order], events.era[order]
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = content[1:] != content[:-1]
    is_first = is_new.copy()
    is_first[1:] |= era[1:] != era[:-1]
    group = np.cumsum(is_first) - 1
    begins = events.begins[order]
    # Several blocks can hold a content. Evictions of one that is in none begin no count below 0.
    total = np.cumsum(np.where(begins, 1, -1))
    first = is_first.nonzero()[0]
    before_first = np.where(first > 0, total[first - 1], 0)
    total -= before_first[group]
    apart = (
        2 * (len(order) + 1) * group
    )  # groups below each other, so that the lowest sum begins anew in each
    lowest = np.minimum.accumulate(total - apart) + apart
    blocks = total - np.minimum(lowest, 0)
    before = np.roll(blocks, 1)
    before[first] = 0
    return _Pairs(order, group, (begins & (before == 0)) | (~begins & is_new), ~begins & (before == 1))


def stays_of(events: ContentEvents) -> Stays:
    """Return from when to when each content was in the cache."""
    if not len(events.content):  # as of most caches with slots
        return Stays(events.content, events.ts, events.ts, events.begins)
    return _stays_of(events, _pairs(events))


def _stays_of(events: ContentEvents, pairs: _Pairs) -> Stays:
    start = pairs.starts.nonzero()[0]
    era = events.era[pairs.order[start]]
    # What no eviction ended, a clear has, or nothing yet.
    ended = np.append(events.clears, NOT_ENDED)[np.minimum(era, len(events.clears))]
    cleared = era < len(events.clears)
    edges = (pairs.starts | pairs.stops).nonzero()[0]  # by turns, as far as they are of one group
    following = np.append(edges, -1)[edges.searchsorted(start) + 1]
    evicted = (following >= 0) & (pairs.group[following] == pairs.group[start])
    ended[evicted] = events.ts[pairs.order[following[evicted]]]
    cleared[evicted] = False
    born = events.ts[pairs.order[start]]
    late = ~events.begins[pairs.order[start]]
    ended[late], cleared[late], born[late] = born[late], False, BIRTH_UNKNOWN
    return Stays(events.content[pairs.order[start]], born, np.maximum(born, ended), cleared)


def with_late(stays: Stays, live: I64) -> Stays:
    """Return stays, and those of contents of which nothing was heard but that they are in the cache.

    Args:
        stays: What is known of other contents.
        live: Contents that were in the cache before its first event, int64 (n,).
    """
    late = np.setdiff1d(live, stays.content)
    content = np.concatenate([late, stays.content])
    order = np.argsort(content, kind="stable")
    return Stays(
        content[order],
        np.concatenate([np.full(len(late), BIRTH_UNKNOWN), stays.born])[order],
        np.concatenate([np.full(len(late), NOT_ENDED), stays.ended])[order],
        np.concatenate([np.zeros(len(late), dtype=np.bool_), stays.cleared])[order],
    )


def ends(events: ContentEvents) -> I64:
    """Return of each event when the stay that it is part of ended, ns, int64 (n,)."""
    pairs = _pairs(events)
    start = pairs.starts.nonzero()[0]
    at = np.arange(len(pairs.order))
    latest = start.searchsorted(at, "right") - 1  # stay that begins last before each event, or with it
    is_part = latest >= 0
    is_part[is_part] = pairs.group[start[latest[is_part]]] == pairs.group[is_part]
    ended = np.empty(len(at), dtype=np.int64)
    ended[pairs.order] = events.ts[pairs.order]
    ended[pairs.order[is_part]] = _stays_of(events, pairs).ended[latest[is_part]]
    return ended
