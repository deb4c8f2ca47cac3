"""Histograms for many at once: a row of buckets each, filled together."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kvstream.compiled import compiled_loop
from kvstream.events.frame import I64
from kvstream.metrics.histogram import ExponentialHistogram, upper_bounds

_MANTISSA_BITS = 52
_EXACT_FLOAT = 1 << 53


class HistogramRows:
    """One ``ExponentialHistogram`` a row; filling them costs the same however many there are.

    Args:
        scale: Scale of the histograms.

    Example:
        >>> rows = HistogramRows(4)
        >>> rows.record(np.array([0, 2, 2]), np.array([10, 20, 30]), 3)
        >>> [rows.histogram(row).count for row in range(3)]
        [1, 0, 2]
    """

    def __init__(self, scale: int) -> None:
        self._scale = scale
        self._lowest = 0  # bucket of the first column
        self._counts = np.zeros((0, 0), dtype=np.int64)
        self._zeros = np.zeros(0, dtype=np.int64)
        self._min = np.zeros(0, dtype=np.int64)
        self._max = np.zeros(0, dtype=np.int64)
        self._sums: list[int] = []
        self._count_compiled = compiled_loop("kvstream.metrics.histogram_rows_compiled", "count_each")

    def record(self, rows: I64, values_ns: I64, count: int) -> None:
        """Counts intervals.

        Args:
            rows: Row of each interval, int64 (n,).
            values_ns: The intervals, ns, none negative, int64 (n,).
            count: Rows that there are; never fewer than before.
        """
        self._grow(count)
        if not len(rows):
            return
        lowest, bounds = upper_bounds(self._scale)
        if self._count_compiled is not None:
            ends = bounds.searchsorted([max(1, int(values_ns.min())), max(1, int(values_ns.max()))])
            self._columns(lowest + int(ends[0]), int(ends[1] - ends[0]) + 1)
            sums = np.zeros(count)
            self._count_compiled(
                rows,
                values_ns,
                *_cells_of(values_ns, self._scale),
                bounds,
                self._lowest - lowest,
                self._counts,
                self._zeros,
                self._min,
                self._max,
                sums,
            )
            self._add_sums(sums)
            return
        self._add_sums(np.bincount(rows, values_ns, count))
        np.minimum.at(self._min, rows, values_ns)
        np.maximum.at(self._max, rows, values_ns)
        zero = values_ns == 0
        if zero.any():
            self._zeros += np.bincount(rows.compress(zero), minlength=count)
            rows, values_ns = rows.compress(~zero), values_ns.compress(~zero)
        if not len(rows):
            return
        buckets = _buckets(values_ns, self._scale, bounds)
        low, high = int(buckets.min()), int(buckets.max())
        width = high - low + 1
        counts = np.bincount(rows * width + (buckets - low), minlength=count * width)
        self._columns(lowest + low, width)[:] += counts.reshape(count, width)

    def _add_sums(self, sums: npt.NDArray[Any]) -> None:
        for row, total in enumerate(sums.tolist()):
            self._sums[row] += round(total)

    def histogram(self, row: int) -> ExponentialHistogram:
        """The histogram of one row, as it is now."""
        made = ExponentialHistogram(self._scale)
        if row >= len(self._sums):
            return made
        made.offset, made.counts = self._lowest, self._counts[row].copy()
        made.zero_count = int(self._zeros[row])
        made.count = made.zero_count + int(made.counts.sum())
        made.sum_ns, made.max_ns = self._sums[row], int(self._max[row])
        made.min_ns = int(self._min[row]) if made.count else 0
        return made

    def _grow(self, count: int) -> None:
        more = count - len(self._sums)
        if more > 0:
            self._counts = np.pad(self._counts, ((0, more), (0, 0)))
            self._zeros, self._max = np.pad(self._zeros, (0, more)), np.pad(self._max, (0, more))
            self._min = np.pad(self._min, (0, more), constant_values=2**63 - 1)
            self._sums += [0] * more

    def _columns(self, lowest: int, width: int) -> I64:
        """The columns of some buckets, made if there are none."""
        held = self._counts.shape[1]
        if not held:
            self._lowest = lowest
        left = max(0, self._lowest - lowest)
        right = max(0, lowest + width - self._lowest - held)
        if left or right:
            self._counts = np.pad(self._counts, ((0, 0), (left, right)))
            self._lowest -= left
        return self._counts[:, lowest - self._lowest : lowest - self._lowest + width]


def _buckets(values_ns: I64, scale: int, bounds: I64) -> npt.NDArray[np.int64]:
    """Place among the bounds of each value of at least 1 ns, (n,)."""
    if int(values_ns.max()) >= _EXACT_FLOAT:
        return bounds.searchsorted(values_ns)
    cells, lowest_of_cell = _cells_of(values_ns, scale)
    places = lowest_of_cell.take(cells)
    return places + (values_ns > bounds.take(places))


def _cells_of(values_ns: I64, scale: int) -> tuple[I64, I64]:
    """The cell of each value, int64 (n,), and the lowest bucket of each cell.

    Exponent and first digits of a float name a cell, which holds at most one bound.
    """
    bits, first_cell, lowest_of_cell = _cells(scale)
    cells = (values_ns.astype(np.float64).view(np.int64) >> (_MANTISSA_BITS - bits)) - first_cell
    return cells, lowest_of_cell


@cache
def _cells(scale: int) -> tuple[int, int, I64]:
    """Digits that name a cell, the number of the cell that begins at 1, and the lowest bucket of each."""
    bits = scale + 3
    first = int(np.array([1.0]).view(np.int64)[0]) >> (_MANTISSA_BITS - bits)
    last = int(np.array([float(_EXACT_FLOAT)]).view(np.int64)[0]) >> (_MANTISSA_BITS - bits)
    starts = (np.arange(first, last + 1) << (_MANTISSA_BITS - bits)).view(np.float64)
    return bits, first, upper_bounds(scale)[1].searchsorted(np.ceil(starts).astype(np.int64))
