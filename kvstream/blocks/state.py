"""BlockMetricsState: what is known of one block."""

import itertools
import time

import msgspec

from kvstream.events.types import Labels


class HotBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A live block that is among the most used, or the longest held.

    Attributes:
        block_id: Block number or content hash.
        accesses: Accesses since its allocation.
        held_seconds: Time since its allocation; None where that is unknown.
        idle_seconds: Time since the last access, or since the allocation; None where neither is known.
        labels: Its label set; None without labels.
    """

    block_id: int
    accesses: int
    held_seconds: float | None
    idle_seconds: float | None
    labels: Labels | None = None


class BlockMetricsState(msgspec.Struct):
    """One generation of one block: a view taken from the table, or kept by hand.

    Attributes:
        block_id: Block number or content hash.
        birth_ns: When it was allocated, ns since the Unix epoch; None where that was not seen.
        access_count: Accesses since.
        access_times_ns: Times of the last accesses, oldest first.
        access_history: How many of these are kept.

    Examples:
        >>> block = BlockMetricsState(block_id=7, birth_ns=0)
        >>> block.record_access(2_000_000_000)
        >>> block.record_access(3_500_000_000)
        >>> block.get_reuse_gaps_seconds()
        [1.5]
    """

    block_id: int
    birth_ns: int | None
    access_count: int = 0
    access_times_ns: list[int] = msgspec.field(default_factory=list)
    access_history: int = 4

    def record_access(self, ts_ns: int | None = None) -> None:
        """Count an access at ``ts_ns``, by default now."""
        self.access_count += 1
        self.access_times_ns.append(_now(ts_ns))
        del self.access_times_ns[: -self.access_history]

    def get_lifetime_seconds(self, now_ns: int | None = None) -> float | None:
        """Return seconds from the allocation to ``now_ns`` (by default now), 0 if that is earlier.

        None where the allocation was not seen.
        """
        return None if self.birth_ns is None else max(0, _now(now_ns) - self.birth_ns) / 1e9

    def get_idle_time_seconds(self, now_ns: int | None = None) -> float | None:
        """Return seconds since the last access, or else since the allocation; None if neither is known."""
        last = self.access_times_ns[-1] if self.access_times_ns else self.birth_ns
        return None if last is None else max(0, _now(now_ns) - last) / 1e9

    def get_reuse_gaps_seconds(self) -> list[float]:
        """Return seconds between the accesses kept, at most ``access_history - 1``."""
        times = self.access_times_ns
        return [max(0, b - a) / 1e9 for a, b in itertools.pairwise(times)]

    def get_access_frequency(self, now_ns: int | None = None) -> float:
        """Return accesses a second since the allocation, 0 where no time has passed or it is unknown."""
        seconds = self.get_lifetime_seconds(now_ns)
        return self.access_count / seconds if seconds else 0.0


def _now(ns: int | None) -> int:
    return time.time_ns() if ns is None else ns
