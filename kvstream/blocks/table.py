"""BlockTable: the blocks of one source and tier, and how a frame of events changes them.

The state is plain columns indexed by slot. ``apply`` groups a frame's events by slot with one sort of
packed integers and works on whole columns from there; the plain twin in ``tests/reference.py`` says
what the result must be.
"""

import numpy as np

from kvstream.blocks.grouping import POSITION_BITS, Generations, GenerationView, Grouped, Mask, group
from kvstream.blocks.hashing import below_rate, generation_hash, source_seed
from kvstream.blocks.index import BlockIndex
from kvstream.blocks.observations import EvictionBatch, Observations
from kvstream.blocks.state import BlockMetricsState
from kvstream.events.frame import I64, U8, EventFrame, as_int64
from kvstream.events.types import OTHER, REASONS, REPLACED, Op

_SMALLEST = 1024
_DIRECT_ALWAYS = 65_536
_DIRECT_SPREAD = 16


class BlockTable:
    """Live blocks of one source and tier.

    Ids that are small and dense (slot streams) index the columns directly. Once an id comes that is
    far beyond the number of blocks (content streams), ids are kept in a hash index instead.

    Args:
        source: Cache instance, part of the sampling hash.
        tier: Tier, part of the sampling hash.
        access_history: Access times kept a block.
        sample_rate: Share of generations whose intervals are observed.
        records: Make a record of each eviction (``Observations.evicted``).
    """

    def __init__(
        self,
        source: str,
        tier: str,
        *,
        access_history: int = 4,
        sample_rate: float = 1.0,
        records: bool = True,
    ) -> None:
        self.records = records
        self.live_count = 0
        self._seed = source_seed(source, tier)
        self._sample_rate = sample_rate
        self._index: BlockIndex | None = None
        self._free: list[I64] = []  # slots given back, in content streams
        self._next = 0  # first slot never used, in content streams
        self._live = np.zeros(_SMALLEST, dtype=np.bool_)
        self._id = np.arange(_SMALLEST, dtype=np.int64)
        self._birth = np.zeros(_SMALLEST, dtype=np.int64)
        self._last = np.zeros(_SMALLEST, dtype=np.int64)  # last access, or birth if there is none
        self._count = np.zeros(_SMALLEST, dtype=np.int64)
        self._history = np.zeros((_SMALLEST, access_history), dtype=np.int64)

    def apply(self, frame: EventFrame) -> Observations:
        """Applies the events in order and returns what there was to see.

        Unknown blocks, repeated allocations and times that go backwards are counted, never raised.
        The frame's source, tier and numbers are not looked at.
        """
        seen = Observations()
        if not len(frame):
            return seen
        start = 0
        for end in [*np.flatnonzero(frame.ops == Op.CLEAR).tolist(), len(frame)]:
            for at in range(start, end, 1 << POSITION_BITS):
                self._apply_run(frame.take(slice(at, min(end, at + (1 << POSITION_BITS)))), seen)
            if end < len(frame):
                self.clear(seen)
                seen.clears += 1
            start = end + 1
        return seen

    def clear(self, seen: Observations) -> None:
        """Ends every generation with reason ``cleared``."""
        if not self.live_count:
            return  # many clears in a row must not cost a sweep each
        seen.cleared += self.live_count
        self.live_count = 0
        self._live[:] = False
        if self._index is not None:
            self._index = BlockIndex()
            self._free.clear()
            self._next = 0

    def block(self, block: int) -> BlockMetricsState | None:
        """What is known of one live block; None if it is not live."""
        slot = int(self._slots(as_int64([block]))[0])
        return self._state(slot) if slot >= 0 and self._live[slot] else None

    def live_blocks(self) -> list[BlockMetricsState]:
        """Every live block, in order of slot."""
        return [self._state(slot) for slot in np.flatnonzero(self._live).tolist()]

    def _state(self, slot: int) -> BlockMetricsState:
        count, depth = int(self._count[slot]), self._history.shape[1]
        times = [int(self._history[slot, j % depth]) for j in range(max(0, count - depth), count)]
        return BlockMetricsState(int(self._id[slot]), int(self._birth[slot]), count, times, depth)

    # From ids to slots

    def _slots(self, ids: I64) -> I64:
        if self._index is not None:
            return self._index.lookup(ids, self._id)
        return np.where((ids >= 0) & (ids < len(self._live)), ids, -1)

    def _make_room(self, allocated: I64) -> None:
        """Sees to it that every allocated id has a slot."""
        if self._index is None:
            low, high = int(allocated.min()), int(allocated.max())
            if low >= 0 and high < len(self._live):
                return
            spread = _DIRECT_SPREAD * (self.live_count + len(allocated))
            if low >= 0 and high < max(_DIRECT_ALWAYS, spread):
                self._grow(high + 1)
                return
            self._index = self._index_by_hash()
        new = np.unique(allocated[self._index.lookup(allocated, self._id) < 0])
        if len(new):
            slots = self._take(len(new))
            self._id[slots] = new
            self._live[slots] = False
            self._index.insert(new, slots, self._id)

    def _index_by_hash(self) -> BlockIndex:
        held = np.flatnonzero(self._live)
        index = BlockIndex()
        index.insert(held, held, self._id)
        self._free = [np.flatnonzero(~self._live)]
        self._next = len(self._live)
        return index

    def _take(self, count: int) -> I64:
        taken: list[I64] = []
        while count and self._free:
            slots = self._free.pop()
            if len(slots) > count:
                self._free.append(slots[count:])
                slots = slots[:count]
            taken.append(slots)
            count -= len(slots)
        if count:
            self._grow(self._next + count)
            taken.append(np.arange(self._next, self._next + count))
            self._next += count
        return np.concatenate(taken)

    def _grow(self, needed: int) -> None:
        size = len(self._live)
        if needed <= size:
            return
        while size < needed:
            size *= 2
        more = size - len(self._live)
        self._id = np.concatenate([self._id, np.arange(len(self._id), size, dtype=np.int64)])
        self._live = np.concatenate([self._live, np.zeros(more, dtype=np.bool_)])
        self._birth = np.concatenate([self._birth, np.zeros(more, dtype=np.int64)])
        self._last = np.concatenate([self._last, np.zeros(more, dtype=np.int64)])
        self._count = np.concatenate([self._count, np.zeros(more, dtype=np.int64)])
        self._history = np.concatenate(
            [self._history, np.zeros((more, self._history.shape[1]), dtype=np.int64)]
        )

    # From events to state

    def _apply_run(self, frame: EventFrame, seen: Observations) -> None:
        """Applies events that hold no clear."""
        ops, ts, reasons = frame.ops, frame.ts, frame.reasons
        allocated = frame.blocks[ops == Op.ALLOC]
        if len(allocated):
            self._make_room(allocated)
        slots = self._slots(frame.blocks)
        found = slots >= 0
        if not found.all():
            _count_unknown(ops[~found], seen)
            slots, ops, ts = slots[found], ops[found], ts[found]
            reasons = None if reasons is None else reasons[found]
        if not len(slots):
            return
        grouped, without_effect = group(slots, ops, ts, self._live)
        _count_unknown(without_effect, seen)
        if not len(grouped.slot):
            return
        slot = grouped.slot[grouped.heads]
        carried_count = np.where(self._live[slot], self._count[slot], 0)
        generations = Generations(grouped, self._birth[slot], carried_count)
        interval = self._intervals(grouped, slot, seen)
        self._observe_allocations(grouped, seen)
        self._observe_accesses(grouped, generations, interval, carried_count, seen)
        closings = np.flatnonzero(grouped.live & ~generations.is_access)
        if len(closings):
            self._observe_closings(grouped, generations, closings, interval, reasons, seen)
        self._write_back(grouped, generations, slot)

    def _intervals(self, grouped: Grouped, slot: I64, seen: Observations) -> I64:
        """Time of each row since the last access (or birth) before it, ns, (n,); never negative."""
        before = np.empty_like(grouped.t)
        before[1:] = grouped.t[:-1]
        before[grouped.heads] = self._last[slot]
        interval = grouped.t - before
        backwards = (interval < 0) & grouped.live
        seen.time_regressions += int(np.count_nonzero(backwards))
        interval[backwards] = 0
        return interval

    def _observe_allocations(self, grouped: Grouped, seen: Observations) -> None:
        rows = np.flatnonzero(grouped.op == Op.ALLOC)
        seen.allocations += len(rows)
        sampled = self._sampled(grouped.slot[rows], grouped.t[rows])
        seen.sampled_allocations += int(np.count_nonzero(sampled))

    def _observe_accesses(
        self,
        grouped: Grouped,
        generations: Generations,
        interval: I64,
        carried_count: I64,
        seen: Observations,
    ) -> None:
        is_access = generations.is_access
        seen.accesses += int(np.count_nonzero(is_access))
        again = np.empty_like(is_access)  # whether the generation was accessed before
        again[1:] = is_access[:-1]
        again[grouped.heads] = carried_count > 0
        rows = np.flatnonzero(is_access)
        if self._sample_rate < 1.0:
            rows = rows[self._sampled(grouped.slot[rows], generations.after(rows).birth)]
        again = again[rows]
        seen.reuse_gaps.append(interval[rows[again]])
        seen.first_reuses.append(interval[rows[~again]])

    def _observe_closings(
        self,
        grouped: Grouped,
        generations: Generations,
        rows: I64,
        interval: I64,
        reasons: U8 | None,
        seen: Observations,
    ) -> None:
        view = generations.before(rows)
        lifetime = grouped.t[rows] - view.birth
        backwards = lifetime < 0
        seen.time_regressions += int(np.count_nonzero(backwards))
        lifetime[backwards] = 0
        given = np.zeros(len(rows), dtype=np.uint8)
        if reasons is not None:
            given = reasons[grouped.position[rows]]
        replaced = grouped.op[rows] == Op.ALLOC
        seen.replacements += int(np.count_nonzero(replaced))
        unknown = (given >= len(REASONS)) & ~replaced
        seen.unknown_reasons += int(np.count_nonzero(unknown))
        given[unknown] = OTHER
        given[replaced] = REPLACED
        seen.evictions += np.bincount(given, minlength=len(REASONS))
        if self._sample_rate < 1.0:
            chosen = self._sampled(grouped.slot[rows], view.birth)
            rows, lifetime, given = rows[chosen], lifetime[chosen], given[chosen]
            view = view.take(chosen)
        seen.lifetimes.append(lifetime)
        seen.idles.append(interval[rows])
        seen.access_counts.append(view.accesses)
        if self.records:
            history = self._history_of(grouped, rows, view)
            batch = EvictionBatch(
                self._id[grouped.slot[rows]],
                grouped.t[rows],
                lifetime,
                interval[rows],
                view.accesses,
                given,
                history,
            )
            seen.evicted.append(batch.take(np.argsort(grouped.position[rows])))

    def _history_of(self, grouped: Grouped, rows: I64, view: GenerationView) -> I64:
        """Last access times of the generations that end at ``rows``, shape (m, access_history)."""
        depth = self._history.shape[1]
        times = np.zeros((len(rows), depth), dtype=np.int64)
        for back in range(depth):
            here = back < view.accesses_here
            times[here, depth - 1 - back] = grouped.t[rows[here] - 1 - back]
            stored = ~here & view.carried & (back < view.accesses)
            number = view.accesses[stored] - 1 - back
            times[stored, depth - 1 - back] = self._history[grouped.slot[rows[stored]], number % depth]
        return times

    def _write_back(self, grouped: Grouped, generations: Generations, slot: I64) -> None:
        """Stores what the last row of each group leaves behind."""
        tails = np.append(grouped.heads[1:] - 1, len(grouped.slot) - 1)
        view = generations.after(tails)
        live = grouped.op[tails] != Op.EVICT
        depth = self._history.shape[1]
        rows = np.flatnonzero(generations.is_access)
        of = generations.group_of[rows]
        from_end = generations.accesses[tails][of] - generations.accesses[rows]
        kept = (rows > view.start[of]) & (from_end < depth) & live[of]
        rows, of, from_end = rows[kept], of[kept], from_end[kept]
        self._history[slot[of], (view.accesses[of] - from_end - 1) % depth] = grouped.t[rows]
        self.live_count += int(np.count_nonzero(live)) - int(np.count_nonzero(self._live[slot]))
        self._birth[slot], self._count[slot] = view.birth, view.accesses
        self._last[slot], self._live[slot] = grouped.t[tails], live
        if self._index is not None and not live.all():
            gone = slot[~live]
            self._index.remove(self._id[gone], self._id)
            self._free.append(gone)

    def _sampled(self, slot: I64, birth: I64) -> Mask:
        if self._sample_rate >= 1.0:
            return np.ones(len(slot), dtype=np.bool_)
        return below_rate(generation_hash(self._seed, self._id[slot], birth), self._sample_rate)


def _count_unknown(ops: U8, seen: Observations) -> None:
    accesses = int(np.count_nonzero(ops == Op.ACCESS))
    seen.unknown_accesses += accesses
    seen.unknown_evictions += len(ops) - accesses
