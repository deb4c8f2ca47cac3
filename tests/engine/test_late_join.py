"""What is seen of a cache that was full before anybody listened."""

import numpy as np
import pytest

from kvstream.blocks.apply_result import KVCacheEvictionEvent
from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import frames_from_events
from kvstream.events.types import (
    BlockAccessed,
    BlockAllocated,
    BlockEvicted,
    BlockResident,
    BlockStored,
    Labels,
)
from kvstream.reports.lines import accounts_lines

SECOND = 10**9


def watched(events, config=None):
    """A monitor that has seen the events, and their evictions."""
    monitor, evictions = Monitor(config), list[KVCacheEvictionEvent]()
    for frame in frames_from_events(events):
        evictions += monitor.process(frame, records=True).eviction_events()
    return monitor, evictions


def snapshot(blocks, at=SECOND):
    return [BlockResident(block, at) for block in blocks]


@pytest.mark.parametrize("first", [0, 2**40], ids=["slots", "contents"])
def test_a_snapshot_makes_occupancy_right_at_once(first):
    monitor, _ = watched(snapshot(range(first, first + 90)), MetricsConfig(capacity=100))
    summary = monitor.summary()
    assert (summary.blocks_live, summary.occupancy) == (90, 0.9)
    assert summary.accounts.balanced
    assert (summary.accounts.allocations, summary.accounts.unknown_births) == (0, 90)
    assert accounts_lines(summary.accounts, whole=False) == [
        "0 allocated + 90 of unknown birth = 90 live + 0 evicted + 0 cleared"
    ]


def test_no_lifetime_is_invented_for_what_was_there_before():
    events = [
        *snapshot([1, 2]),
        BlockAllocated(3, 2 * SECOND),
        BlockAccessed(2, 3 * SECOND),
        BlockAccessed(2, 5 * SECOND),
        *(BlockEvicted(block, 9 * SECOND) for block in (1, 2, 3)),
    ]
    monitor, evictions = watched(events)
    assert [
        (e.lifetime_seconds, e.idle_seconds, e.access_count, e.reuse_gaps_seconds) for e in evictions
    ] == [
        (None, None, 0, []),
        (None, 4.0, 2, [2.0]),
        (7.0, 7.0, 0, []),
    ]
    summary = monitor.summary()
    assert (summary.total_evictions, summary.lifetime.count, summary.idle.count) == (3, 1, 2)
    assert (summary.accounts.unknown_lifetimes, summary.accesses) == (2, 2)
    assert (summary.first_reuse.count, summary.reuse_gap.count) == (0, 1)
    assert summary.zero_access_rate == 1.0, "of the one block of which all accesses were seen"


def test_a_block_first_seen_by_an_access_is_live_from_then_on():
    monitor, _ = watched([BlockAccessed(7, SECOND), BlockAccessed(7, 4 * SECOND)])
    summary = monitor.summary()
    assert (summary.blocks_live, summary.accounts.unknown_accesses, summary.accesses) == (1, 1, 1)
    assert summary.reuse_gap.mean == 3.0
    (cache,) = monitor.caches()
    (block,) = cache.table.hottest(5, 6 * SECOND)
    assert (block.accesses, block.held_seconds, block.idle_seconds) == (2, None, 2.0)
    assert cache.table.longest_held(5, 6 * SECOND) == []
    assert cache.table.block_map(6 * SECOND).blocks == []


def test_a_block_first_seen_by_its_eviction_was_there_and_is_gone():
    monitor, evictions = watched([BlockEvicted(7, SECOND), BlockAllocated(8, SECOND)])
    assert (monitor.summary().blocks_live, evictions) == (1, [])
    assert monitor.summary().accounts.unknown_evictions == 1


def test_a_snapshot_says_nothing_new_of_blocks_that_are_known():
    events = [BlockAllocated(1, SECOND), *snapshot([1, 2], 2 * SECOND), BlockEvicted(1, 5 * SECOND)]
    monitor, (evicted,) = watched(events)
    assert evicted.lifetime_seconds == 4.0
    assert (monitor.summary().blocks_live, monitor.summary().accounts.unknown_births) == (1, 1)


def test_nobody_can_say_after_what_time_content_of_a_snapshot_came_back():
    far = 2**40
    events = [
        *(event for block in (far, far + 1) for event in (BlockStored(block, 1), BlockEvicted(block, 2))),
        BlockResident(far, SECOND),
        BlockAccessed(far + 1, 2 * SECOND + 2),
    ]
    premature = watched(events)[0].summary().premature
    assert (premature.count, premature.return_time.max) == (1, 2.0)


def test_blocks_known_late_count_for_the_labels_that_the_snapshot_gives():
    events = [
        BlockResident(1, SECOND),
        BlockResident(2, SECOND, labels=Labels(lora="sql")),
        BlockAccessed(2, 2 * SECOND),
        BlockEvicted(2, 3 * SECOND),
    ]
    monitor, _ = watched(events)
    usage = {each.value: each for each in monitor.summary().labels["lora"]}
    assert {value: each.blocks_live for value, each in usage.items()} == {None: 1, "sql": 0}
    sql = usage["sql"]
    assert (sql.allocations, sql.accesses, sql.evictions, sql.lifetime.count, sql.idle.count) == (
        0,
        1,
        1,
        0,
        1,
    )
    assert np.isclose(sql.residency_share, 0.5)
