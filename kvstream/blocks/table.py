"""BlockTable: the blocks of one source and tier, and how a frame of events changes them.

The state is one row of integers a slot: birth, access count, last access times. ``apply`` groups events by
slot with one sort of packed integers and works on whole columns from there; the plain twin in
``tests/reference.py`` says what the result must be.
"""

from typing import TYPE_CHECKING

import numpy as np

from kvstream.blocks.block_map import BlockMap, block_map
from kvstream.blocks.contents import Contents
from kvstream.blocks.grouping import PACKED_STORE, RUN_EVENTS, Generations, Grouped, Mask, generations, group
from kvstream.blocks.hashing import below_rate, generation_hash, source_seed
from kvstream.blocks.index import BlockIndex
from kvstream.blocks.observations import EvictionBatch, Observations, joined
from kvstream.blocks.owners import Owners, owned_by_cleared, owned_from_now_on, owned_of_run
from kvstream.blocks.state import BlockMetricsState, HotBlock
from kvstream.compiled import compiles
from kvstream.events.frame import I64, U8, U16, EventFrame, as_int64
from kvstream.events.types import OTHER, REASONS, REPLACED, Op

if TYPE_CHECKING:
    from kvstream.blocks.run_compiled import CompiledRuns

_SMALLEST = 1024
_NOT_LIVE = -1  # as an access count
_ANY_SLOTS = 2**46
_DIRECT_ALWAYS = 65_536
_DIRECT_SPREAD = 4
_BEGUN_SHARE = 4
_MOST_RUNS = 1024


