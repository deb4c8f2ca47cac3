"""What recorders record, and what they give: columns that become a frame."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kvstream.events.frame import I64, U16, EventFrame, label_number
from kvstream.events.types import Labels

Note = tuple[int | list[int], int, I64 | None, Labels | None]
"""Of allocations that have keys or labels: their first row, or all of their rows; how many they are; their
content keys, 0 where there is none; their label sets."""

Recorded = tuple[bytes, bytes, bytes, bytes, Sequence[Note], int]
"""Columns in native byte order: operation codes (uint8), blocks and times (int64), reason codes (uint8, or
nothing if none was given); notes of keys and labels; and how many recorded things were no blocks."""


class HasBlockId(Protocol):
    """Anything with a block number, such as vLLM's ``KVCacheBlock``."""

    block_id: int


Block = int | HasBlockId
Blocks = Sequence[Block] | npt.NDArray[Any]


KeysOf = Callable[[list[Any]], Sequence[int | None] | npt.NDArray[Any]]
"""Returns the content key of each of some blocks, 0 or None where it has none."""


def recorded_frame(recorded: Recorded, source: str, tier: str) -> EventFrame:
    """Return the events that a recorder gave as a frame."""
    ops, blocks, ts, reasons, notes, _ = recorded
    keys, labels, label_of = columns_of(notes, len(ops))
    return EventFrame(
        np.frombuffer(ops, dtype=np.uint8),
        np.frombuffer(blocks, dtype=np.int64),
        np.frombuffer(ts, dtype=np.int64),
        source,
        tier,
        keys,
        np.frombuffer(reasons, dtype=np.uint8) if len(reasons) else None,
        labels=labels,
        label_of=label_of,
    )


def columns_of(notes: Sequence[Note], n: int) -> tuple[I64 | None, tuple[Labels, ...], U16 | None]:
    """Return the columns ``keys``, ``labels`` and ``label_of`` of a frame of n events."""
    keys = label_of = None
    known: dict[Labels, int] = {}
    for first, count, column, labels in notes:
        rows = slice(first, first + count) if isinstance(first, int) else first
        if column is not None:
            if keys is None:
                keys = np.zeros(n, dtype=np.int64)
            keys[rows] |= column  # a row's key is given once, here or where the step ended
        if labels is not None:
            if label_of is None:
                label_of = np.zeros(n, dtype=np.uint16)
            label_of[rows] = label_number(known, labels)
    return keys, tuple(known), label_of
