"""Histograms for many at once: a row of buckets each, filled together."""

from typing import Any

import msgspec
import numpy as np

from kvstream.events.frame import I64, U16
from kvstream.metrics.buckets import VLLM_BUCKETS_NS, Buckets, buckets
from kvstream.metrics.histogram import DEFAULT_SCALE, ExponentialHistogram

_NEVER = 2**63 - 1
_SPARE = 32


class Counted(msgspec.Struct, frozen=True, eq=False):
    """Intervals, at least one, counted by bucket.

    Attributes:
        of: The buckets.
        first: The bucket of the first count.
        counts: Intervals in each bucket from there on, int64.
        sum_ns: Their sum, ns.
        min_ns: The shortest, ns.
        max_ns: The longest, ns.
    """

    of: Buckets
    first: int
    counts: I64
    sum_ns: int
    min_ns: int
    max_ns: int

    def exponential(self) -> ExponentialHistogram:
        """Return the same in exponential buckets."""
        made = ExponentialHistogram(self.of.scale)
        held = self.counts.nonzero()[0]
        zeros = offset = 0
        counts = self.counts[:0]
        if held[0] + self.first == 0:
            zeros = int(self.counts[held[0]])
            held = held[1:]
        if len(held):
            part = slice(int(held[0]), int(held[-1]) + 1)
            of = self.of.exponential[self.first :][part]
            offset = int(of[0])
            counts = _sums(of - of[0], self.counts[part])
        made.add(int(self.counts.sum()), zeros, offset, counts, self.sum_ns, self.min_ns, self.max_ns)
        return made

    def classic(self) -> I64:
        """Return how many are in each of vLLM's buckets and beyond the last, int64 (bounds + 1,)."""
        of = self.of.classic[self.first : self.first + len(self.counts)]
        return _sums(of, self.counts, len(VLLM_BUCKETS_NS) + 1)


def _sums(of: I64, counts: I64, length: int = 0) -> I64:
    """Return the sums of the counts of each bucket, as floats hold them exactly."""
    return np.bincount(of, counts, length).astype(np.int64)


class HistogramRows:
    """One ``ExponentialHistogram`` a row; filling them costs the same however many there are.

    Args:
        scale: Scale of the histograms.

    Examples:
        >>> rows = HistogramRows(4)
        >>> rows.record(np.array([0, 2, 2], dtype=np.uint16), np.array([10, 20, 30])).sum_ns
        60
        >>> [rows.histogram(row).count for row in range(3)]
        [1, 0, 2]
    """

    def __init__(self, scale: int = DEFAULT_SCALE) -> None:
        self._buckets = buckets(scale)
        self._lowest = 0  # bucket of the first column
        self._counts = np.zeros((0, 0), dtype=np.int64)
        self._min = np.zeros(0, dtype=np.int64)
        self._max = np.zeros(0, dtype=np.int64)
        self._sums: list[int] = []

    def record(self, rows: U16, values_ns: I64) -> Counted:
        """Count intervals, at least one.

        Args:
            rows: Row of each interval, uint16 (n,).
            values_ns: The intervals, ns, none negative, int64 (n,).

        Returns:
            What was counted, of all rows together.
        """
        self._grow(int(rows.max()) + 1)
        buckets = self._buckets
        first, counts, shortest, longest, sums = buckets.core.count_rows(values_ns, rows, len(self._sums))
        self._sums = [before + more for before, more in zip(self._sums, sums, strict=True)]
        np.minimum(self._min, shortest, out=self._min)
        np.maximum(self._max, longest, out=self._max)
        columns = self._columns(first, counts.shape[1])
        columns += counts
        low, high = int(shortest.min()), int(longest.max())
        return Counted(buckets, first, counts.sum(axis=0), sum(sums), low, high)

    def histogram(self, row: int) -> ExponentialHistogram:
        """Return the histogram of one row, as it is now."""
        if row >= len(self._sums) or not self._counts[row].any():
            return ExponentialHistogram(self._buckets.scale)
        low, high = int(self._min[row]), int(self._max[row])
        return Counted(
            self._buckets, self._lowest, self._counts[row], self._sums[row], low, high
        ).exponential()

    def save(self) -> dict[str, Any]:
        """Return the rows as arrays; a sum may be larger than 64 bits."""
        return {
            "lowest": self._lowest,
            "counts": self._counts.copy(),
            "min": self._min.copy(),
            "max": self._max.copy(),
            "sums": np.array([divmod(total, 2**32) for total in self._sums], dtype=np.int64).reshape(-1, 2),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved."""
        self._lowest, self._counts = saved["lowest"], saved["counts"]
        self._min, self._max = saved["min"], saved["max"]
        self._sums = [high * 2**32 + low for high, low in saved["sums"].tolist()]

    def _grow(self, count: int) -> None:
        more = count - len(self._sums)
        if more > 0:
            self._counts = np.pad(self._counts, ((0, more), (0, 0)))
            self._max = np.pad(self._max, (0, more))
            self._min = np.pad(self._min, (0, more), constant_values=_NEVER)
            self._sums += [0] * more

    def _columns(self, first: int, width: int) -> I64:
        """Return the columns of some buckets, made if there are none."""
        held = self._counts.shape[1]
        if not held:
            self._lowest = first
        # Some more on each side, as far as there are buckets: to make them costs more than to have them.
        left, right = self._lowest - first, first + width - self._lowest - held
        if left > 0 or right > 0:
            beyond = len(self._buckets.bounds) - self._lowest - held
            left = min(self._lowest, left + _SPARE) if left > 0 else 0
            right = min(beyond, right + _SPARE) if right > 0 else 0
            self._counts = np.pad(self._counts, ((0, 0), (left, right)))
            self._lowest -= left
        return self._counts[:, first - self._lowest : first - self._lowest + width]
