"""Recordings as lookups, for other simulators."""

import json

import numpy as np
import pytest

from kvstream.engine.monitor import Monitor
from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame, frames_from_events
from kvstream.events.types import (
    BlockAccessed,
    BlockAllocated,
    BlockEvicted,
    BlockRemoved,
    BlockStored,
    CacheCleared,
    PrefixStored,
)
from kvstream.sinks.event_log import EventLogWriter
from kvstream.sinks.lookups import Lookups
from kvstream.sources.options import ReadOptions
from kvstream.sources.reader import EventReader

MS = 1_000_000
HASH = 2**63


def requests(seed=1, count=400):
    """Turns of conversations: each has the blocks of the turn before it, and some more."""
    rng = np.random.default_rng(seed)
    conversations = [[int(rng.integers(1 << 40))] for _ in range(40)]
    rows = []
    for number in range(count):
        conversation = conversations[int(rng.zipf(1.5)) % 40]
        conversation += [int(each) for each in rng.integers(1 << 40, size=rng.integers(1, 4))]
        rows.append({"timestamp": number * 250, "hash_ids": list(conversation)})
        if len(conversation) > 20:
            del conversation[1:]
    return rows


def frames_of(rows, capacity):
    reader = EventReader("trace.jsonl", ReadOptions(capacity=capacity))
    text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return [*reader.feed(text), *reader.finish()]


def written(path, frames, form=None):
    with EventLogWriter(str(path), form, block_tokens=512) as writer:
        for frame in frames:
            writer.write(frame)
    return writer.left_out


def summary(frames):
    monitor = Monitor()
    for frame in frames:
        monitor.process(frame)
    return monitor.summary()


@pytest.mark.parametrize("capacity", [1, 7, 1000])
def test_rows_of_a_trace_are_its_requests_whatever_cache_it_ran_through(tmp_path, capacity):
    rows = requests()
    assert written(tmp_path / "x.jsonl", frames_of(rows, capacity), "mooncake") == 0
    found = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [row["timestamp"] for row in found] == [row["timestamp"] for row in rows]
    assert [row["input_length"] for row in found] == [512 * len(row["hash_ids"]) for row in rows]
    for size in (20, 200):
        again, first = summary(frames_of(found, size)), summary(frames_of(rows, size))
        assert first.accesses > 0
        assert again.accounts == first.accounts
        assert again.lifetime == first.lifetime


def test_libcachesim_reads_the_lookups_and_finds_the_hits_of_an_endless_cache(tmp_path):
    libcachesim = pytest.importorskip("libcachesim")  # has no wheels for Python 3.14
    frames = frames_of(requests(), 100_000)
    path = tmp_path / "x.csv"
    assert written(path, frames) == 0
    params = libcachesim.ReaderInitParam()
    params.has_header = params.has_header_set = params.obj_id_is_num = params.obj_id_is_num_set = True
    params.delimiter, params.time_field, params.obj_id_field, params.obj_size_field = ",", 1, 2, 3
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.CSV_TRACE, params)
    miss_ratio, _ = libcachesim.LRU(cache_size=100_000).process_trace(reader)
    ours = summary(frames)
    lookups = ours.accesses + ours.accounts.allocations
    assert len(path.read_text().splitlines()) == 1 + lookups
    assert miss_ratio == pytest.approx(1 - ours.hit_rate_estimate)
    assert path.read_text().splitlines()[-1].startswith("99,")


def rows_of(events):
    lookups = Lookups()
    rows = [row for frame in frames_from_events(events) for row in lookups.rows(frame)]
    return [*rows, *lookups.rest()], lookups.unknown


def test_blocks_with_content_keys_are_what_they_hold():
    events = [
        BlockAllocated(1, 5, key=HASH + 1),
        BlockAllocated(2, 5, key=HASH + 2),
        BlockAccessed(1, 7),
        BlockEvicted(1, 8),
        BlockAllocated(1, 9, key=-1),
        BlockAccessed(1, 9),
        BlockAccessed(2, 9),
        CacheCleared(10),
        BlockAccessed(2, 11),  # nobody knows what it holds now
    ]
    rows, unknown = rows_of(events)
    assert rows == [
        (5, [HASH + 1, HASH + 2]),
        (7, [HASH + 1]),
        (9, [2**64 - 1]),  # a hit after a miss begins another request
        (9, [2**64 - 1, HASH + 2]),
    ]
    assert unknown == 1


def test_stores_are_lookups_of_their_content():
    assert rows_of([BlockStored(3, 5), BlockStored(HASH, 5), BlockStored(3, 6)]) == (
        [(5, [3, HASH]), (6, [3])],
        0,
    )


def test_prefixes_are_lookups_and_removals_are_none():
    assert rows_of([PrefixStored(3, 5), BlockRemoved(3, 6), PrefixStored(HASH, 7)]) == (
        [(5, [3]), (7, [HASH])],
        0,
    )


def test_physical_blocks_without_content_keys_are_refused():
    with pytest.raises(ConfigError, match="physical block number"):
        rows_of([BlockAllocated(1, 5)])


def test_lookups_of_several_caches_are_refused():
    with pytest.raises(ConfigError, match="--source and --tier"):
        rows_of([BlockStored(HASH, 5, source="a"), BlockStored(HASH, 5, source="b")])


def test_a_row_that_ends_in_another_frame_stays_one():
    lookups = Lookups()
    ops = np.full(1, 4, dtype=np.uint8)
    frames = [EventFrame(ops, np.array([block]), np.array([5 * MS])) for block in (7, 8)]
    assert [row for frame in frames for row in lookups.rows(frame)] == []
    assert list(lookups.rest()) == [(5 * MS, [7, 8])]
