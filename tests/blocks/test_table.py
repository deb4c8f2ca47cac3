import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream._core.ids import are_below
from kvstream._core.table import mix
from kvstream.blocks.apply_result import Observations, joined
from kvstream.blocks.table import BlockTable
from kvstream.events.frame import EventFrame, as_int64
from kvstream.events.types import EVENT_TYPES, REASONS, Labels
from kvstream.testing import ReferenceTable
from tests.reference import ReferenceContents
from tests.strategies import cuts, fewer, frame, plain_events, unaligned

COUNTS = (
    "allocations",
    "accesses",
    "unknown_accesses",
    "unknown_evictions",
    "time_regressions",
    "unknown_reasons",
    "clears",
    "cleared",
    "published_hits",
    "residents",
    "unknown_births",
    "unknown_lifetimes",
    "copies_stored",
    "copies_removed",
)


def apply_plain(table: ReferenceTable, events):
    for event in events:
        table.apply(*event)


def in_seconds(ns):
    return None if ns is None else ns / 1e9


def assert_same(seen: list[Observations], table: BlockTable, plain: ReferenceTable):
    for name in COUNTS:
        assert sum(getattr(s.counts, name) for s in seen) == getattr(plain, name), name
    by_reason = sum((s.counts.evictions for s in seen), np.zeros(len(REASONS), np.int64))
    assert dict(zip(REASONS, by_reason.tolist(), strict=True)) == plain.evictions
    for name in ("reuse_gaps", "first_reuses"):
        found = np.concatenate([joined(getattr(s, name)) for s in seen]) if seen else np.empty(0)
        assert sorted(found.tolist()) == sorted(getattr(plain, name)), name
    records = [e for s in seen for batch in s.evicted for e in batch.to_events("s", "gpu")]
    assert [
        (e.block_id, e.lifetime_seconds, e.idle_seconds, e.access_count, e.reason, e.reuse_gaps_seconds)
        for e in records
    ] == [
        (e.block, in_seconds(e.lifetime), in_seconds(e.idle), e.count, e.reason, [g / 1e9 for g in e.gaps])
        for e in plain.evicted
    ]
    assert [e.timestamp for e in records] == [e.ts / 1e9 for e in plain.evicted]
    lifetimes = [x for s in seen for x in joined(s.lifetimes).tolist()]
    assert sorted(lifetimes) == sorted(e.lifetime for e in plain.evicted if e.lifetime is not None)
    idles = [x for s in seen for x in joined(s.idles).tolist()]
    assert sorted(idles) == sorted(e.idle for e in plain.evicted if e.idle is not None)
    accesses = [e.count for e in plain.evicted if e.lifetime is not None]
    assert sum(s.counts.never_accessed for s in seen) == accesses.count(0)
    assert sum(s.counts.accessed_once for s in seen) == accesses.count(1)
    assert sum(s.counts.access_total for s in seen) == sum(accesses)
    live = {b.block_id: (b.birth_ns, b.access_count, b.access_times_ns) for b in table.live_blocks()}
    assert live == {k: (g.birth, g.count, g.times) for k, g in plain.live.items()}
    assert table.live_count == len(plain.live)
    ended = sum(plain.evictions.values()) + plain.cleared
    assert plain.allocations + plain.unknown_births == len(plain.live) + ended


@given(st.data())
def test_table_equals_the_plain_twin_however_the_stream_is_cut(data):
    events = data.draw(plain_events())
    table, plain = BlockTable("s", "gpu"), ReferenceTable()
    seen = [table.apply(frame(events[a:b])) for a, b in data.draw(cuts(len(events)))]
    apply_plain(plain, events)
    assert_same(seen, table, plain)


@fewer
@given(st.integers(0, 2**32), st.booleans())
def test_table_equals_the_plain_twin_on_long_busy_streams(seed, content):
    rng = np.random.default_rng(seed)
    n, ids = 3000, 400
    universe = rng.integers(-(2**63), 2**63 - 1, ids) if content else np.arange(ids) * 7
    events = list(
        zip(
            rng.choice(8, n, p=[0.1, 0.5, 0.179, 0.001, 0.08, 0.1, 0.02, 0.02]).tolist(),
            universe[rng.integers(0, ids, n)].tolist(),
            (np.cumsum(rng.integers(0, 20, n)) - rng.integers(0, 3, n) + 10).tolist(),
            rng.choice(REASONS, n).tolist(),
            strict=True,
        )
    )
    table, plain = BlockTable("s", "gpu"), ReferenceTable()
    edges = [0, *sorted(rng.integers(0, n, 5).tolist()), n]
    seen = [table.apply(frame(events[a:b])) for a, b in itertools.pairwise(edges)]
    apply_plain(plain, events)
    assert_same(seen, table, plain)


