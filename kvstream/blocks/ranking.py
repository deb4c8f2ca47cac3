"""Ranking: the few highest of a great many rows."""

from collections.abc import Callable

import numpy as np

from kvstream.events.frame import I64

NOT_RANKED = np.iinfo(np.int64).min
"""Rank of a row that is left out."""

_ROWS_AT_ONCE = 16_384


def highest(rows: I64, rank: Callable[[I64], I64], n: int) -> I64:
    """Return the places of the ``n`` rows of the highest rank, the highest first; fewer if there are fewer.

    Rows are ranked some at a time, and only those above all that were left out before are compared: of a
    million, that takes a tenth of the time that comparing all of them takes.

    Args:
        rows: The rows, int64 (m, k).
        rank: Returns the ranks of some of them, int64.
        n: How many, at least one.
    """
    chosen = ranks = np.empty(0, dtype=np.int64)
    least = NOT_RANKED
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rank(rows[start : start + _ROWS_AT_ONCE])
        above = np.flatnonzero(part > least)
        if not len(above):
            continue
        chosen = np.concatenate([chosen, start + above])
        ranks = np.concatenate([ranks, part.take(above)])
        if len(ranks) >= n:
            kept = np.argpartition(ranks, len(ranks) - n)[len(ranks) - n :]
            chosen, ranks = chosen.take(kept), ranks.take(kept)
            least = ranks.min()
    return chosen.take(np.argsort(-ranks, kind="stable"))
