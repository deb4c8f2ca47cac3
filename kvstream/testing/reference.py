"""ReferenceTable: what each event does to its block, written to be read.

The specification of ``kvstream._core.table``, which property tests hold to it over arbitrary streams.
"""

import itertools
from dataclasses import dataclass, field

from kvstream.events.types import BIRTH_UNKNOWN, REASONS, Op


@dataclass
class Generation:
    """A block from its allocation on, or since it is known.

    Attributes:
        birth: When it was allocated, ns; None where that is unknown.
        count: Accesses since.
        times: Times of the last accesses, ns, oldest first.
        copies: Physical copies of it.
    """

    birth: int | None
    count: int = 0
    times: list[int] = field(default_factory=list)
    copies: int = 1

    @property
    def last_use(self) -> int | None:
        """Return the time of the last access, or of the allocation if there was none; None if unknown."""
        return self.times[-1] if self.times else self.birth


@dataclass
class Eviction:
    """A generation that ended other than by a clear.

    Attributes:
        block: Block id.
        ts: When it ended, ns.
        lifetime: From the allocation, ns; None where that is unknown.
        idle: From the last use, ns; None where that is unknown.
        count: Accesses.
        reason: Why it ended.
        gaps: Between its last accesses, ns.
    """

    block: int
    ts: int
    lifetime: int | None
    idle: int | None
    count: int
    reason: str
    gaps: list[int]


class ReferenceTable:
    """The blocks of one cache, one event at a time.

    Args:
        access_history: Access times kept of a block.

    Attributes:
        live: Generation of each live block.
        evicted: Generations that ended, in order.
        evictions: Their count by reason.
        reuse_gaps: Access to access, ns.
        first_reuses: Allocation to first access, ns.
    """

    def __init__(self, access_history: int = 4) -> None:
        self.access_history = access_history
        self.live: dict[int, Generation] = {}
        self.allocations = self.accesses = 0
        self.unknown_accesses = self.unknown_evictions = 0
        self.time_regressions = self.unknown_reasons = 0
        self.clears = self.cleared = 0
        self.residents = self.unknown_births = self.unknown_lifetimes = 0
        self.published_hits = self.copies_stored = self.copies_removed = 0
        self.evictions = dict.fromkeys(REASONS, 0)
        self.evicted: list[Eviction] = []
        self.reuse_gaps: list[int] = []
        self.first_reuses: list[int] = []

    def apply(self, op: int, block: int, ts: int, reason: str = "capacity") -> None:
        """Apply one event, by its operation code (``Op``)."""
        if op == Op.ALLOC:
            self.allocate(block, ts)
        elif op == Op.ACCESS:
            self.access(block, ts)
        elif op == Op.EVICT:
            self.evict(block, ts, reason)
        elif op == Op.CLEAR:
            self.clear()
        elif op == Op.REMOVE:
            self.remove(block, ts, reason)
        elif op == Op.RESIDENT:
            self.find_resident(block, ts)
        elif op == Op.PREFIX:
            self.store_prefix(block, ts)
        else:
            self.store(block, ts)

    def allocate(self, block: int, ts: int) -> None:
        """Begin a generation, which ends the one that the block has."""
        if block in self.live:
            self._end(block, ts, "replaced")
        self.allocations += 1
        self.live[block] = Generation(None if ts == BIRTH_UNKNOWN else ts)

    def access(self, block: int, ts: int) -> None:
        """Count a hit, and observe the time since the block was last used.

        A block that was not live becomes live, of unknown birth.
        """
        if block not in self.live:
            self.unknown_accesses += 1
            self.unknown_births += 1
            self.live[block] = Generation(None, 1, [ts])
            return
        generation = self.live[block]
        gap = self._interval(ts, generation.last_use)
        if gap is not None:
            (self.reuse_gaps if generation.count else self.first_reuses).append(gap)
        self.accesses += 1
        generation.count += 1
        generation.times = [*generation.times, ts][-self.access_history :]

    def store(self, block: int, ts: int) -> None:
        """Allocate a block, or store another copy of one that is live."""
        if block in self.live:
            self.live[block].copies += 1
            self.copies_stored += 1
        else:
            self.allocate(block, ts)

    def store_prefix(self, block: int, ts: int) -> None:
        """Access a block that is live, as a request found it, or else allocate it."""
        if block in self.live:
            self.access(block, ts)
            self.published_hits += 1
        else:
            self.allocate(block, ts)

    def evict(self, block: int, ts: int, reason: str = "capacity") -> None:
        """Remove a copy of a block, which ends its generation if it is the last one."""
        if block not in self.live:
            self.unknown_evictions += 1
            return
        if self.live[block].copies > 1:
            self.live[block].copies -= 1
            self.copies_removed += 1
            return
        if reason not in REASONS:
            self.unknown_reasons += 1
            reason = "other"
        self._end(block, ts, reason)

    def remove(self, block: int, ts: int, reason: str = "capacity") -> None:
        """Remove the last copy of a block."""
        if block in self.live:
            self.live[block].copies = 1
        self.evict(block, ts, reason)

    def find_resident(self, block: int, ts: int) -> None:
        """Make a block of a snapshot live, of unknown birth, if it is not live already."""
        self.residents += 1
        if block not in self.live:
            self.unknown_births += 1
            self.live[block] = Generation(None)

    def clear(self) -> None:
        """End every generation by an event; these are in no distribution."""
        self.clears += 1
        self.restart()

    def restart(self) -> None:
        """End every generation, as the source has lost its cache."""
        self.cleared += len(self.live)
        self.live.clear()

    def _end(self, block: int, ts: int, reason: str) -> None:
        generation = self.live.pop(block)
        self.evictions[reason] += 1
        self.unknown_lifetimes += generation.birth is None
        self.evicted.append(
            Eviction(
                block,
                ts,
                self._interval(ts, generation.birth),
                self._interval(ts, generation.last_use),
                generation.count,
                reason,
                [max(0, after - before) for before, after in itertools.pairwise(generation.times)],
            )
        )

    def _interval(self, later: int, earlier: int | None) -> int | None:
        """Return the time between, ns, at most 2**63 - 1; 0, and counted, where the later is the earlier.

        None where the earlier time is unknown.
        """
        if earlier is None:
            return None
        if later < earlier:
            self.time_regressions += 1
            return 0
        return min(later - earlier, 2**63 - 1)
