"""BlockTable: the blocks of one cache, how a frame of events changes them, and what can be asked of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from kvstream._core.buckets import IntervalCounter
from kvstream._core.build import warn_if_interpreted
from kvstream._core.ids import source_seed
from kvstream._core.native import NOT_LIVE
from kvstream._core.table import Table
from kvstream.blocks.apply_result import ContentChanges, EvictionBatch, LabelledIntervals, Observations
from kvstream.blocks.attribution import LabelSets
from kvstream.blocks.heat_map import MOST_MAPPED, BlockMap, block_map
from kvstream.blocks.label_set_counts import LabelSetCounts
from kvstream.blocks.ranking import NOT_RANKED, highest
from kvstream.blocks.state import BlockMetricsState, HotBlock
from kvstream.events.counters import CacheCounts
from kvstream.events.frame import I64, U16, EventFrame, as_int64, plain_column
from kvstream.events.types import BIRTH_UNKNOWN, MOST_SLOTS, Op

_BIRTH, _COUNT, _TIMES = 0, 1, 2  # columns of a row of the table

_END_OF_TIME = 2**63 - 1  # ns


class BlockTable:
    """Live blocks of one source and tier.

    Ids that are small and dense (slot streams) index the rows directly. Once an id comes that is
    far beyond the number of blocks (content streams), ids are kept in a hash index instead, so that
    memory is bounded by the number of blocks: 65,536 rows, or four for each block.

    Args:
        source: Cache instance, part of the sampling hash.
        tier: Tier, part of the sampling hash.
        access_history: Access times kept of a block.
        sample_rate: Share of generations whose intervals are observed.
        changes: Show which content keys come and go (``Observations.changes``): the block itself in content
            streams, its key in slot streams that have keys.
        label_sets: Label sets that are followed; 0 ignores labels.

    Attributes:
        label_sets: Label set of each block.
        of_label_sets: What became of the blocks of each, once there are labels.
    """

    def __init__(
        self,
        source: str,
        tier: str,
        *,
        access_history: int = 4,
        sample_rate: float = 1.0,
        changes: bool = False,
        label_sets: int = 0,
    ) -> None:
        self.label_sets = LabelSets(label_sets) if label_sets else None
        self._changes = changes
        self.of_label_sets: LabelSetCounts | None = None
        self._depth = access_history
        warn_if_interpreted()
        self._table = Table(access_history, source_seed(source, tier), int(sample_rate * 2**64))

    @property
    def live_count(self) -> int:
        """Return how many blocks are live."""
        return self._table.live_count

    @property
    def by_hash(self) -> bool:
        """Return whether ids are content hashes, not slots."""
        return self._table.by_hash

    @property
    def slots(self) -> int:
        """Return how many blocks there is memory for."""
        return len(self._table.rows_array)

    def apply(
        self,
        frame: EventFrame,
        counter: IntervalCounter | None = None,
        counts: CacheCounts | None = None,
        *,
        records: bool = True,
        lookups_below: int = 0,
        counted_since: int = _END_OF_TIME,
    ) -> Observations:
        """Apply the events in order and return what there was to see.

        Unknown blocks, repeated allocations and times that go backwards are counted, never raised.
        The frame's source, tier and numbers are not looked at.

        Args:
            frame: The events.
            counter: Counts the intervals as long as nothing has labels, instead of showing them.
            counts: What the events are counted in; by default in counts of their own.
            records: Make a record of each eviction (``Observations.evicted``).
            lookups_below: Show the content keys that are allocated and accessed, if their hash is below
                (``Observations.looked_up``); 0 shows none.
            counted_since: Start of the open window, ns: blocks already counted as used since then are
                skipped.
        """
        seen = Observations() if counts is None else Observations(counts=counts)
        if not len(frame):
            return seen
        self._table.begin(
            plain_column(frame.ops),
            plain_column(frame.blocks),
            plain_column(frame.ts),
            None if frame.reasons is None else plain_column(frame.reasons),
            None if frame.keys is None else plain_column(frame.keys),
            None if frame.label_of is None else plain_column(frame.label_of),
            self._label_sets(frame),
            None if self.of_label_sets is None else self.of_label_sets.rows,
            records,
            self._changes,
            lookups_below,
            counted_since,
            None if self.label_sets is None else self.label_sets.salts,
        )
        at, end = 0, len(frame.ops)
        while True:
            at, columns, has_unknown = self._table.apply(at, seen, counter)
            if columns:
                self._add(columns, seen, has_unknown)
            if at < end and frame.ops[at] == Op.CLEAR:
                self.clear(seen, int(frame.ts[at]))
                others = frame.ops[at:] != Op.CLEAR
                clears = int(others.argmax()) if others.any() else len(others)
                seen.clears += clears
                seen.counts.clears += clears
                at += clears
            if at == end:
                return seen

    def _label_sets(self, frame: EventFrame) -> U16 | None:
        """Return the number of each of a frame's label sets, uint16; None where nothing ever had labels."""
        if self.label_sets is None or not (frame.labels or self.of_label_sets):
            return None
        if self.of_label_sets is None:
            rows = self._table.rows_array[self._table.live_slots()]
            is_late = rows[:, _BIRTH] == BIRTH_UNKNOWN
            self.of_label_sets = LabelSetCounts(self.label_sets.most)
            since = np.where(is_late, _last_uses(rows), rows[:, _BIRTH])
            self.of_label_sets.begin(since, int(np.count_nonzero(is_late)))
        return self.label_sets.numbers(frame)

    def _add(self, taken: dict[str, npt.NDArray[Any]], seen: Observations, has_unknown: bool) -> None:
        """Add the columns that the core showed of some events, as records.

        Args:
            taken: The columns, by name.
            seen: What they are added to.
            has_unknown: Whether births of some evicted blocks are unknown: what was since is in no
                distribution.
        """
        if "history" in taken:
            seen.evicted.append(
                EvictionBatch(
                    taken["evicted_block"],
                    taken["evicted_ts"],
                    taken["lifetime"],
                    taken["idle"],
                    taken["access_count"],
                    taken["evicted_reason"],
                    taken["history"],
                )
            )
        lifetimes_of = idles_of = taken.get("evicted_of")
        if "lifetime" in taken:
            lifetimes, idles = taken["lifetime"], taken["idle"]
            if has_unknown:
                born, used = lifetimes >= 0, idles >= 0
                lifetimes, idles = lifetimes[born], idles[used]
                if idles_of is not None:
                    lifetimes_of, idles_of = idles_of[born], idles_of[used]
            seen.lifetimes.append(lifetimes)
            seen.idles.append(idles)
        if lifetimes_of is not None and idles_of is not None:
            seen.labelled.append(
                LabelledIntervals(
                    lifetimes=lifetimes_of,
                    idles=idles_of,
                    first_reuses=taken["first_of"],
                    reuse_gaps=taken["gap_of"],
                )
            )
        if "change_key" in taken:
            seen.changes.append(
                ContentChanges(
                    taken["change_key"],
                    taken["change_ts"],
                    taken["change_begins"].view(np.bool_),
                    taken.get("change_of"),
                )
            )

    def clear(self, seen: Observations, ts: int) -> None:
        """End every generation with reason ``cleared``, at a time in ns."""
        if self._changes:
            seen.changes.append(ts)
        if not self.live_count:
            return
        if self.of_label_sets is not None:
            self.of_label_sets.clear(self._attribution(self._table.live_slots()), ts)
        seen.counts.cleared += self.live_count
        self._table.clear()

    def count_returns(self, label_sets: U16) -> None:
        """Count premature evictions, by label set of the blocks that hold the content now, uint16 (m,)."""
        if self.of_label_sets is not None:
            self.of_label_sets.count_returns(label_sets)

    def save(self) -> dict[str, Any]:
        """Return the live blocks in order of slot, and the rest of the state.

        Rows that hold nothing are left out, so that blocks of content streams get other slots.
        """
        table = self._table
        slots = table.live_slots()
        has_keys = len(table.keys_array) and not table.by_hash
        return {
            "label_sets": None if self.label_sets is None else self.label_sets.save(),
            "by_hash": table.by_hash,
            "slots": self.slots,
            "blocks": table.ids_array[slots] if table.by_hash else slots,
            "rows": partial(_rows_by_time, table.rows_array[slots]),
            "keys": table.keys_array[slots] if has_keys else None,
            "attribution": self._attribution(slots) if len(table.attribution_array) else None,
            "of_label_sets": self._label_set_counts(),
            "copies": table.copies_array[slots] if len(table.copies_array) else None,
        }

    def _label_set_counts(self) -> I64 | None:
        """Return the counts of each label set that has a number, however many there can be."""
        if self.label_sets is None or self.of_label_sets is None:
            return None
        return self.of_label_sets.save(len(self.label_sets.labels))

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved; in a new table."""
        attribution = None
        if self.label_sets is not None and saved["label_sets"] is not None:
            self.label_sets.restore(saved["label_sets"])
            attribution = saved["attribution"]
            if attribution is not None:
                if attribution.max(initial=0) >= len(self.label_sets.labels):
                    raise ValueError(f"label sets beyond {len(self.label_sets.labels)}")
                self.of_label_sets = LabelSetCounts(self.label_sets.most)
                self.of_label_sets.restore(saved["of_label_sets"])
        rows = saved["rows"]
        births, *times = np.cumsum(rows["steps"])[rows["times"]]
        self._table.restore(
            saved["by_hash"],
            saved["slots"],
            saved["blocks"],
            np.column_stack([births, rows["counts"], *times]),
            saved["keys"],
            attribution,
            saved["copies"],
        )

    def _attribution(self, slots: I64) -> U16:
        """Return the number of the label set of some live slots, uint16."""
        attribution = self._table.attribution_array
        return attribution.take(slots) if len(attribution) else np.zeros(len(slots), dtype=np.uint16)

    def holds(self, ids: I64) -> npt.NDArray[np.bool_]:
        """Return whether each block is live, bool (n,)."""
        live: npt.NDArray[np.bool_] = self._table.slots_of(plain_column(ids)) >= 0
        return live

    def contents(self) -> tuple[I64, I64]:
        """Return the content keys of the live blocks that have one, and their births, ns, int64 (n,)."""
        slots = self._table.live_slots()
        if self.by_hash:
            keys = self._table.ids_array[slots]
            known = (keys < 0) | (keys >= MOST_SLOTS)
        elif len(self._table.keys_array):
            keys = self._table.keys_array[slots]
            known = keys != 0
        else:
            return slots[:0], slots[:0]
        return keys[known], self._table.rows_array[slots[known], _BIRTH]

    def block(self, block: int) -> BlockMetricsState | None:
        """Return what is known of one live block; None if it is not live."""
        slot = int(self._table.slots_of(as_int64([block]))[0])
        return self._state(slot) if slot >= 0 else None

    def live_blocks(self) -> list[BlockMetricsState]:
        """Return every live block, in order of slot."""
        return [self._state(slot) for slot in self._table.live_slots().tolist()]

    def hottest(self, n: int, now_ns: int) -> list[HotBlock]:
        """Return the live blocks that have been accessed most."""
        return self._first(n, lambda rows: rows[:, _COUNT], now_ns)

    def longest_held(self, n: int, now_ns: int) -> list[HotBlock]:
        """Return the live blocks that have been held for the longest time."""

        def held(rows: I64) -> I64:
            # A clock that was set back makes the time of what is live negative.
            born = (rows[:, _COUNT] >= 0) & (rows[:, _BIRTH] != BIRTH_UNKNOWN)
            return np.where(born, now_ns - rows[:, _BIRTH], NOT_RANKED)

        return self._first(n, held, now_ns)

    def block_map(self, now_ns: int) -> BlockMap:
        """Return the live blocks by age and accesses."""
        every = max(1, self.slots // MOST_MAPPED)
        rows = self._table.rows_array[::every]
        born = rows[:, _BIRTH] != BIRTH_UNKNOWN
        return block_map(now_ns - rows[:, _BIRTH], np.where(born, rows[:, _COUNT], NOT_LIVE), every)

    def _first(self, n: int, rank: Callable[[I64], I64], now_ns: int) -> list[HotBlock]:
        """Return the live blocks of the highest rank, highest first."""
        n = min(n, self.live_count)
        chosen = highest(self._table.rows_array, rank, n) if n else np.empty(0, dtype=np.int64)
        labels = self.label_sets.labels if self.label_sets is not None else [None]
        blocks = []
        for slot, label_set in zip(chosen.tolist(), self._attribution(chosen).tolist(), strict=True):
            state = self._state(slot)
            blocks.append(
                HotBlock(
                    block_id=state.block_id,
                    accesses=state.access_count,
                    held_seconds=state.get_lifetime_seconds(now_ns),
                    idle_seconds=state.get_idle_time_seconds(now_ns),
                    labels=labels[label_set],
                )
            )
        return blocks

    def _state(self, slot: int) -> BlockMetricsState:
        birth, count, *ring = self._table.rows_array[slot].tolist()
        times = [ring[i % len(ring)] for i in range(max(0, count - self._depth), count)]
        block = int(self._table.ids_array[slot]) if self.by_hash else slot
        known_birth = None if birth == BIRTH_UNKNOWN else birth
        return BlockMetricsState(block, known_birth, count, times, self._depth)


def _last_uses(rows: I64) -> I64:
    """Return when blocks were used last, or else known first, by their rows, ns, int64 (n,)."""
    width = rows.shape[1] - _TIMES
    uses: I64 = rows[np.arange(len(rows)), _TIMES + (rows[:, _COUNT] - 1) % width]
    return uses


def _rows_by_time(rows: I64) -> dict[str, npt.NDArray[Any]]:
    """Return rows of live blocks with each different time once.

    Engines work in steps, so that many blocks share a time.

    Args:
        rows: The rows, int64 (n, 2 + times).

    Returns:
        ``counts``, int64 (n,); ``steps`` from 0 by each different time in order; and ``times``, uint32
        (1 + times, n): how many steps each birth and access time is from the first one.
    """
    counts = np.ascontiguousarray(rows[:, _COUNT])
    times = rows[:, [_BIRTH, *range(_TIMES, rows.shape[1])]].T
    known = np.arange(-1, len(times) - 1)[:, np.newaxis] < counts  # others are of generations before
    known[-1] |= counts == 0  # since when they are known
    flat = np.where(known, times, times[0]).reshape(-1)
    order = flat.argsort()
    steps = np.diff(flat[order], prepend=0)
    is_step = steps != 0
    is_step[:1] = False
    places = np.empty(len(flat), dtype=np.uint32)
    places[order] = is_step.astype(np.uint32).cumsum(dtype=np.uint32)  # to sum bool would keep the GIL
    is_step[:1] = True
    return {"counts": counts, "steps": steps[is_step], "times": places.reshape(times.shape)}
