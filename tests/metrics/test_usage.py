"""Usage by label set, against a plain account of each."""

from collections import Counter, defaultdict

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.events.types import Labels, Op
from kvstream.testing import ReferenceTable
from tests.reference import ReferenceContents, ReferenceGhosts
from tests.strategies import cuts, fewer, frame, plain_events

LABEL_SETS = [None, Labels(tenant="a"), Labels(tenant="b"), Labels(tenant="a", lora="x"), Labels(lora="y")]


def labelled(events, label_sets):
    """A frame whose allocations and stores have label sets."""
    plain = frame(events)
    labels = [label_set for label_set in LABEL_SETS if label_set is not None]
    numbers = [0 if label_set is None else labels.index(label_set) + 1 for label_set in label_sets]
    return msgspec.structs.replace(plain, labels=tuple(labels), label_of=np.array(numbers, np.uint16))


class ReferenceUsage:
    """One plain table for each label set; a block belongs to the one that allocated it last."""

    def __init__(self):
        self.tables = defaultdict(ReferenceTable)
        self.label_set = {}
        self.since = {}  # when each live block was allocated, or became known
        self.block_ns = Counter()

    def apply(self, op, block, ts, reason, label_set):
        if op == Op.CLEAR:
            for other in self.tables.values():
                self.block_ns_of_cleared(other, ts)
                other.clear()
            self.label_set.clear()
            return
        was_live = block in self.label_set
        if was_live:
            self.apply_to_live(op, block, ts, reason)
        if op == Op.ALLOC or (op in (Op.STORE, Op.PREFIX) and not was_live):
            self.label_set[block], self.since[block] = label_set, ts
            self.tables[label_set].allocate(block, ts)
        elif op in (Op.ACCESS, Op.RESIDENT) and not was_live:
            self.label_set[block], self.since[block] = label_set, ts
            self.tables[label_set].apply(op, block, ts)

    def apply_to_live(self, op, block, ts, reason):
        table = self.tables[self.label_set[block]]
        if op == Op.ALLOC:
            table.remove(block, ts, "replaced")
        else:
            table.apply(op, block, ts, reason)
        if block not in table.live:
            self.block_ns[self.label_set.pop(block)] += ts - self.since[block]

    def block_ns_of_cleared(self, table, ts):
        for block in table.live:
            self.block_ns[self.label_set[block]] += ts - self.since[block]


@given(st.data())
def test_usage_equals_the_plain_account_of_each_owner_however_it_is_cut(data):
    events = data.draw(plain_events())
    label_sets = data.draw(st.lists(st.sampled_from(LABEL_SETS), min_size=len(events), max_size=len(events)))
    monitor, plain = Monitor(), ReferenceUsage()
    parts = [(a, b) for a, b in data.draw(cuts(len(events))) if b > a]
    for a, b in parts:
        monitor.process(labelled(events[a:b], label_sets[a:b]))
    for event, label_set in zip(events, label_sets, strict=True):
        plain.apply(*event, label_set)
    if not events:
        return
    (tier,) = monitor.caches()
    found = {
        labels: usage
        for labels, usage in tier.usage()
        if usage.measurements.allocations or usage.measurements.unknown_births
    }
    assert {o for o, table in plain.tables.items() if table.allocations + table.unknown_births} == set(found)
    now = events[-1][2]
    for label_set, usage in found.items():
        table, seen = plain.tables[label_set], usage.measurements
        assert (seen.allocations, seen.unknown_births, seen.accesses, seen.cleared) == (
            table.allocations,
            table.unknown_births,
            table.accesses,
            table.cleared,
        )
        lifetimes = [e.lifetime for e in table.evicted if e.lifetime is not None]
        idles = [e.idle for e in table.evicted if e.idle is not None]
        assert (usage.live, seen.total_evictions) == (len(table.live), len(table.evicted))
        assert (seen.lifetime.count, seen.lifetime.sum_ns) == (len(lifetimes), sum(lifetimes))
        assert (seen.idle.count, seen.idle.sum_ns) == (len(idles), sum(idles))
        assert (seen.reuse_gap.count, seen.reuse_gap.sum_ns) == (
            len(table.reuse_gaps),
            sum(table.reuse_gaps),
        )
        assert (seen.first_reuse.count, seen.first_reuse.sum_ns) == (
            len(table.first_reuses),
            sum(table.first_reuses),
        )
        assert seen.never_accessed == sum(e.count == 0 for e in table.evicted if e.lifetime is not None)
        assert seen.accessed_once == sum(e.count == 1 for e in table.evicted if e.lifetime is not None)
        held = plain.block_ns[label_set] + sum(now - plain.since[block] for block in table.live)
        assert usage.block_ns == pytest.approx(held, abs=1e-3)


