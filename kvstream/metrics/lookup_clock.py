"""Load: how much a cache was asked for in the time just past."""

from bisect import bisect_right
from typing import Any

import numpy as np

_KEPT = 600


class LookupHistory:
    """Lookups in the windows so far, to tell lifetimes in lookups.

    A lifetime in seconds halves where traffic doubles, which harms nobody, and grows by the pause where an
    engine pauses. Counted in lookups, accesses and allocations of any block while this one lived, it stays:
    it falls only where each of them finds less, or where there are fewer blocks.

    Args:
        window_seconds: Length of a window.

    Examples:
        >>> load = LookupHistory(1.0)
        >>> for index in (10, 11, 15):
        ...     load.add(index, 100)
        >>> [load.lookups_in(seconds) for seconds in (1.0, 1.5, 5.0, 9.0)]
        [100.0, 100.0, 200.0, 450.0]
    """

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._ends: list[float] = []  # of windows, seconds, ascending
        self._sums: list[int] = []  # lookups up to then

    def add(self, index: int, lookups: int) -> None:
        """Take in a window; one before the last, after a step of the clock, starts afresh."""
        end = (index + 1) * self._window_seconds
        if self._ends and end <= self._ends[-1]:
            self._ends.clear()
            self._sums.clear()
        self._ends.append(end)
        self._sums.append((self._sums[-1] if self._sums else 0) + lookups)
        if len(self._ends) > 2 * _KEPT:
            del self._ends[:_KEPT], self._sums[:_KEPT]

    def save(self) -> dict[str, Any]:
        """Return the windows kept, as arrays."""
        return {
            "ends": np.array(self._ends, dtype=np.float64),
            "sums": np.array(self._sums, dtype=np.int64),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved."""
        self._ends, self._sums = saved["ends"].tolist(), saved["sums"].tolist()

    def lookups_in(self, seconds: float) -> float:
        """Return lookups in the last seconds before the end of the newest window.

        Within a window they are taken as even; before the oldest window kept, as many as on average since.
        """
        if not self._ends:
            return 0.0
        start = self._ends[-1] - seconds
        oldest = self._ends[0] - self._window_seconds
        if start < oldest:
            return seconds * self._sums[-1] / (self._ends[-1] - oldest)
        at = bisect_right(self._ends, start)
        if at == len(self._ends):
            return 0.0
        before = self._sums[at - 1] if at else 0
        share = min(1.0, (self._ends[at] - start) / self._window_seconds)
        return self._sums[-1] - self._sums[at] + share * (self._sums[at] - before)
