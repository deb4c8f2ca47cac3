"""The block map: live blocks by age and by accesses, which shows at a glance what a cache is full of."""

import msgspec
import numpy as np

from kvstream.events.frame import I64

_YOUNGEST, _OLDEST = -10, 17  # powers of two of seconds: a millisecond, a day and a half
_MOST_USED = 17  # columns: 0, 1, 2, 4, … 65,536 accesses and more
MOST_MAPPED = 1 << 18
"""Slots that are looked at; of more, some."""


class BlockMap(msgspec.Struct, frozen=True, kw_only=True):
    """Live blocks by the time that they have been held and by how often they were accessed.

    Attributes:
        held_seconds: Least time of each row, doubling; empty rows at either end are left out.
        accesses: Least accesses of each column: 0, 1, 2, 4, …; empty columns at the end are left out.
        blocks: Blocks, by row and column; of a table of more than 262,144 slots an estimate.
    """

    held_seconds: list[float]
    accesses: list[int]
    blocks: list[list[int]]


def block_map(held_ns: I64, accesses: I64, every: int = 1) -> BlockMap:
    """Return the map of some slots.

    Args:
        held_ns: Time since the allocation, ns, int64 (n,).
        accesses: Accesses since, int64 (n,); negative where a slot holds no block.
        every: Slots that each of them stands for.
    """
    live = accesses >= 0
    held_ns, accesses = np.maximum(held_ns.compress(live), 1), accesses.compress(live)
    rows = np.clip(np.floor(np.log2(held_ns / 1e9)).astype(np.int64), _YOUNGEST, _OLDEST) - _YOUNGEST
    columns = np.minimum(np.frexp(accesses)[1], _MOST_USED)
    width = _MOST_USED + 1
    height = _OLDEST - _YOUNGEST + 1
    counts = np.bincount(rows * width + columns, minlength=height * width).reshape(height, width) * every
    used_rows, used_columns = (np.flatnonzero(counts.sum(axis=axis)) for axis in (1, 0))
    if not len(used_rows):
        return BlockMap(held_seconds=[], accesses=[], blocks=[])
    first, last, end = int(used_rows[0]), int(used_rows[-1]) + 1, int(used_columns[-1]) + 1
    return BlockMap(
        held_seconds=[2.0 ** (row + _YOUNGEST) for row in range(first, last)],
        accesses=[0, *(1 << column for column in range(end - 1))],
        blocks=counts[first:last, :end].tolist(),
    )
