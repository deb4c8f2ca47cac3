"""EventFrame: many events of one source and tier in columns, the form everything inside works on."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.errors import MalformedInputError
from kvstream.events.types import (
    DEFAULT_SOURCE,
    DEFAULT_TIER,
    REASON_CODE,
    REASONS,
    UNKNOWN_REASON,
    BlockAccessed,
    BlockAllocated,
    BlockEvicted,
    CacheCleared,
    Event,
    Op,
)

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

MAX_FRAME_EVENTS = 1_048_576
UNNUMBERED = -1
"""``seq`` of a frame that never left the process, or came from a log without numbers."""


class EventFrame(msgspec.Struct, frozen=True, eq=False):
    """Events of one source and tier, in order, in columns of equal length n.

    Attributes:
        ops: Operation codes (``Op``), uint8 of shape (n,).
        blocks: Block ids, int64 of shape (n,); unsigned hashes are the same 64 bits. 0 for a clear.
        ts: Nanoseconds since the Unix epoch, int64 of shape (n,).
        source: Cache instance that the events belong to.
        tier: Tier that the events belong to.
        keys: Content hashes of allocations, int64 of shape (n,), 0 where there is none; or None.
        reasons: Reason codes of evictions, uint8 of shape (n,); None means all ``capacity``.
        epoch: Start of the producer, which tells a restart from a repeat.
        seq: Number of the frame within its source and epoch, from 0; -1 if it has none.
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

    def __len__(self) -> int:
        return len(self.ops)

    def take(self, which: slice | npt.NDArray[np.bool_]) -> "EventFrame":
        """The same frame with only the events of a slice (views) or of a boolean mask (copies)."""
        return msgspec.structs.replace(
            self,
            ops=self.ops[which],
            blocks=self.blocks[which],
            ts=self.ts[which],
            keys=None if self.keys is None else self.keys[which],
            reasons=None if self.reasons is None else self.reasons[which],
        )

    def cut(self, most: int) -> list["EventFrame"]:
        """The same events in frames of at most ``most``; none for an empty frame."""
        if 0 < len(self) <= most:
            return [self]
        return [self.take(slice(start, start + most)) for start in range(0, len(self), most)]

    def split(self, numbers: I64) -> Iterator[tuple[int, "EventFrame"]]:
        """Yields (number, part) for each run of events with the same number, in order.

        Args:
            numbers: A number for each event, int64 of shape (n,), n ≥ 1.
        """
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(self)]
        for start, end in pairwise(edges):
            yield int(numbers[start]), self.take(slice(start, end))

    def to_events(self) -> list[Event]:
        """The events one by one."""
        source, tier = self.source, self.tier
        events: list[Event] = []
        keys = None if self.keys is None else self.keys.tolist()
        reasons = None if self.reasons is None else self.reasons.tolist()
        for i, (op, block, ts) in enumerate(
            zip(self.ops.tolist(), self.blocks.tolist(), self.ts.tolist(), strict=True)
        ):
            if op == Op.ALLOC:
                events.append(BlockAllocated(block, ts, source, tier, (keys[i] or None) if keys else None))
            elif op == Op.ACCESS:
                events.append(BlockAccessed(block, ts, source, tier))
            elif op == Op.EVICT:
                code = reasons[i] if reasons else 0
                reason = REASONS[code] if code < len(REASONS) else "unknown"
                events.append(BlockEvicted(block, ts, source, tier, reason))
            else:
                events.append(CacheCleared(ts, source, tier))
        return events


def joined_frames(frames: Sequence[EventFrame]) -> EventFrame:
    """Frames of one source and tier, at least one, as one without a number."""
    if len(frames) == 1:
        return frames[0]
    keys = reasons = None
    if any(frame.keys is not None for frame in frames):
        keys = np.concatenate([_column(frame.keys, len(frame), np.int64) for frame in frames])
    if any(frame.reasons is not None for frame in frames):
        reasons = np.concatenate([_column(frame.reasons, len(frame), np.uint8) for frame in frames])
    return EventFrame(
        np.concatenate([frame.ops for frame in frames]),
        np.concatenate([frame.blocks for frame in frames]),
        np.concatenate([frame.ts for frame in frames]),
        frames[0].source,
        frames[0].tier,
        keys,
        reasons,
    )


def _column(column: npt.NDArray[Any] | None, n: int, dtype: type) -> npt.NDArray[Any]:
    return np.zeros(n, dtype=dtype) if column is None else column


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


_OP_OF = {BlockAllocated: 0, BlockAccessed: 1, BlockEvicted: 2, CacheCleared: 3}


def frames_from_events(events: Sequence[Event]) -> list[EventFrame]:
    """Frames of a list of events, one for each source and tier, order within each kept.

    Raises:
        MalformedInputError: If a block id or key does not fit into 64 bits.
    """
    if not events:
        return []
    places = {(event.source, event.tier) for event in events}
    if len(places) == 1:
        return [_frame_of(events, *places.pop())]
    groups: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        groups.setdefault((event.source, event.tier), []).append(event)
    return [_frame_of(group, source, tier) for (source, tier), group in groups.items()]


def _frame_of(events: Sequence[Event], source: str, tier: str) -> EventFrame:
    ops = np.array([_OP_OF[type(event)] for event in events], dtype=np.uint8)
    ts = np.array([event.ts for event in events], dtype=np.int64)
    blocks = as_int64([0 if type(event) is CacheCleared else event.block for event in events])  # type: ignore[union-attr]
    keys = reasons = None
    if any(type(event) is BlockAllocated and event.key is not None for event in events):
        keys = as_int64([(event.key or 0) if type(event) is BlockAllocated else 0 for event in events])
    if any(type(event) is BlockEvicted and event.reason != "capacity" for event in events):
        reasons = np.array(
            [
                REASON_CODE.get(event.reason, UNKNOWN_REASON) if type(event) is BlockEvicted else 0
                for event in events
            ],
            dtype=np.uint8,
        )
    return EventFrame(ops, blocks, ts, source, tier, keys, reasons)
