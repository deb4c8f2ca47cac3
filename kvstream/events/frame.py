"""EventFrame: many events of one source and tier in columns, the form everything inside works on."""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.errors import MalformedInputError
from kvstream.events.position import Position
from kvstream.events.types import (
    DEFAULT_SOURCE,
    DEFAULT_TIER,
    EVENT_TYPES,
    OP_OF,
    REASON_CODE,
    REASONS,
    UNKNOWN_REASON,
    BlockAllocated,
    BlockEvicted,
    BlockStored,
    CacheCleared,
    Event,
    Labels,
    Op,
)

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
Column = TypeVar("Column", I64, U8, U16)

MAX_FRAME_EVENTS = 1_048_576
MAX_BLOCK_TOKENS = 2**31 - 1
UNNUMBERED = -1
"""``seq`` of a frame that never left the process, or came from a log without numbers."""


class EventFrame(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Events of one source and tier, in order, in columns of equal length n.

    Attributes:
        ops: Operation codes (``Op``), uint8 of shape (n,).
        blocks: Block ids, int64 of shape (n,); unsigned hashes are the same 64 bits. 0 for a clear.
        ts: Nanoseconds since the Unix epoch, int64 of shape (n,).
        source: Cache instance that the events belong to.
        tier: Tier that the events belong to.
        keys: Content hashes of allocations, int64 of shape (n,), 0 where there is none; or None.
        reasons: Reason codes of evictions, uint8 of shape (n,); None means all ``capacity``.
        epoch: Identifies one run of the producer, so that a restart differs from a repeat.
        seq: Number of the frame within its source and epoch, from 0; -1 if it has none.
        labels: The label sets of its allocations and stores, each once.
        label_of: For each event, one plus the index of its label set in ``labels``, or 0 without labels;
            uint16 of shape (n,). None if no event has labels.
        position: Where it ends in its input, if that can be read again; not part of the encoded frame.
        block_tokens: Tokens in each block that it allocates, stores or finds; 0 if that is unknown.
    """

    ops: U8
    blocks: I64
    ts: I64
    source: str = DEFAULT_SOURCE
    tier: str = DEFAULT_TIER
    keys: I64 | None = None
    reasons: U8 | None = None
    epoch: int = 0
    seq: int = UNNUMBERED
    labels: tuple[Labels, ...] = ()
    label_of: U16 | None = None
    position: Position | None = None
    block_tokens: int = 0

    def __len__(self) -> int:
        return len(self.ops)

    def take(self, which: slice | npt.NDArray[np.bool_]) -> "EventFrame":
        """Return the same frame with only the events of a slice (views) or of a boolean mask (copies)."""
        return msgspec.structs.replace(
            self,
            ops=self.ops[which],
            blocks=self.blocks[which],
            ts=self.ts[which],
            keys=None if self.keys is None else self.keys[which],
            reasons=None if self.reasons is None else self.reasons[which],
            label_of=None if self.label_of is None else self.label_of[which],
        )

    def cut(self, limit: int) -> list["EventFrame"]:
        """Return the same events in frames of at most ``limit``; none for an empty frame."""
        if 0 < len(self) <= limit:
            return [self]
        return [self.take(slice(start, start + limit)) for start in range(0, len(self), limit)]

    def split(self, numbers: I64) -> Iterator[tuple[int, "EventFrame"]]:
        """Yield (number, part) for each run of events with the same number, in order.

        Args:
            numbers: A number for each event, int64 of shape (n,), n ≥ 1.
        """
        for start, end in pairwise(_edges(numbers)):
            yield int(numbers[start]), self.take(slice(start, end))

    def to_events(self) -> list[Event]:
        """Return the events one by one."""
        source, tier = self.source, self.tier
        events: list[Event] = []
        keys = None if self.keys is None else self.keys.tolist()
        label_of = [0] * len(self) if self.label_of is None else self.label_of.tolist()
        labels = (None, *self.labels)
        reasons = None if self.reasons is None else self.reasons.tolist()
        for i, (op, block, ts) in enumerate(
            zip(self.ops.tolist(), self.blocks.tolist(), self.ts.tolist(), strict=True)
        ):
            if op == Op.ALLOC:
                key = (keys[i] or None) if keys else None
                events.append(BlockAllocated(block, ts, source, tier, key, labels[label_of[i]]))
            elif op == Op.EVICT:
                code = reasons[i] if reasons else 0
                reason = REASONS[code] if code < len(REASONS) else "unknown"
                events.append(BlockEvicted(block, ts, source, tier, reason))
            elif op == Op.CLEAR:
                events.append(CacheCleared(ts, source, tier))
            elif op >= len(EVENT_TYPES):  # what is unknown is applied as a store
                events.append(BlockStored(block, ts, source, tier, labels[label_of[i]]))
            elif op in (Op.STORE, Op.PREFIX, Op.RESIDENT):
                events.append(EVENT_TYPES[op](block, ts, source, tier, labels[label_of[i]]))
            else:
                events.append(EVENT_TYPES[op](block, ts, source, tier))
        return events


def label_number(known: dict[Labels, int], labels: Labels | None) -> int:
    """Return the number that ``label_of`` has for some labels, added to those known if they are new.

    There are 65,535 of them; what a frame has beyond that counts as the last.
    """
    if labels is None:
        return 0
    return known.get(labels) or known.setdefault(labels, min(len(known) + 1, 2**16 - 1))


def counted_labels(frame: EventFrame) -> Iterable[int]:
    """Return the places, from 1, of the labels that a frame brings, ascending.

    Where there are more labels than events, those that no event has are passed over, so that a few events
    cost little. The first is not: labels are known from the first frame on that brings some.
    """
    if len(frame.labels) <= len(frame.ops) or frame.label_of is None:
        return range(1, len(frame.labels) + 1)
    return sorted({1, *frame.label_of.tolist()} - {0})


def plain_column(column: Column) -> Column:
    """Return a column as the core reads it: contiguous, and aligned, which what was decoded need not be."""
    flags = column.flags
    return column if flags.aligned and flags.c_contiguous else column.copy()


def as_int64(ids: Sequence[int] | npt.NDArray[Any]) -> I64:
    """64-bit ids, signed or unsigned, as int64 of the same bits.

    Raises:
        MalformedInputError: If an id is not an integer or has more than 64 bits.
    """
    if isinstance(ids, np.ndarray):
        if ids.dtype.kind not in "iu":
            raise MalformedInputError(f"ids must be integers, not {ids.dtype}")
        return ids.astype(np.uint64).view(np.int64) if ids.dtype == np.uint64 else ids.astype(np.int64)
    array = np.array(ids)
    if array.dtype.kind in "iu":
        return as_int64(array)
    # Integers beyond int64 make numpy choose floats or objects; nothing else may come this far.
    for i in ids:
        if not isinstance(i, (int, np.integer)):
            raise MalformedInputError(f"ids must be integers, not {i!r}")
        if not -(2**63) <= i < 2**64:
            raise MalformedInputError(f"id {i} does not fit into 64 bits")
    return np.array([int(i) & (2**64 - 1) for i in ids], dtype=np.uint64).view(np.int64)


def checked_keys(keys: Any, n: int) -> I64:
    """Return the content keys of n allocations, int64 of shape (n,), 0 for those that have none.

    Args:
        keys: One for each allocation, as ``as_int64`` takes them; None for one is 0.
        n: How many there must be.

    Raises:
        MalformedInputError: If a key is no 64-bit integer, or their number is another.
    """
    if not isinstance(keys, np.ndarray):
        keys = list(keys) if hasattr(keys, "__iter__") and not isinstance(keys, (str, bytes)) else [keys]
        if None in keys:
            keys = [0 if key is None else key for key in keys]
    column = (as_int64 if isinstance(keys, np.ndarray) else packed_int64)(keys).reshape(-1)
    if len(column) != n:
        raise MalformedInputError(f"{n:,} blocks need as many keys, not {len(column):,}")
    return column


@lru_cache(maxsize=128)
def int64_packer(n: int) -> Callable[..., bytes]:
    """Pack ``n`` arguments as native 64-bit integers; raise ``struct.error`` if one is no signed one.

    Packers are kept, as reading a format takes longer than packing 20 integers.
    """
    return struct.Struct(f"{n}q").pack


def packed_int64(ids: Sequence[int]) -> I64:
    """Return what ``as_int64`` does, in a third of the time where all ids are signed."""
    try:
        packed = int64_packer(len(ids))(*ids)
    except struct.error:
        return as_int64(ids)
    column: I64 = np.frombuffer(packed, dtype=np.int64)
    return column


_SIDE_BY_SIDE_NS = 5_000_000_000
_STEP_BACK_NS = 5_000_000_000


def frames_from_events(events: Sequence[Event]) -> list[EventFrame]:
    """Return frames of events in their order, of one source and tier each.

    Where there are several, they come side by side: a frame covers five seconds at most, so that none runs
    ahead of the others. A step back in time of as much begins a frame, so that it is found wherever else
    the events are cut.

    Raises:
        MalformedInputError: If a block id or key does not fit into 64 bits.
    """
    if not events:
        return []
    sources, tiers = {event.source for event in events}, {event.tier for event in events}
    if len(sources) == len(tiers) == 1:
        return _parted_at_steps_back(_frame_of(events, sources.pop(), tiers.pop()))
    reached = np.maximum.accumulate(packed_int64([event.ts for event in events]))
    frames = []
    for start, end in pairwise(_edges(reached // _SIDE_BY_SIDE_NS)):
        groups: dict[tuple[str, str], list[Event]] = {}
        for event in events[start:end]:
            groups.setdefault((event.source, event.tier), []).append(event)
        for (source, tier), group in groups.items():
            frames += _parted_at_steps_back(_frame_of(group, source, tier))
    return frames


def _parted_at_steps_back(frame: EventFrame) -> list[EventFrame]:
    late = frame.ts < np.maximum.accumulate(frame.ts) - _STEP_BACK_NS
    return [part for _, part in frame.split(late.astype(np.int64))] if late.any() else [frame]


def _edges(numbers: I64) -> list[int]:
    """Return places where runs of equal numbers begin, and the end."""
    return [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]


def _frame_of(events: Sequence[Any], source: str, tier: str) -> EventFrame:
    ops = bytes([OP_OF[type(event)] for event in events])
    if Op.CLEAR in ops:
        blocks = [0 if type(event) is CacheCleared else event.block for event in events]
    else:
        blocks = [event.block for event in events]
    column = np.frombuffer(ops, dtype=np.uint8)
    keys = reasons = None
    allocated = (column == Op.ALLOC).nonzero()[0]
    content_keys = [events[i].key for i in allocated.tolist()]
    if any(key is not None for key in content_keys):
        keys = np.zeros(len(events), dtype=np.int64)
        keys[allocated] = packed_int64([key or 0 for key in content_keys])
    evicted = (column == Op.EVICT).nonzero()[0]
    codes = [REASON_CODE.get(events[i].reason, UNKNOWN_REASON) for i in evicted.tolist()]
    if any(codes):
        reasons = np.zeros(len(events), dtype=np.uint8)
        reasons[evicted] = codes
    times = packed_int64([event.ts for event in events])
    known: dict[Labels, int] = {}
    label_of = None
    begun = np.isin(column, (Op.ALLOC, Op.STORE, Op.PREFIX, Op.RESIDENT)).nonzero()[0]
    label_sets = [events[i].labels for i in begun.tolist()]
    if any(label_set is not None for label_set in label_sets):
        label_of = np.zeros(len(events), dtype=np.uint16)
        label_of[begun] = [label_number(known, label_set) for label_set in label_sets]
    return EventFrame(
        column,
        packed_int64(blocks),
        times,
        source,
        tier,
        keys,
        reasons,
        labels=tuple(known),
        label_of=label_of,
    )
