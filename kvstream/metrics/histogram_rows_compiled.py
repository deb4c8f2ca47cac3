"""The compiled twin of how ``HistogramRows`` counts: one interval at a time."""

import numpy as np
import numpy.typing as npt

from kvstream.compiled import compiled
from kvstream.events.frame import I64


@compiled
def count_each(
    rows: I64,
    values_ns: I64,
    cells: I64,
    lowest_of_cell: I64,
    bounds: I64,
    first: int,
    counts: I64,
    zeros: I64,
    lowest: I64,
    highest: I64,
    sums: npt.NDArray[np.float64],
) -> None:
    """Counts intervals.

    Args:
        rows: Row of each interval, int64 (n,).
        values_ns: The intervals, ns, none negative.
        cells: The cell of each, as ``histogram_rows._cells_of`` has them; of 0 it does not matter.
        lowest_of_cell: The lowest bucket of each cell; a value beyond the cells is searched for.
        bounds: Upper bound of each bucket, ns.
        first: Bucket of the first column of ``counts``, which has one for each interval here.
        counts: Intervals by row and bucket; added to, as are the others.
        zeros: Intervals of 0 by row.
        lowest: Shortest interval by row.
        highest: Longest interval by row.
        sums: Sum of intervals by row.
    """
    for i in range(len(rows)):
        row, value = rows[i], values_ns[i]
        sums[row] += value
        lowest[row], highest[row] = min(lowest[row], value), max(highest[row], value)
        if not value:
            zeros[row] += 1
            continue
        if cells[i] < len(lowest_of_cell):
            bucket = lowest_of_cell[cells[i]]
            bucket += value > bounds[bucket]
        else:
            bucket = np.searchsorted(bounds, value)
        counts[row, bucket - first] += 1
