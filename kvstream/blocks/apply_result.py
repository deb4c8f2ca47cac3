"""What applying a frame lets one see: counts, intervals and the evictions themselves."""

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import field

from kvstream.events.counters import CacheCounts
from kvstream.events.frame import I64, U8, U16, Column
from kvstream.events.types import REASONS


class KVCacheEvictionEvent(msgspec.Struct, frozen=True, tag="eviction"):
    """A generation of a block that ended.

    Attributes:
        block_id: Block number, or content hash as a signed 64-bit integer.
        lifetime_seconds: From allocation to eviction; None where the allocation was not seen.
        idle_seconds: From the last access (the allocation, if there was none) to eviction; None where
            neither was seen.
        access_count: Accesses during the generation, as far as they were seen.
        reuse_gaps_seconds: Seconds between its last accesses, at most three by default.
        timestamp: Time of the eviction, seconds since the Unix epoch.
        reason: Why it ended.
        source: Cache instance.
        tier: Tier.
    """

    block_id: int
    lifetime_seconds: float | None
    idle_seconds: float | None
    access_count: int
    reuse_gaps_seconds: list[float]
    timestamp: float
    reason: str
    source: str
    tier: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values."""
        return msgspec.structs.asdict(self)


class EvictionBatch(msgspec.Struct, frozen=True, eq=False):
    """Evictions in columns of equal length m.

    Attributes:
        blocks: Block ids, int64 (m,).
        ts: Times of eviction, ns, int64 (m,).
        lifetimes: Lifetimes, ns, int64 (m,); -1 where the birth is unknown.
        idles: Idle times, ns, int64 (m,); -1 where the birth is unknown, and no access was seen.
        access_counts: Accesses, int64 (m,).
        reasons: Reason codes, uint8 (m,).
        history: Last access times, ns, oldest first and right-aligned, int64 (m, access_history).
    """

    blocks: I64
    ts: I64
    lifetimes: I64
    idles: I64
    access_counts: I64
    reasons: U8
    history: I64

    def __len__(self) -> int:
        return len(self.blocks)

    def take(self, which: I64) -> "EvictionBatch":
        """Return the evictions at some places, in their order."""
        return EvictionBatch(
            self.blocks[which],
            self.ts[which],
            self.lifetimes[which],
            self.idles[which],
            self.access_counts[which],
            self.reasons[which],
            self.history[which],
        )

    def gaps_seconds(self) -> list[list[float]]:
        """Return seconds between the last accesses of each generation; steps back in time count as 0."""
        depth = self.history.shape[1]
        gaps = np.maximum(np.diff(self.history, axis=1), 0) / 1e9
        known = np.minimum(self.access_counts, depth).tolist()
        return [row[depth - max(n, 1) :] for row, n in zip(gaps.tolist(), known, strict=True)]

    def to_events(self, source: str, tier: str) -> list[KVCacheEvictionEvent]:
        """Return the evictions one by one."""
        return [
            KVCacheEvictionEvent(block, lifetime, idle, count, gaps, ts, REASONS[reason], source, tier)
            for block, lifetime, idle, count, gaps, ts, reason in zip(
                self.blocks.tolist(),
                known_seconds(self.lifetimes),
                known_seconds(self.idles),
                self.access_counts.tolist(),
                self.gaps_seconds(),
                (self.ts / 1e9).tolist(),
                self.reasons.tolist(),
                strict=True,
            )
        ]


def known_seconds(times: I64) -> list[float | None]:
    """Return times in seconds, None for negative ones."""
    known: list[float | None] = (times / 1e9).tolist()
    for place in np.flatnonzero(times < 0).tolist():
        known[place] = None
    return known


class LabelledIntervals(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Numbers of the label sets (``LabelSets``) that the blocks of some intervals have, in their order.

    Attributes:
        lifetimes: Label set of each lifetime, uint16 (m,).
        idles: Of each idle time.
        first_reuses: Of each first reuse.
        reuse_gaps: Of each reuse gap.
    """

    lifetimes: U16
    idles: U16
    first_reuses: U16
    reuse_gaps: U16


class ContentChanges(msgspec.Struct, frozen=True, eq=False):
    """Content that came into a cache or was evicted from it, in order, in columns of equal length k.

    Attributes:
        content: 64-bit hash of the content, int64 (k,).
        ts: Times, ns, int64 (k,).
        begins: Whether it came in, bool (k,).
        label_sets: Label set (``LabelSets``) of the block that each is in, uint16 (k,); None without labels.
    """

    content: I64
    ts: I64
    begins: npt.NDArray[np.bool_]
    label_sets: U16 | None = None


def joined_changes(parts: list[ContentChanges]) -> ContentChanges:
    """Return changes one after another, at least one of them, as one."""
    if len(parts) == 1:
        return parts[0]
    return ContentChanges(
        np.concatenate([part.content for part in parts]),
        np.concatenate([part.ts for part in parts]),
        np.concatenate([part.begins for part in parts]),
        None
        if all(part.label_sets is None for part in parts)
        else np.concatenate(list(map(_label_sets_of, parts))),
    )


def _label_sets_of(changes: ContentChanges) -> U16:
    return np.zeros(len(changes.content), np.uint16) if changes.label_sets is None else changes.label_sets


class Observations(msgspec.Struct, eq=False, kw_only=True):
    """What one ``BlockTable.apply`` saw: counts, and columns in lists: int64, intervals in ns.

    Attributes:
        counts: What the events were counted in, which may hold the counts of events before them.
        allocations: Allocations among these events, as all numbers here.
        accesses: Hits on live blocks.
        unknown_births: Blocks of unknown birth.
        clears: Clears of the whole cache.
        reuse_gaps: Access to access, as all intervals unless they were counted at once.
        first_reuses: Allocation to first access.
        lifetimes: Allocation to eviction; not of unknown births.
        idles: Last access to eviction.
        evicted: Records of the evictions, if asked for.
        changes: Content that came and went, where it is known and if asked for; the time, ns, where a clear
            ended all.
        used: What was allocated or accessed, each at least once unless reported before: content, or
            generations of slots.
        labelled: Label sets of the intervals, once there are labels.
        lookups: Allocations and accesses of known content, if asked for.
        looked_up: Of these, the content that the miss-ratio curve follows, in order.
    """

    counts: CacheCounts = field(default_factory=CacheCounts)
    allocations: int = 0
    accesses: int = 0
    unknown_births: int = 0
    clears: int = 0
    reuse_gaps: list[I64] = field(default_factory=list)
    first_reuses: list[I64] = field(default_factory=list)
    lifetimes: list[I64] = field(default_factory=list)
    idles: list[I64] = field(default_factory=list)
    evicted: list[EvictionBatch] = field(default_factory=list)
    changes: list[ContentChanges | int] = field(default_factory=list)
    used: list[I64] = field(default_factory=list)
    labelled: list[LabelledIntervals] = field(default_factory=list)
    lookups: int = 0
    looked_up: list[I64] = field(default_factory=list)


def joined(parts: list[Column]) -> Column:
    """Return columns one after another as one, not copied where there is only one; none are an int64 one."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
