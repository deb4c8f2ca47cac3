"""The compiled twin of how intervals are counted by bucket: one at a time."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvstream.compiled import compiled
from kvstream.events.frame import I64, U16


@compiled
def count_each(
    rows: U16,
    values_ns: I64,
    bounds: I64,
    cell_shift: int,
    first_cell: int,
    lowest: I64,
    first: int,
    counts: I64,
    shortest: I64,
    longest: I64,
    sums: npt.NDArray[Any],
) -> None:
    """Counts intervals.

    Args:
        rows: Row of each interval, uint16 (n,).
        values_ns: The intervals, ns, none negative.
        bounds: As ``Buckets`` has them, and the next three.
        cell_shift: Bits of a float that say nothing of its cell.
        first_cell: Number of the first cell.
        lowest: Lowest bucket of each cell.
        first: Bucket of the first column of ``counts``, which has one for each interval here.
        counts: Intervals by row and bucket; added to, as are the others.
        shortest: Shortest interval by row.
        longest: Longest interval by row.
        sums: Sum of intervals by row.
    """
    for i in range(len(rows)):
        row, value = rows[i], values_ns[i]
        sums[row] += value
        if value < shortest[row]:  # which is seldom, and costs less than to write each time
            shortest[row] = value
        if value > longest[row]:
            longest[row] = value
        counts[row, _bucket(value, bounds, cell_shift, first_cell, lowest) - first] += 1


@compiled
def count_together(
    values_ns: I64, bounds: I64, cell_shift: int, first_cell: int, lowest: I64, first: int, counts: I64
) -> None:
    """Counts intervals without rows, in ``counts`` by bucket; all else is as ``count_each`` has it."""
    for value in values_ns:
        counts[_bucket(value, bounds, cell_shift, first_cell, lowest) - first] += 1


@compiled
def _bucket(value: Any, bounds: I64, cell_shift: int, first_cell: int, lowest: I64) -> Any:
    cell: Any = max(0, (np.float64(value).view(np.int64) >> cell_shift) - first_cell)
    if cell >= len(lowest) - 1:
        return np.searchsorted(bounds, value)
    bucket = lowest[cell]
    return bucket + (value > bounds[bucket])
