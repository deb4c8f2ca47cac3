"""Random frames for the block table: ``python -m tests._core.fuzz_table [EVENTS] [SEED]``.

What the table shows goes on to what follows it: premature evictions, the LRU stack, histograms. Every event
must be counted once, and every frame that is wrong refused. The frames of two tables in three are small and
applied to the plain twins too, which must see the same.
"""

import sys
from dataclasses import dataclass

import numpy as np

from kvstream._core.reuse import EvictionMemory, LruStack
from kvstream.blocks.apply_result import joined
from kvstream.blocks.table import BlockTable
from kvstream.events.frame import EventFrame
from kvstream.events.types import REASON_CODE, REASONS, REPLACED, Labels, Op
from kvstream.metrics.buckets import buckets
from kvstream.metrics.histogram import ClassicHistogram, ExponentialHistogram
from kvstream.metrics.histogram_rows import HistogramRows
from kvstream.metrics.working_set import DistinctCounter
from kvstream.testing import ReferenceTable
from tests.reference import ReferenceGhosts, ReferenceStack
from tests.strategies import unaligned

LOWEST, HIGHEST = -(2**63), 2**63 - 1
EDGES = np.array(
    [
        *(0, 1, 2, 1_023, 1_024, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62),
        *(-1, -2, -(2**31), -(2**32), HIGHEST, HIGHEST - 1, LOWEST, LOWEST + 1),
    ]
)
LONGEST_FRAME = 40_000
LONGEST_CHECKED = 2_000
LABELS = tuple(Labels(tenant=f"tenant-{number}") for number in range(5))
COUNTS = (
    *("allocations", "accesses", "unknown_accesses", "unknown_evictions", "clears", "cleared"),
    *("published_hits", "copies_stored", "copies_removed", "residents"),
)
UNCOUNTED = {"cleared", "published_hits"}  # beside the events that are counted otherwise


class Stream:
    """Draws frames whose ids, times and operations are each of one kind."""

    def __init__(self, rng):
        self.rng = rng
        self.ids = rng.choice(["slots", "strided", "far", "hashes", "edges", "slots and edges"])
        self.times = rng.choice(["on", "back and forth", "any", "edges"])
        self.known = rng.dirichlet([1] * 7)  # shares of operations other than CLEAR
        self.clears, self.any = rng.choice([0, 0.0005, 0.02]), rng.choice([0, 0.001, 0.5])  # shares of others
        self.few = int(rng.choice([3, 50, 2_000, 30_000]))
        self.hashes = rng.integers(LOWEST, HIGHEST, self.few, endpoint=True)
        self.keys = np.concatenate([EDGES, rng.integers(LOWEST, HIGHEST, 30)])
        self.now = int(rng.choice([0, 10**18, HIGHEST - 10**6]))

    def frame(self, n):
        """Return a frame of n events, and what is wrong with it, if anything is."""
        rng = self.rng
        columns = {"ops": self._ops(n), "blocks": self._blocks(n), "ts": self._ts(n)}
        if rng.random() < 0.8:
            columns["reasons"] = rng.integers(0, rng.choice([8, 256]), n).astype(np.uint8)
        if rng.random() < 0.5:
            columns["keys"] = rng.choice(self.keys, n)
        labels, wrong = (), None
        if rng.random() < 0.5:
            labels = LABELS[: rng.integers(0, len(LABELS) + 1)]
            of = rng.integers(0, len(labels) + 1, n)
            if rng.random() < 0.1:
                of[rng.integers(0, n)] = rng.choice([len(labels) + 1, 255, 2**16 - 1])
                wrong = "label"
            columns["label_of"] = of.astype(np.uint16)
        if n > 1 and rng.random() < 0.02:
            name = rng.choice(list(columns))
            columns[name] = columns[name][:-1]
            wrong = "length"
        columns = {name: self._as_it_may_come(column) for name, column in columns.items()}
        return EventFrame(**columns, labels=labels), wrong

    def _ops(self, n):
        known = [Op.ALLOC, Op.ACCESS, Op.EVICT, Op.STORE, Op.PREFIX, Op.REMOVE, Op.RESIDENT]
        ops = self.rng.choice(known, n, p=self.known).astype(np.uint8)
        ops[self.rng.random(n) < self.clears] = Op.CLEAR
        is_any = self.rng.random(n) < self.any
        ops[is_any] = self.rng.integers(0, 256, int(is_any.sum()))
        return ops

    def _blocks(self, n):
        few = self.rng.integers(0, self.few, n)
        if self.ids == "slots":
            return few
        if self.ids == "strided":
            return few * 37
        if self.ids == "far":
            return (2.0 ** self.rng.uniform(0, 24, n)).astype(np.int64) - 1
        if self.ids == "hashes":
            return self.hashes[few]
        share = 1 if self.ids == "edges" else 0.001
        return np.where(self.rng.random(n) < share, self.rng.choice(EDGES, n), few)

    def _ts(self, n):
        if self.times == "any":
            return self.rng.integers(LOWEST, HIGHEST, n, endpoint=True)
        if self.times == "edges":
            return self.rng.choice(EDGES, n)
        steps = self.rng.integers(0 if self.times == "on" else -50, 50, n)
        times = np.minimum(np.cumsum(steps), HIGHEST - max(0, self.now)) + self.now
        self.now = int(times[-1])
        return times

    def _as_it_may_come(self, column):
        """Return a column that is, now and then, not aligned, not contiguous, or not to be written to."""
        form = self.rng.integers(0, 6)
        if form == 0:
            return unaligned(column)
        if form == 1:
            return np.repeat(column, 2)[::2]
        if form == 2:
            column.flags.writeable = False
        return column


