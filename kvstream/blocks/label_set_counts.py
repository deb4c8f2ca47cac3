"""LabelSetCounts: what became of the blocks of each label set of a table."""

import numpy as np

from kvstream._core.columns import COUNTED_BY_LABEL_SET
from kvstream.events.frame import I64, U16

_COLUMN = {name: column for column, name in enumerate(COUNTED_BY_LABEL_SET)}
_LOWER_BITS = 2**32 - 1


class LabelSetCounts:
    """Counts by label set what became of blocks; those of events are counted by the core.

    Args:
        label_sets: Label sets that there can be.

    Attributes:
        rows: The counts (``COUNTED_BY_LABEL_SET``) of each label set, by number, int64.
    """

    def __init__(self, label_sets: int) -> None:
        self.rows = np.zeros((label_sets, len(COUNTED_BY_LABEL_SET)), dtype=np.int64)

    def begin(self, since: I64, late: int) -> None:
        """Count the blocks that are live when labels come first, which have none.

        Args:
            since: Since when each block is known, ns, int64 (n,).
            late: How many of them are of unknown birth.
        """
        without = self.rows[:1]
        without[:, _COLUMN["allocations"]] += len(since) - late
        without[:, _COLUMN["unknown_births"]] += late
        _hold(without, -(since & _LOWER_BITS).sum(), -(since >> 32).sum())

    def clear(self, label_sets: U16, ts: int) -> None:
        """Count the blocks that a clear ends at a time, ns, each by its label set, uint16 (n,)."""
        ended = np.bincount(label_sets, minlength=len(self.rows))
        self.rows[:, _COLUMN["cleared"]] += ended
        _hold(self.rows, ended * (ts & _LOWER_BITS), ended * (ts >> 32))

    def count_returns(self, label_sets: U16) -> None:
        """Count premature evictions, by label set of the blocks that hold the content now, uint16 (m,)."""
        self.rows[:, _COLUMN["premature"]] += np.bincount(label_sets, minlength=len(self.rows))

    def save(self, label_sets: int) -> I64:
        """Return the rows of the first label sets, a copy; those beyond are 0 as long as nothing has them."""
        return self.rows[:label_sets].copy()

    def restore(self, saved: I64) -> None:
        """Go on from the rows that were saved; columns that there were not yet are 0."""
        self.rows[: len(saved), : saved.shape[1]] = saved


def _hold(rows: I64, lower: I64, upper: I64) -> None:
    """Add times to rows: the sums of their lower 32 bits, and of the others."""
    lower = rows[:, _COLUMN["held_lower"]] + lower
    rows[:, _COLUMN["held_lower"]] = lower & _LOWER_BITS
    rows[:, _COLUMN["held_upper"]] += upper + (lower >> 32)