def test_a_frame_of_a_million_clears_does_not_sweep_the_table_each_time():
    table = BlockTable("s", "gpu")
    table.apply(frame([(0, block, 1, "") for block in range(100_000)]))
    n = 1_000_000
    clears = EventFrame(np.full(n, 3, np.uint8), np.zeros(n, np.int64), np.arange(n))
    seen = table.apply(clears)
    assert (seen.clears, seen.counts.cleared, table.live_count) == (n, 100_000, 0)


@pytest.mark.parametrize("factor", [1, 2**40 + 1])
@pytest.mark.parametrize("label_sets", [0, 8])
def test_a_clear_looks_at_no_more_slots_than_were_used_since_the_last(factor, label_sets):
    table = BlockTable("s", "gpu", changes=True, label_sets=label_sets)
    labelled = (
        {"labels": (Labels(tenant="a"),), "label_of": np.ones(100_000, np.uint16)} if label_sets else {}
    )
    ids = np.arange(100_000) * factor
    table.apply(EventFrame(np.zeros(100_000, np.uint8), ids, np.ones(100_000, np.int64), **labelled))
    cleared = table.apply(frame([(3, 0, 2, "")])).counts.cleared
    for i in range(50):
        events = [(0, (99_000 - block) * factor, 3 + i, "") for block in range(i % 5 + 1)]
        cleared += table.apply(
            frame([*events, (2, 99_000 * factor, 3 + i, ""), (3, 0, 4 + i, "")])
        ).counts.cleared
    assert cleared == 100_000 + sum(i % 5 for i in range(50))
    assert table.live_blocks() == []


def test_slots_far_apart_take_memory_in_proportion_to_the_blocks():
    table = BlockTable("s", "gpu")
    rng = np.random.default_rng(1)
    for part in np.array_split(rng.permutation(200_000) * 15, 20):
        table.apply(EventFrame(np.zeros(len(part), np.uint8), part, np.ones(len(part), np.int64)))
        assert table.slots <= max(65_536, 4 * table.live_count)
    assert (table.live_count, table.by_hash) == (200_000, True)
    assert table.block(15) is not None


def test_slots_that_come_one_after_another_are_their_own_places():
    table = BlockTable("s", "gpu")
    for part in np.array_split(np.arange(300_000), 60):
        table.apply(EventFrame(np.zeros(len(part), np.uint8), part, np.ones(len(part), np.int64)))
    assert not table.by_hash
    assert table.slots < 2 * 300_000


def test_a_frame_whose_columns_are_not_aligned_equals_one_whose_are():
    events = [(0, 5, 10, ""), (1, 5, 12, ""), (0, 9, 13, ""), (2, 9, 20, "expired"), (4, 2**40, 21, "")]
    plain = frame(events)
    columns = {name: unaligned(getattr(plain, name)) for name in ("ops", "blocks", "ts", "reasons")}
    moved = msgspec.structs.replace(plain, **columns)
    assert not moved.blocks.flags.aligned
    table, twin = BlockTable("s", "gpu"), ReferenceTable()
    seen = [table.apply(moved)]
    apply_plain(twin, events)
    assert_same(seen, table, twin)
    assert table.holds(moved.blocks).tolist() == [True, True, False, False, True]
    assert mix(moved.blocks).tolist() == mix(plain.blocks).tolist()


@pytest.mark.parametrize("op", [len(EVENT_TYPES), 77, 255])
def test_an_unknown_operation_is_a_store(op):
    table = BlockTable("s", "gpu", changes=True)
    for blocks in (np.arange(5_000) * 3, np.arange(5_000) * 2**33):
        table.apply(EventFrame(np.full(5_000, op, np.uint8), blocks, np.ones(5_000, np.int64)))
    assert table.live_count == 9_999


@pytest.mark.parametrize("block", [5, 2**64 - 1])
def test_a_live_block_is_seen_as_one_state_and_a_dead_one_as_none(block):
    table = BlockTable("s", "gpu")
    stored = block if block < 2**63 else block - 2**64
    table.apply(frame([(0, stored, 10, ""), *((1, stored, 20 + i, "") for i in range(6)), (0, 7, 11, "")]))
    state = table.block(block)
    assert (state.block_id, state.birth_ns, state.access_count) == (stored, 10, 6)
    assert state.access_times_ns == [22, 23, 24, 25]
    assert state.get_idle_time_seconds(1_000_000_025) == 1.0
    table.apply(frame([(2, stored, 30, "capacity")]))
    assert table.block(block) is None
    assert table.block(12_345) is None


