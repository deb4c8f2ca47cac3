"""Reuse by idle time: whether a block that has not been used for a while is worth its room."""

import msgspec

from kvstream.metrics.measurements import Measurements

_POWERS = range(-10, 13, 2)  # of two, in seconds: about 1 ms to 68 min; bounds of buckets at every scale


class ReuseByIdle(msgspec.Struct, frozen=True):
    """How often blocks that had been idle for a given time were still used again.

    Attributes:
        idle_seconds: The time without an access, after the allocation or the last access.
        reused: How often such a block was accessed again.
        evicted: How often it was evicted instead.
        reuse_share: ``reused`` / (``reused`` + ``evicted``). If it is small, idle blocks could be evicted
            after that time.
    """

    idle_seconds: float
    reused: int
    evicted: int
    reuse_share: float


def reuse_by_idle(seen: Measurements) -> list[ReuseByIdle]:
    """Return reuse by idle time: from 0, in steps of a factor of four, to the longest idle time."""
    ended = seen.idle.count
    again = seen.first_reuse.count + seen.reuse_gap.count
    rows = [(0.0, again, ended)]
    for power in _POWERS:
        reused = seen.first_reuse.count_above(power) + seen.reuse_gap.count_above(power)
        rows.append((2.0**power, reused, seen.idle.count_above(power)))
    return [
        ReuseByIdle(seconds, reused, evicted, reused / (reused + evicted))
        for seconds, reused, evicted in rows
        if reused + evicted
    ]