@dataclass
class Twins:
    """What must see the same, one event at a time."""

    table: ReferenceTable
    premature: ReferenceGhosts
    stack: ReferenceStack


class Fuzz:
    """A table and what follows it.

    Args:
        rng: Draws everything.
        is_checked: Apply the frames to the plain twins too.

    Attributes:
        applied: Events applied.
    """

    def __init__(self, rng, is_checked):
        self.rng, self.stream = rng, Stream(rng)
        depth, most = int(rng.integers(1, 10)), int(rng.choice([1, 7, 1_500, 10**9]))
        longest_ns, self.furthest = int(rng.choice([0, 40, HIGHEST])), int(rng.choice([1, 20, 10**9]))
        self.table = BlockTable(
            "source",
            "gpu",
            access_history=depth,
            sample_rate=1.0 if is_checked else float(rng.choice([1.0, 0.3, 0.0])),
            changes=bool(rng.random() < 0.8),
            label_sets=int(rng.choice([0, 2, 8])),
        )
        self.records = is_checked or bool(rng.random() < 0.5)
        self.lookups_below = int(rng.choice([0, 2**47, 2**62])) * 4
        self.premature = EvictionMemory(most, longest_ns)
        self.stack = LruStack()
        self.twins = None
        if is_checked:
            self.twins = Twins(ReferenceTable(depth), ReferenceGhosts(most, longest_ns), ReferenceStack())
        self.longest = LONGEST_CHECKED if is_checked else LONGEST_FRAME
        self.rows, self.classic, self.distinct = HistogramRows(4), ClassicHistogram(), DistinctCounter()
        self.applied = self.replacements = 0
        self.counts = dict.fromkeys(
            (*COUNTS, "unknown_births", "unknown_lifetimes", "time_regressions", "unknown_reasons"), 0
        )
        self.evictions = np.zeros(len(REASONS), np.int64)

    def run(self, frames):
        for _ in range(frames):
            self.step(int(2 ** self.rng.uniform(0, np.log2(self.longest + 1))))
        if self.twins:
            live = {
                b.block_id: (b.birth_ns, b.access_count, b.access_times_ns) for b in self.table.live_blocks()
            }
            assert live == {
                block: (generation.birth, generation.count, generation.times)
                for block, generation in self.twins.table.live.items()
            }

    def step(self, n):
        """Apply a frame of n events."""
        frame, wrong = self.stream.frame(n)
        counted_since = int(self.rng.choice([HIGHEST, 0, int(frame.ts[0])]))
        try:
            seen = self.table.apply(
                frame,
                records=self.records,
                lookups_below=self.lookups_below,
                counted_since=counted_since,
            )
        except (ValueError, IndexError):
            assert wrong
            return  # nothing is applied then
        label_sets = self.table.label_sets
        assert not wrong or (wrong == "label" and (label_sets is None or not label_sets.known))
        self.applied += n
        self.replacements += seen.counts.replacements
        self.evictions += seen.counts.evictions
        for name in self.counts:
            self.counts[name] += getattr(seen.counts, name)
        self.check_accounts()
        held = self.table.holds(frame.blocks)
        if self.twins:
            self.check_table(frame, seen)
            assert held.tolist() == [block in self.twins.table.live for block in frame.blocks.tolist()]
        self.count_intervals(seen)
        for used in seen.used:
            self.distinct.add(used)
        for change in seen.changes:
            self.come_and_go(change)
        for keys in seen.looked_up:
            self.look_up(keys)

    def check_accounts(self):
        """Check that every event is counted once, and that every generation is live or has ended."""
        counts, ended = self.counts, int(self.evictions.sum())
        counted = sum(counts[name] for name in COUNTS if name not in UNCOUNTED)
        by_event = counted + ended - self.replacements
        assert by_event == self.applied, (by_event, self.applied)
        begun = counts["allocations"] + counts["unknown_births"]
        assert begun == self.table.live_count + ended + counts["cleared"]
        assert self.replacements <= self.evictions[REPLACED]

    def check_table(self, frame, seen):
        """Check that the plain twin sees the same of a frame."""
        plain = self.twins.table
        for found in (plain.evicted, plain.reuse_gaps, plain.first_reuses):
            found.clear()
        codes = [0] * len(frame) if frame.reasons is None else frame.reasons.tolist()
        for op, block, ts, code in zip(
            frame.ops.tolist(), frame.blocks.tolist(), frame.ts.tolist(), codes, strict=True
        ):
            plain.apply(op, block, ts, REASONS[code] if code < len(REASONS) else "unknown")
        for name, count in self.counts.items():
            assert count == getattr(plain, name), name
        assert dict(zip(REASONS, self.evictions.tolist(), strict=True)) == plain.evictions
        assert joined(seen.reuse_gaps).tolist() == plain.reuse_gaps
        assert joined(seen.first_reuses).tolist() == plain.first_reuses
        records = [
            row
            for batch in seen.evicted
            for row in zip(
                *(column.tolist() for column in (batch.blocks, batch.ts, batch.lifetimes, batch.idles)),
                *(column.tolist() for column in (batch.access_counts, batch.reasons)),
                strict=True,
            )
        ]
        assert records == [
            (
                e.block,
                e.ts,
                *(-1 if ns is None else ns for ns in (e.lifetime, e.idle)),
                e.count,
                REASON_CODE[e.reason],
            )
            for e in plain.evicted
        ]

    def count_intervals(self, seen):
        """Count what was seen by bucket, of all together and of each label set."""
        for name in ("lifetimes", "idles", "first_reuses", "reuse_gaps"):
            values = joined(getattr(seen, name))
            if not len(values):
                continue
            expected = (sum(values.tolist()), int(values.min()), int(values.max()))
            made = ExponentialHistogram()
            buckets(made.scale).core.count(values, made, self.classic.counts)
            assert (made.sum_ns, made.min_ns, made.max_ns) == expected
            assert made.zero_count + int(made.counts.sum()) == len(values)
            if len(self.table._table.attribution_array):
                of = np.concatenate([getattr(events, name) for events in seen.labelled])
                by_row = self.rows.record(of, values)
                assert (by_row.sum_ns, by_row.min_ns, by_row.max_ns) == expected
                assert int(by_row.counts.sum()) == len(of) == len(values)

    def come_and_go(self, change):
        """Take in content keys that came and went, or a clear."""
        if isinstance(change, int):
            self.premature.clear()
            if self.twins:
                self.twins.premature.gone.clear()
            return
        begins = change.begins.view(np.uint8)
        passed, distances, rows = self.premature.apply(change.content, change.ts, begins)
        assert change.begins[rows].all()
        assert (passed >= 0).all()
        assert (distances > 0).all()
        if self.twins:
            plain = self.twins.premature
            plain.returned.clear()
            # The earliest time of all is taken as the next one.
            ts = np.maximum(change.ts, LOWEST + 1)
            for row in zip(change.content.tolist(), ts.tolist(), change.begins.tolist(), strict=True):
                plain.apply(*row)
            assert list(zip(passed.tolist(), distances.tolist(), strict=True)) == plain.returned

    def look_up(self, keys):
        """Take in lookups; where there is no room for more keys, forget every other."""
        while len(keys):
            room = int(self.rng.choice([2, 30, 10**9]))
            taken, distances = self.stack.access(keys, room, self.furthest)
            assert (distances >= 0).all()
            which = np.arange(self.stack.held) % 2 == 0
            forgotten = self.stack.keys()[~which].tolist() if self.stack.held > room else []
            if self.twins:
                plain = self.twins.stack
                plain.others.clear()
                for key in keys[:taken].tolist():
                    plain.access(key, self.furthest)
                assert distances.tolist() == plain.others
                assert self.stack.keys().tolist() == plain.stack
                for key in forgotten:
                    plain.forget(key)
            if forgotten:
                self.stack.keep(which)
            keys = keys[taken:]


def main():
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rng = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    applied = {False: 0, True: 0}  # by whether the twins saw them too
    while sum(applied.values()) < events:
        for is_checked, frames in ((True, 40), (True, 40), (False, 8)):
            fuzz = Fuzz(rng, is_checked)
            fuzz.run(frames)
            applied[is_checked] += fuzz.applied
    print(f"{sum(applied.values()):,} events, {applied[True]:,} of them checked one by one")


if __name__ == "__main__":
    main()
