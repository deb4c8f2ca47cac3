"""Recordings of Dynamo's router."""

import json
from pathlib import Path

from kvstream.engine.monitor import Monitor
from kvstream.events.types import Malformed
from kvstream.sources.dynamo import DynamoDecoder
from kvstream.sources.reader import EventReader

RECORDING = Path(__file__).parent.parent / "data" / "dynamo_recorder.jsonl"


def monitor_of(data):
    reader, monitor, bad = EventReader("router.jsonl"), Monitor(), []
    for item in [*reader.feed(data), *reader.finish()]:
        bad.append(item) if isinstance(item, Malformed) else monitor.process(item)
    return monitor, bad


def test_a_recording_is_read_worker_by_worker():
    # Written by the serializer of Dynamo 1.6.1; block 2**64 - 1 is held by both workers.
    monitor, bad = monitor_of(RECORDING.read_bytes())
    assert not bad
    first, second = monitor.summary("router/7/dp0", "gpu"), monitor.summary("router/8/dp1", "gpu")
    assert (first.accounts.allocations, first.blocks_live, first.total_evictions) == (3, 2, 1)
    assert first.lifetime.max == 1.5
    assert (second.accounts.allocations, second.accounts.cleared, second.blocks_live) == (1, 1, 0)


def event(data, **more):
    worker = {"worker_id": 1, "event": {"event_id": 0, "data": data}, **more}
    return json.dumps({"timestamp": 5, "event": worker}).encode()


def test_storage_tiers_are_tiers_and_older_recordings_have_no_ranks():
    blocks = {"stored": {"parent_hash": None, "blocks": [{"block_hash": 5, "tokens_hash": 6}]}}
    tiers = {"device": "gpu", "host_pinned": "cpu", "disk": "disk", "external": "remote", "Tape": "tape"}
    lines = [event(blocks), *[event(blocks, storage_tier=name) for name in tiers]]
    monitor, bad = monitor_of(b"\n".join(lines))
    assert not bad
    assert {cache.tier for cache in monitor.caches("router/1")} == set(tiers.values())


def test_bad_lines_are_reported_by_number():
    good = event({"removed": {"block_hashes": [3]}})
    bad = [event("melted"), event({}), event({"removed": {"block_hashes": ["x"]}}), b'{"timestamp":-1}']
    found = []
    frames = list(
        DynamoDecoder("d").decode_lines(b"\n".join([*bad, good]), lambda number, _: found.append(number))
    )
    assert found == [1, 2, 3, 4]
    assert [frame.blocks.tolist() for frame in frames] == [[3]]