class BlockTable:
    """Live blocks of one source and tier.

    Ids that are small and dense (slot streams) index the columns directly. Once an id comes that is
    far beyond the number of blocks (content streams), ids are kept in a hash index instead, so that
    memory is bounded by the number of blocks: 65,536 rows, or four for each block.

    Args:
        source: Cache instance, part of the sampling hash.
        tier: Tier, part of the sampling hash.
        access_history: Access times kept a block.
        sample_rate: Share of generations whose intervals are observed.
        records: Make a record of each eviction (``Observations.evicted``).
        changes: Tell which content comes and goes (``Observations.changes``): the block itself in content
            streams, its key in slot streams that have keys.
        owners: Owners that are told apart by labels; 0 passes over labels.

    Attributes:
        owners: Whose the blocks are.
        lookups_below: Tell of the content that is allocated and accessed, if its hash is below
            (``Observations.looked_up``); 0 tells of none.
        told_since: What was used at this time, ns, or later need not be told again (``Observations.used``).
    """

    def __init__(
        self,
        source: str,
        tier: str,
        *,
        access_history: int = 4,
        sample_rate: float = 1.0,
        records: bool = True,
        changes: bool = False,
        owners: int = 0,
    ) -> None:
        self.owners = Owners(owners) if owners else None
        self.records, self.changes = records, changes
        self.lookups_below = 0
        self.told_since = 2**63 - 1
        self.live_count = 0
        self._seed = source_seed(source, tier)
        self._sample_rate = sample_rate
        self._index = BlockIndex()
        self._free = np.empty(0, dtype=np.int64)  # slots given back, a stack, in content streams
        self._free_count = 0
        self._next = 0  # first slot never used, in content streams
        self._begun: list[I64] | None = []  # slots used since the last clear, unless many, in slot streams
        self._begun_count = 0
        self._ids: I64 | None = None  # by slot, in content streams; otherwise a slot is its own id
        self._contents = Contents()
        self._depth = access_history
        # Access number i, from 0, is at place i & mask; the birth is at place -1 & mask until then.
        self._mask = (1 << (access_history - 1).bit_length()) - 1
        self._runs = self._compiled_runs() if compiles() else None
        self._hold(np.zeros((_SMALLEST, 2 + self._mask + 1), dtype=np.int64), live_below=0)

    def _compiled_runs(self) -> "CompiledRuns":
        from kvstream.blocks.run_compiled import CompiledRuns

        return CompiledRuns(self._mask, self._depth, self._seed, self._sample_rate)

    def _hold(self, rows: I64, live_below: int) -> None:
        """Takes ``rows`` as the state; those from ``live_below`` on hold no block."""
        self._rows = rows
        self._birth, self._count, self._times = rows[:, 0], rows[:, 1], rows[:, 2:]
        self._count[live_below:] = _NOT_LIVE

    def apply(self, frame: EventFrame) -> Observations:
        """Applies the events in order and returns what there was to see.

        Unknown blocks, repeated allocations and times that go backwards are counted, never raised.
        The frame's source, tier and numbers are not looked at.
        """
        seen = Observations()
        if not len(frame):
            return seen
        start = 0
        others = (frame.ops >= Op.CLEAR).nonzero()[0]
        clears = others.compress(frame.ops.take(others) == Op.CLEAR)
        stores = len(clears) < len(others)
        at_once = RUN_EVENTS if self._runs is None else self._runs.at_once
        for end in [*clears.tolist(), len(frame)]:
            for at in range(start, end, at_once):
                self._apply_run(frame.take(slice(at, min(end, at + at_once))), stores, seen)
            if end < len(frame):
                self.clear(seen, int(frame.ts[end]))
                seen.clears += 1
            start = end + 1
        return seen

    def clear(self, seen: Observations, ts: int) -> None:
        """Ends every generation with reason ``cleared``, at a time in ns."""
        if self.changes:
            seen.changes.append(None)
        if not self.live_count:
            return
        held = self._live_slots()
        if self.owners is not None and self.owners.known:
            seen.owned.append(owned_by_cleared(self.owners.of_slots(held), ts))
        seen.cleared += self.live_count
        self.live_count = 0
        self._count[held] = _NOT_LIVE
        self._begun, self._begun_count = [], 0
        if self._ids is not None:
            self._index = BlockIndex()
            self._free_count = self._next = 0

    @property
    def by_hash(self) -> bool:
        """Whether ids are content hashes, not slots."""
        return self._ids is not None

    def holds(self, ids: I64) -> Mask:
        """Return whether each block is live, bool (n,)."""
        slots = self._slots(ids)
        return (slots >= 0) & (self._count.take(slots, mode="wrap") >= 0)

    def block(self, block: int) -> BlockMetricsState | None:
        """What is known of one live block; None if it is not live."""
        slot = int(self._slots(as_int64([block]))[0])
        return self._state(slot) if slot >= 0 and self._count[slot] >= 0 else None

    def live_blocks(self) -> list[BlockMetricsState]:
        """Every live block, in order of slot."""
        return [self._state(slot) for slot in self._live_slots().tolist()]

    def hottest(self, most: int, now_ns: int) -> list[HotBlock]:
        """The live blocks that have been accessed most."""
        return self._first(most, self._count, now_ns)

    def longest_held(self, most: int, now_ns: int) -> list[HotBlock]:
        """The live blocks that have been held for the longest time."""
        return self._first(most, np.where(self._count >= 0, now_ns - self._birth, -1), now_ns)

    def block_map(self, now_ns: int) -> BlockMap:
        """The live blocks by age and accesses."""
        return block_map(now_ns - self._birth, self._count)

    def _first(self, most: int, rank: I64, now_ns: int) -> list[HotBlock]:
        """The live blocks of the highest rank, highest first."""
        most = min(most, self.live_count)
        chosen = np.argpartition(rank, len(rank) - most)[len(rank) - most :] if most else rank[:0]
        chosen = chosen.take(np.argsort(-rank.take(chosen), kind="stable"))
        owners = self.owners.of_slots(chosen).tolist() if self.owners is not None else [0] * most
        labels = self.owners.labels if self.owners is not None else [None]
        found = []
        for slot, owner in zip(chosen.tolist(), owners, strict=True):
            state = self._state(slot)
            found.append(
                HotBlock(
                    block_id=state.block_id,
                    accesses=state.access_count,
                    held_seconds=state.get_lifetime_seconds(now_ns),
                    idle_seconds=state.get_idle_time_seconds(now_ns),
                    labels=labels[owner],
                )
            )
        return found

    def _state(self, slot: int) -> BlockMetricsState:
        count, depth = int(self._count[slot]), self._depth
        times = [int(self._times[slot, j & self._mask]) for j in range(max(0, count - depth), count)]
        block = slot if self._ids is None else int(self._ids[slot])
        return BlockMetricsState(block, int(self._birth[slot]), count, times, depth)

    def _live_slots(self) -> I64:
        """The slots that hold a block, ascending, found among those used since the last clear."""
        if self._ids is not None:
            return (self._count[: self._next] >= 0).nonzero()[0]
        if self._begun is None:  # so many that looking at each slot costs no more
            return (self._count >= 0).nonzero()[0]
        begun = np.unique(joined(self._begun))
        return begun.compress(self._count[begun] >= 0)

    def _note_begun(self, begun: list[I64], slots: I64) -> None:
        """Adds slots that are about to be used, in slot streams, until they are many."""
        begun.append(slots)
        self._begun_count += len(slots)
        if self._begun_count > len(self._rows) // _BEGUN_SHARE or len(begun) > _MOST_RUNS:
            self._begun = None

    # From ids to slots

    def _slots(self, ids: I64) -> I64:
        """The slot of each id, -1 where there is none."""
        if self._ids is not None:
            return self._index.lookup(ids, self._ids)
        if len(ids) and int(ids.min()) >= 0 and int(ids.max()) < len(self._rows):
            return ids
        return np.where((ids >= 0) & (ids < len(self._rows)), ids, -1)

    def _slots_with_room(self, ops: U8, ids: I64) -> I64:
        """The slot of each id; allocated and stored ids are given one."""
        begins = (ops == Op.ALLOC) | (ops == PACKED_STORE)
        if self._ids is None:
            allocated = ids.compress(begins)
            if not len(allocated) or self._grow_directly(allocated):
                return self._slots(ids)
            self._index_by_hash()
        slots = self._slots(ids)
        missing = (slots < 0).nonzero()[0]
        allocated = ids.take(missing).compress(begins.take(missing))
        if len(allocated):
            new, new_slots = self._insert(allocated)
            of_missing = ids.take(missing)
            at = np.searchsorted(new, of_missing)
            known = new.take(at, mode="clip") == of_missing
            slots[missing.compress(known)] = new_slots.take(at.compress(known))
        return slots

    def _grow_directly(self, allocated: I64) -> bool:
        """Whether these ids are dense enough to be slots; then there is room for them."""
        low, high = int(allocated.min()), int(allocated.max())
        most = max(_DIRECT_ALWAYS, _DIRECT_SPREAD * (self.live_count + len(allocated)))
        if low < 0 or high >= max(most, len(self._rows)):
            return False
        self._grow(high + 1, most)
        if self._begun is not None:
            self._note_begun(self._begun, allocated)
        return True

    def _index_by_hash(self) -> None:
        held = self._live_slots()
        self._ids = np.arange(len(self._rows))
        self._index.insert(held, held, self._ids)
        self._free = np.empty(len(self._rows), dtype=np.int64)
        self._give_back((self._count < 0).nonzero()[0])
        self._next = len(self._rows)

    def _insert(self, allocated: I64) -> tuple[I64, I64]:
        """Gives a slot to ids that have none; returns them, each once and sorted, and their slots."""
        assert self._ids is not None  # noqa: S101
        new = np.sort(allocated)
        new = new.compress(np.append(True, new[1:] != new[:-1]))
        slots = self._take(len(new))
        self._ids[slots] = new
        self._index.insert(new, slots, self._ids)
        return new, slots

    def _take(self, count: int) -> I64:
        """So many slots that hold nothing."""
        reused = min(count, self._free_count)
        self._free_count -= reused
        slots = self._free[self._free_count : self._free_count + reused]
        if reused == count:
            return slots
        self._grow(self._next + count - reused)
        slots = np.concatenate([slots, np.arange(self._next, self._next + count - reused)])
        self._next += count - reused
        return slots

    def _give_back(self, slots: I64) -> None:
        self._free[self._free_count : self._free_count + len(slots)] = slots
        self._free_count += len(slots)

    def _grow(self, needed: int, most: int = _ANY_SLOTS) -> None:
        """Makes room for as many slots as needed, and for some more up to ``most``."""
        held = len(self._rows)
        if needed <= held:
            return
        size = held
        while size < needed:
            size *= 2
        size = max(needed, min(size, most))
        rows = np.zeros((size, self._rows.shape[1]), dtype=np.int64)
        rows[:held] = self._rows
        self._hold(rows, live_below=held)
        if self._ids is not None:
            self._ids = np.concatenate([self._ids, np.zeros(size - held, dtype=np.int64)])
            self._free = np.concatenate([self._free, np.empty(size - held, dtype=np.int64)])

    # From events to state

    def _apply_run(self, frame: EventFrame, stores: bool, seen: Observations) -> None:
        """Applies events that hold no clear; ``stores`` where some may be stores."""
        ops, ts, reasons, keys, named = frame.ops, frame.ts, frame.reasons, frame.keys, frame.label_of
        numbers = self._owner_numbers(frame, seen)
        if self._runs is not None:
            self._apply_by_loop(frame, numbers, self._runs, seen)
            return
        if stores:
            ops = np.minimum(ops, PACKED_STORE)
        slots = self._slots_with_room(ops, frame.blocks)
        found = slots >= 0
        if not found.all():
            _count_unknown(ops.compress(~found), seen)
            slots, ops, ts = slots.compress(found), ops.compress(found), ts.compress(found)
            reasons = None if reasons is None else reasons.compress(found)
            keys = None if keys is None else keys.compress(found)
            named = None if named is None else named.compress(found)
        if not len(slots):
            return
        grouped = group(slots, ops, ts)
        slot = grouped.slot.take(grouped.heads)
        count = self._count[slot]
        if stores:
            grouped = grouped.resolved(count >= 0)
        without_effect = grouped.without_effect(count >= 0)
        if without_effect is not None:
            _count_unknown(grouped.op.compress(without_effect), seen)
            grouped = grouped.keep(~without_effect)
            if not len(grouped.slot):
                return
            slot = grouped.slot.take(grouped.heads)
            count = self._count[slot]
        # When each block was last used: accessed or, if it never was, allocated.
        last = self._times[slot, (count - 1) & self._mask]
        ended, left = generations(grouped, self._birth[slot], count)
        interval = _intervals(grouped, count, last, seen)
        begun = (grouped.op == Op.ALLOC).nonzero()[0]
        self._observe_allocations(grouped, begun, seen)
        reused = self._observe_accesses(grouped, begun, count, interval, seen)
        observed = self._observe_ended(grouped, ended, interval, reasons, seen)
        of_row = None
        if self.owners is not None and numbers is not None:
            labels = np.zeros_like(begun) if named is None else named.take(grouped.position.take(begun))
            given = numbers.take(labels)
            of_row, went = self.owners.apply(grouped, slot, begun, given, ended, left)
            seen.owned.append(owned_of_run(grouped, begun, ended, of_row, went, reused, observed))
        if self.lookups_below:
            asked = self._contents.lookups(grouped, slot, begun, keys, self._ids, self.lookups_below)
            seen.add_lookups(*asked)
        told = (last >= self.told_since) & (last <= grouped.t.take(grouped.heads)) & (count >= 0)
        seen.used.append(self._contents.used(grouped, slot, told, ended, left, self._ids))
        if self.changes:
            changes = self._contents.changes(grouped, slot, begun, keys, ended, left, self._ids, of_row)
            if changes is not None:
                seen.changes.append(changes)
        self.live_count += len(left.rows) - int(np.count_nonzero(count >= 0))
        self._write_back(grouped, left, slot)

    def _owner_numbers(self, frame: EventFrame, seen: Observations) -> U16 | None:
        """The owner that each number of ``label_of`` names, uint16; None where there are no labels."""
        if self.owners is None or not (frame.labels or self.owners.known):
            return None
        if not self.owners.known:  # until now nobody's blocks were not followed
            seen.owned.append(owned_from_now_on(self._birth[self._live_slots()]))
        return self.owners.numbers(frame)

    def _apply_by_loop(
        self, frame: EventFrame, numbers: U16 | None, runs: "CompiledRuns", seen: Observations
    ) -> None:
        # As in the loop, whatever lies beyond is a store, too: of all that may begin there must be room.
        allocated = frame.blocks.compress((frame.ops == Op.ALLOC) | (frame.ops >= Op.STORE))
        if self._ids is None and len(allocated) and not self._grow_directly(allocated):
            self._index_by_hash()
        if self._ids is not None:
            self._index.make_room(len(allocated), self._ids)
            if self._next + len(allocated) - self._free_count > len(self._rows):
                new = np.unique(allocated.compress(self._index.lookup(allocated, self._ids) < 0))
                self._grow(self._next + len(new) - self._free_count)
        slots = len(self._rows)
        (self.live_count, self._free_count, self._next), inserted = runs.apply(
            frame.ops,
            frame.blocks,
            frame.ts,
            frame.reasons,
            frame.keys,
            frame.label_of,
            numbers,
            rows=self._rows,
            ids=self._ids,
            places=self._index.places,
            bits=self._index.bits,
            factor=self._index.factor,
            free=self._free,
            key_of=self._contents.keys(slots, frame.keys is not None) if self._ids is None else None,
            owner_of=None if numbers is None or self.owners is None else self.owners.by_slot(slots),
            state=(self.live_count, self._free_count, self._next),
            records=self.records,
            changes=self.changes,
            lookups_below=self.lookups_below,
            told_since=self.told_since,
            seen=seen,
        )
        self._index.note_inserted(inserted)

    def _observe_allocations(self, grouped: Grouped, rows: I64, seen: Observations) -> None:
        seen.allocations += len(rows)
        if self._sample_rate < 1.0:
            sampled = self._sampled(grouped.slot.take(rows), grouped.t.take(rows))
            seen.sampled_allocations += int(np.count_nonzero(sampled))
        else:
            seen.sampled_allocations += len(rows)

    def _observe_accesses(
        self, grouped: Grouped, begun: I64, count: I64, interval: I64, seen: Observations
    ) -> tuple[I64, I64]:
        """Returns the rows of reuses after a first, and those of first ones, as far as they are observed."""
        op = grouped.op
        again = np.empty(len(op), dtype=np.bool_)  # accesses of generations that were accessed before
        np.equal(op[:-1], Op.ACCESS, out=again[1:])
        again[grouped.heads] = count > 0
        is_access = op == Op.ACCESS
        again &= is_access
        first = is_access & ~again
        seen.accesses += int(np.count_nonzero(is_access))
        if self._sample_rate < 1.0:
            birth = grouped.carried_on(self._birth[grouped.slot], begun, grouped.t.take(begun))
            chosen = self._sampled(grouped.slot, birth)
            again, first = again & chosen, first & chosen
        rows_again, rows_first = again.nonzero()[0], first.nonzero()[0]
        seen.reuse_gaps.append(interval.take(rows_again))
        seen.first_reuses.append(interval.take(rows_first))
        return rows_again, rows_first

    def _observe_ended(
        self,
        grouped: Grouped,
        ended: Generations,
        interval: I64,
        reasons: U8 | None,
        seen: Observations,
    ) -> Mask | None:
        """Returns which of the ended generations are observed, None for all."""
        rows = ended.rows
        if not len(rows):
            return None
        chosen = None
        lifetime = grouped.t.take(rows) - ended.birth
        seen.time_regressions += int(np.count_nonzero(lifetime < 0))
        np.maximum(lifetime, 0, out=lifetime)
        if reasons is None:
            given = np.zeros(len(rows), dtype=np.uint8)
        else:
            given = reasons.take(grouped.position.take(rows))
        replaced = grouped.op.take(rows) == Op.ALLOC
        seen.replacements += int(np.count_nonzero(replaced))
        unknown = (given >= len(REASONS)) & ~replaced
        seen.unknown_reasons += int(np.count_nonzero(unknown))
        given[unknown] = OTHER
        given[replaced] = REPLACED
        seen.evictions += np.bincount(given, minlength=len(REASONS))
        if self._sample_rate < 1.0:
            chosen = self._sampled(grouped.slot.take(rows), ended.birth)
            lifetime, given, ended = lifetime.compress(chosen), given.compress(chosen), ended.take(chosen)
            rows = ended.rows
        idle = interval.take(rows)
        seen.lifetimes.append(lifetime)
        seen.idles.append(idle)
        seen.access_counts.append(ended.accesses)
        if self.records:
            slot = grouped.slot.take(rows)
            batch = EvictionBatch(
                slot if self._ids is None else self._ids.take(slot),
                grouped.t.take(rows),
                lifetime,
                idle,
                ended.accesses,
                given,
                self._history_of(grouped, ended),
            )
            seen.evicted.append(batch.take(np.argsort(grouped.position.take(rows))))
        return chosen

    def _history_of(self, grouped: Grouped, ended: Generations) -> I64:
        """Last access times of generations that end at a row, shape (m, access_history)."""
        depth = self._depth
        times = np.zeros((len(ended.rows), depth), dtype=np.int64)
        slot = grouped.slot.take(ended.rows)
        for back in range(depth):
            here = back < ended.accesses_here
            times[here, depth - 1 - back] = grouped.t[ended.rows[here] - 1 - back]
            stored = ~here & (back < ended.accesses)
            number = ended.accesses[stored] - 1 - back
            times[stored, depth - 1 - back] = self._times[slot[stored], number & self._mask]
        return times

    def _write_back(self, grouped: Grouped, left: Generations, slot: I64) -> None:
        """Stores the generations that are open after a frame, and which blocks hold none."""
        if len(left.rows) < len(slot):
            self._forget(grouped, slot)
        slot = slot.take(left.group_of)
        self._birth[slot], self._count[slot] = left.birth, left.accesses
        rows, start, number = left.rows, left.start, left.accesses - 1
        for _ in range(self._mask + 1):
            # An allocation stands at place -1 until there are accesses enough to take that, too.
            self._times[slot, number & self._mask] = grouped.t.take(rows)
            more = (rows > start).nonzero()[0]
            if not len(more):
                break
            slot, start = slot.take(more), start.take(more)
            rows, number = rows.take(more) - 1, number.take(more) - 1

    def _forget(self, grouped: Grouped, slot: I64) -> None:
        """Marks the slots whose last event was an eviction as free."""
        gone = slot.compress(grouped.op.take(grouped.tails) == Op.EVICT)
        self._count[gone] = _NOT_LIVE
        if self._ids is not None:
            self._index.remove(self._ids.take(gone), self._ids)
            self._give_back(gone)

    def _sampled(self, slot: I64, birth: I64) -> Mask:
        ids = slot if self._ids is None else self._ids.take(slot)
        return below_rate(generation_hash(self._seed, ids, birth), self._sample_rate)


def _intervals(grouped: Grouped, count: I64, last: I64, seen: Observations) -> I64:
    """Time of each row since the last access (or birth) before it, ns, (n,); never negative.

    0 where the block was not live just before. ``count`` and ``last`` are what the table knows of each
    group, (g,).
    """
    interval = np.empty_like(grouped.t)
    np.subtract(grouped.t[1:], grouped.t[:-1], out=interval[1:])
    interval[grouped.heads] = (grouped.t.take(grouped.heads) - last) * (count >= 0)
    if len(interval) and int(interval.min()) < 0:
        backwards = interval < 0
        backwards[1:] &= (grouped.op[:-1] != Op.EVICT) | (grouped.slot[1:] != grouped.slot[:-1])
        seen.time_regressions += int(np.count_nonzero(backwards))
        np.maximum(interval, 0, out=interval)
    return interval


def _count_unknown(ops: U8, seen: Observations) -> None:
    accesses = int(np.count_nonzero(ops == Op.ACCESS))
    seen.unknown_accesses += accesses
    seen.unknown_evictions += len(ops) - accesses
