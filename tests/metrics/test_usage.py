"""Whose blocks are held for how long, and of what use: against a plain account of each owner."""

import tracemalloc
from collections import Counter, defaultdict

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.blocks.apply_result import Observations, Owned
from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.events.types import Labels
from kvstream.metrics.usage import UsageByOwner
from kvstream.testing import ReferenceTable
from tests.reference import ReferenceContents, ReferenceGhosts
from tests.strategies import cuts, fewer, frame, plain_events

OWNERS = [None, Labels(tenant="a"), Labels(tenant="b"), Labels(tenant="a", lora="x"), Labels(lora="y")]


def labelled(events, owners):
    """A frame whose allocations and stores have owners."""
    plain = frame(events)
    labels = [owner for owner in OWNERS if owner is not None]
    numbers = [0 if owner is None else labels.index(owner) + 1 for owner in owners]
    return msgspec.structs.replace(plain, labels=tuple(labels), label_of=np.array(numbers, np.uint16))


class ReferenceUsage:
    """One plain table an owner; a block belongs to whoever allocated it last."""

    def __init__(self):
        self.tables = defaultdict(ReferenceTable)
        self.owner = {}
        self.block_ns = Counter()

    def apply(self, op, block, ts, reason, owner):
        held = self.owner.get(block)
        table = self.tables[held]
        if op == 3:
            for other in self.tables.values():
                self.block_ns_of_cleared(other, ts)
                other.clear()
            self.owner.clear()
        elif op == 1 or (op == 4 and block in self.owner):
            if block in self.owner:
                table.access(block, ts)
        elif op == 2:
            if block in self.owner:
                self.block_ns[held] += ts - table.live[block].birth
                table.evict(block, ts, reason)
                del self.owner[block]
        else:
            if block in self.owner:
                self.block_ns[held] += ts - table.live[block].birth
                table.evict(block, ts, "replaced")
            self.owner[block] = owner
            self.tables[owner].allocate(block, ts)

    def block_ns_of_cleared(self, table, ts):
        for block, generation in table.live.items():
            self.block_ns[self.owner[block]] += ts - generation.birth


@given(st.data())
def test_usage_equals_the_plain_account_of_each_owner_however_it_is_cut(data):
    events = data.draw(plain_events())
    owners = data.draw(st.lists(st.sampled_from(OWNERS), min_size=len(events), max_size=len(events)))
    monitor, plain = Monitor(), ReferenceUsage()
    parts = [(a, b) for a, b in data.draw(cuts(len(events))) if b > a]
    for a, b in parts:
        monitor.process(labelled(events[a:b], owners[a:b]))
    for event, owner in zip(events, owners, strict=True):
        plain.apply(*event, owner)
    if not events:
        return
    (tier,) = monitor.tiers()
    found = {labels: usage for labels, usage in tier.usage() if usage.measurements.processed or usage.live}
    assert {o for o, table in plain.tables.items() if table.allocations} == set(found)
    now = events[-1][2]
    for owner, usage in found.items():
        table, seen = plain.tables[owner], usage.measurements
        assert (seen.allocations, seen.accesses, seen.cleared) == (
            table.allocations,
            table.accesses,
            table.cleared,
        )
        assert (usage.live, seen.total_evictions) == (len(table.live), len(table.evicted))
        assert (seen.lifetime.count, seen.lifetime.sum_ns) == (
            len(table.evicted),
            sum(e.lifetime for e in table.evicted),
        )
        assert seen.idle.sum_ns == sum(e.idle for e in table.evicted)
        assert (seen.reuse_gap.count, seen.reuse_gap.sum_ns) == (
            len(table.reuse_gaps),
            sum(table.reuse_gaps),
        )
        assert (seen.first_reuse.count, seen.first_reuse.sum_ns) == (
            len(table.first_reuses),
            sum(table.first_reuses),
        )
        assert seen.never_accessed == sum(e.count == 0 for e in table.evicted)
        assert seen.accessed_once == sum(e.count == 1 for e in table.evicted)
        held = plain.block_ns[owner] + sum(now - g.birth for g in table.live.values())
        assert usage.block_ns == pytest.approx(held, abs=1e-3)