@given(st.data())
def test_what_comes_back_counts_for_whose_blocks_it_is_in(data):
    drawn = data.draw(plain_events())
    events = [(op, 2**50 + block % 5, ts, reason) for op, block, ts, reason in drawn]
    label_sets = data.draw(st.lists(st.sampled_from(LABEL_SETS), min_size=len(events), max_size=len(events)))
    monitor, expected = Monitor(), Counter()
    contents, ghosts = ReferenceContents(keyed=False), ReferenceGhosts(65_536, 10**18)
    for a, b in data.draw(cuts(len(events))):
        if b > a:
            monitor.process(labelled(events[a:b], label_sets[a:b]))
    for (op, block, ts, _), label_set in zip(events, label_sets, strict=True):
        seen, returned = len(contents.changes), len(ghosts.returned)
        contents.apply(op, block, ts, 0)
        for change in contents.changes[seen:]:
            if change is None:
                ghosts.gone.clear()
            else:
                ghosts.apply(*change)
        expected[label_set] += len(ghosts.returned) - returned
    found = {labels: usage.premature for tier in monitor.caches() for labels, usage in tier.usage()}
    assert {label_set: n for label_set, n in found.items() if n} == {
        label_set: n for label_set, n in expected.items() if n
    }


@fewer
@given(st.integers(0, 2**32))
def test_owners_add_up_to_the_whole_on_long_streams(seed):
    rng = np.random.default_rng(seed)
    n = 4000
    events = list(
        zip(
            rng.choice([0, 1, 2, 3, 4], n, p=[0.2, 0.5, 0.189, 0.001, 0.11]).tolist(),
            (rng.integers(0, 300, n) * 7).tolist(),
            (np.cumsum(rng.integers(0, 20, n)) + 10).tolist(),
            ["capacity"] * n,
            strict=True,
        )
    )
    monitor = Monitor()
    for a in range(0, n, 700):
        part = events[a : a + 700]
        monitor.process(labelled(part, [LABEL_SETS[i] for i in rng.integers(0, len(LABEL_SETS), len(part))]))
    summary = monitor.summary()
    for values in summary.labels.values():
        assert sum(usage.allocations for usage in values) == summary.accounts.allocations
        assert sum(usage.blocks_live for usage in values) == summary.blocks_live
        assert sum(usage.accesses for usage in values) == summary.accesses
        assert sum(usage.evictions for usage in values) == summary.total_evictions
        assert sum(usage.lifetime.count for usage in values) == summary.lifetime.count
        assert sum(usage.reuse_gap.count for usage in values) == summary.reuse_gap.count
        assert sum(usage.residency_share for usage in values) == pytest.approx(1.0)
        assert sum(usage.hit_share for usage in values) == pytest.approx(1.0)
    assert [usage.value for usage in summary.labels["lora"]].count(None) == 1


def test_blocks_from_before_the_first_label_are_nobodys():
    monitor = Monitor()
    monitor.process(frame([(0, block, 100, "") for block in range(5)]))
    assert monitor.summary().labels == {}
    monitor.process(labelled([(0, 9, 200, "")], [LABEL_SETS[1]]))
    monitor.process(frame([(2, 0, 300, "capacity"), (1, 9, 300, "")]))
    usage = {of.value: of for of in monitor.summary().labels["tenant"]}
    assert (usage[None].blocks_live, usage[None].evictions, usage[None].allocations) == (4, 1, 5)
    assert (usage["a"].hit_share, usage["a"].residency_share) == (1.0, pytest.approx(100 / 1100))


def test_frames_that_could_have_labels_and_have_none_count_nothing_twice():
    monitor, blocks = Monitor(), frame([(0, block, 100, "") for block in range(5)])
    for _ in range(3):
        monitor.process(msgspec.structs.replace(blocks, label_of=np.zeros(5, np.uint16)))
    assert monitor.summary().labels == {}
    monitor.process(labelled([(0, 9, 200, "")], [LABEL_SETS[1]]))
    usage = {of.value: of for of in monitor.summary().labels["tenant"]}
    assert (usage[None].blocks_live, usage["a"].blocks_live) == (5, 1)


def test_owners_beyond_the_bound_are_other_and_nothing_is_lost():
    monitor = Monitor(MetricsConfig(label_sets=3))
    for i in range(50):
        one = frame([(0, i, 10 + i, ""), (1, i, 20 + i, "")])
        label = (Labels(tenant=f"t{i}"),)
        monitor.process(msgspec.structs.replace(one, labels=label, label_of=np.array([1, 0], np.uint16)))
    usage = {of.value: of for of in monitor.summary().labels["tenant"]}
    assert set(usage) == {"t0", "t1", "t2", "other"}
    assert (usage["other"].allocations, usage["other"].accesses) == (47, 47)
    assert Monitor(MetricsConfig(label_sets=0)).process(one) is not None


def test_sources_with_the_same_label_are_one_in_the_summary_of_all():
    monitor = Monitor()
    for source in ("one", "two"):
        part = labelled([(0, 1, 10, ""), (1, 1, 20, "")], [LABEL_SETS[1], None])
        monitor.process(msgspec.structs.replace(part, source=source))
    (usage,) = monitor.summary().labels["tenant"]
    assert (usage.value, usage.blocks_live, usage.accesses) == ("a", 2, 2)
    assert monitor.summary("one").labels["tenant"][0].blocks_live == 1
