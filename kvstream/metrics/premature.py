"""Premature evictions: content that was evicted and came back not long after."""

import msgspec

from kvstream.events.frame import I64

REMEMBERED_SECONDS = 3600.0
"""Seconds after which evicted content is forgotten; what comes back later was not evicted too early."""


class Returns(msgspec.Struct, frozen=True, eq=False):
    """Evicted content that came back, in columns of equal length m (``_core.table.PrematureEvictions``).

    Attributes:
        times: From eviction to return, ns, int64 (m,).
        distances: Content keys evicted later that had not come back by then, at least 1, int64 (m,). With so
            many blocks more, an LRU cache would still have held it: what makes room for its return is among
            them, as a full cache evicts before it allocates.
        rows: The changes that brought it back, int64 (m,).
    """

    times: I64
    distances: I64
    rows: I64