@given(st.data())
def test_what_comes_back_counts_for_whose_blocks_it_is_in(data):
    drawn = data.draw(plain_events())
    events = [(op, 2**50 + block % 5, ts, reason) for op, block, ts, reason in drawn]
    owners = data.draw(st.lists(st.sampled_from(OWNERS), min_size=len(events), max_size=len(events)))
    monitor, expected = Monitor(), Counter()
    contents, ghosts = ReferenceContents(keyed=False), ReferenceGhosts(65_536, 10**18)
    for a, b in data.draw(cuts(len(events))):
        if b > a:
            monitor.process(labelled(events[a:b], owners[a:b]))
    for (op, block, ts, _), owner in zip(events, owners, strict=True):
        seen, returned = len(contents.changes), len(ghosts.returned)
        contents.apply(op, block, ts, 0)
        for change in contents.changes[seen:]:
            if change is None:
                ghosts.gone.clear()
            else:
                ghosts.apply(*change)
        expected[owner] += len(ghosts.returned) - returned
    found = {labels: usage.premature for tier in monitor.tiers() for labels, usage in tier.usage()}
    assert {owner: n for owner, n in found.items() if n} == {owner: n for owner, n in expected.items() if n}


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
        monitor.process(labelled(part, [OWNERS[i] for i in rng.integers(0, len(OWNERS), len(part))]))
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
    monitor.process(labelled([(0, 9, 200, "")], [OWNERS[1]]))
    monitor.process(frame([(2, 0, 300, "capacity"), (1, 9, 300, "")]))
    usage = {of.value: of for of in monitor.summary().labels["tenant"]}
    assert (usage[None].blocks_live, usage[None].evictions, usage[None].allocations) == (4, 1, 5)
    assert (usage["a"].hit_share, usage["a"].residency_share) == (1.0, pytest.approx(100 / 1100))


def test_frames_that_could_have_labels_and_have_none_count_nothing_twice():
    monitor, blocks = Monitor(), frame([(0, block, 100, "") for block in range(5)])
    for _ in range(3):
        monitor.process(msgspec.structs.replace(blocks, label_of=np.zeros(5, np.uint16)))
    assert monitor.summary().labels == {}
    monitor.process(labelled([(0, 9, 200, "")], [OWNERS[1]]))
    usage = {of.value: of for of in monitor.summary().labels["tenant"]}
    assert (usage[None].blocks_live, usage["a"].blocks_live) == (5, 1)


def test_owners_beyond_the_bound_are_other_and_nothing_is_lost():
    monitor = Monitor(MetricsConfig(owners=3))
    for i in range(50):
        one = frame([(0, i, 10 + i, ""), (1, i, 20 + i, "")])
        label = (Labels(tenant=f"t{i}"),)
        monitor.process(msgspec.structs.replace(one, labels=label, label_of=np.array([1, 0], np.uint16)))
    usage = {of.value: of for of in monitor.summary().labels["tenant"]}
    assert set(usage) == {"t0", "t1", "t2", "other"}
    assert (usage["other"].allocations, usage["other"].accesses) == (47, 47)
    assert Monitor(MetricsConfig(owners=0)).process(one) is not None


def test_sources_with_the_same_label_are_one_in_the_summary_of_all():
    monitor = Monitor()
    for source in ("one", "two"):
        part = labelled([(0, 1, 10, ""), (1, 1, 20, "")], [OWNERS[1], None])
        monitor.process(msgspec.structs.replace(part, source=source))
    (usage,) = monitor.summary().labels["tenant"]
    assert (usage.value, usage.blocks_live, usage.accesses) == ("a", 2, 2)
    assert monitor.summary("one").labels["tenant"][0].blocks_live == 1


def test_what_waits_is_bounded_where_blocks_are_only_accessed():
    usage, hits = UsageByOwner(4), 10_000
    tracemalloc.start()
    for _ in range(500):
        owned = Owned(reuse_gaps=np.zeros(hits, np.uint16))
        usage.observe(Observations(accesses=hits, owned=[owned]))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2**20