@given(plain_events(), st.integers(0, 15))
def test_the_first_blocks_are_those_of_most_accesses_and_of_longest_time(events, most):
    table, plain = BlockTable("s", "gpu"), ReferenceTable()
    table.apply(frame(events))
    apply_plain(plain, events)
    now = 10_000
    hottest, held = table.hottest(most, now), table.longest_held(most, now)
    counts = sorted((g.count for g in plain.live.values()), reverse=True)
    births = [g.birth for g in plain.live.values() if g.birth is not None]
    times = sorted(((now - birth) / 1e9 for birth in births), reverse=True)
    assert [b.accesses for b in hottest] == counts[:most]
    assert [b.held_seconds for b in held] == times[:most]
    for block in hottest + held:
        generation = plain.live[block.block_id]
        assert (block.accesses, block.held_seconds, block.idle_seconds) == (
            generation.count,
            None if generation.birth is None else (now - generation.birth) / 1e9,
            None if generation.last_use is None else (now - generation.last_use) / 1e9,
        )


def without_repeated_clears(changes):
    """Changes with one None for clears that follow each other."""
    return [change for n, change in enumerate(changes) if change is not None or changes[n - 1 : n] != [None]]


@given(st.data(), st.booleans(), st.sampled_from([2**64, 2**63, 2**47]))
def test_content_comes_and_goes_as_in_the_plain_twin(data, keyed, below):
    events = data.draw(plain_events())
    if not keyed:  # hashes from the start, so that blocks are content
        events = [(op, 2**50 + block % 99_991, ts, reason) for op, block, ts, reason in events]
        events.insert(0, (0, 2**60, 1, "capacity"))
    else:
        events = [(op, block % 13, ts, reason) for op, block, ts, reason in events]
    keys = data.draw(st.lists(st.integers(0, 5), min_size=len(events), max_size=len(events)))
    table, plain = BlockTable("s", "gpu", changes=True), ReferenceContents(keyed)
    found, lookups, looked_up = [], 0, []
    for a, b in data.draw(cuts(len(events))):
        part = frame(events[a:b])
        if keyed:
            part = msgspec.structs.replace(part, keys=np.array(keys[a:b], np.int64))
        seen = table.apply(part, lookups_below=below)
        lookups += seen.lookups
        looked_up += [content for some in seen.looked_up for content in some.tolist()]
        for changes in seen.changes:
            if isinstance(changes, int):
                found.append(None)
            else:
                found += zip(
                    changes.content.tolist(), changes.ts.tolist(), changes.begins.tolist(), strict=True
                )
    for (op, block, ts, _), key in zip(events, keys, strict=True):
        plain.apply(op, block, ts, key)
    assert without_repeated_clears(found) == without_repeated_clears(plain.changes)
    assert lookups == len(plain.lookups)
    assert looked_up == [content for content in plain.lookups if are_below(as_int64([content]), below)]


@given(st.data(), st.booleans(), plain_events(), st.integers(1, 60))
def test_blocks_counted_as_used_in_a_window_are_skipped(data, hashed, events, window_ns):
    if hashed:
        events = [(op, 2**50 + block % 13, ts, reason) for op, block, ts, reason in events]
    unbounded, table = BlockTable("s", "gpu"), BlockTable("s", "gpu")
    indices = itertools.accumulate((ts // window_ns for _, _, ts, _ in events), max)
    numbered = zip(indices, events, strict=True)
    for index, in_window in itertools.groupby(numbered, key=lambda pair: pair[0]):
        of_window = [event for _, event in in_window]
        all_used, used = set(), set()
        for a, b in data.draw(cuts(len(of_window))):
            all_used.update(joined(unbounded.apply(frame(of_window[a:b])).used).tolist())
            seen = table.apply(frame(of_window[a:b]), counted_since=index * window_ns)
            used.update(joined(seen.used).tolist())
        assert all_used == used


def test_ids_chosen_to_want_the_same_place_cost_no_more_than_others():
    inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)  # of the factor that anybody would guess
    ids = as_int64([(n * inverse) % 2**64 for n in range(1, 50_001)])
    table = BlockTable("s", "gpu")
    table.apply(EventFrame(np.zeros(len(ids), np.uint8), ids, np.ones(len(ids), np.int64)))
    probes = table._table.probes(ids)
    assert table.live_count == len(ids)
    assert probes.max() < 200


def test_blocks_of_a_clock_that_was_set_back_are_held_longest_before_what_is_not_there():
    table = BlockTable("s", "gpu")
    table.apply(frame([(0, 3, 2_000, ""), (0, 4, 9_000, ""), (2, 4, 9_500, ""), (0, 5, 3_000, "")]))
    assert [(b.block_id, b.held_seconds) for b in table.longest_held(2, 1_000)] == [(3, 0.0), (5, 0.0)]
