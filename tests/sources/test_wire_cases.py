"""Captures of what engines publish, each with what it must come to."""

from pathlib import Path

import msgspec
import pytest

from kvstream.engine.monitor import Monitor
from kvstream.sources.reader import EventReader

DATA = Path(__file__).parents[1] / "data"


def monitor_of(name):
    """Return a monitor that has seen a capture, and what of it was malformed."""
    reader, monitor = EventReader(name), Monitor()
    items = [*reader.feed((DATA / name).read_bytes()), *reader.finish()]
    malformed = [item for item in items if not hasattr(item, "ops")]
    for frame in items:
        if frame not in malformed:
            monitor.process(frame)
    return monitor, malformed


@pytest.mark.parametrize(
    ("name", "live", "accounts"),
    [
        # One hash in two physical blocks: it is resident until the last is removed.
        ("copies.wire", 3, {"allocations": 3, "evicted": 0, "unknown_evictions": 0}),
        ("sglang_salted.wire", 2, {"allocations": 3, "evicted": 1, "unknown_evictions": 0}),
        ("sglang_clear.wire", 2, {"allocations": 7, "cleared": 5}),
        ("mooncake_ms.wire", 1, {"allocations": 2, "evicted": 1}),
    ],
)
def test_a_capture_comes_to_what_the_engine_did(name, live, accounts):
    monitor, malformed = monitor_of(name)
    summary = monitor.summary()
    assert malformed == []
    assert summary.accounts.balanced
    assert (summary.blocks_live, summary.accesses) == (live, 0)
    assert {field: getattr(summary.accounts, field) for field in accounts} == accounts
    assert summary.hit_rate_estimate is None


def test_times_in_milliseconds_give_lifetimes_in_seconds():
    monitor, _ = monitor_of("mooncake_ms.wire")
    assert monitor.summary().lifetime.max == 2.5


def test_media_of_sglang_are_four_tiers():
    monitor, _ = monitor_of("sglang_tiers.wire")
    live = {cache.tier: cache.table.live_count for cache in monitor.caches()}
    assert live == {"gpu": 1, "cpu": 2, "disk": 2, "remote": 1}


def test_adapters_whose_names_begin_alike_are_two():
    monitor, _ = monitor_of("adapters_long.wire")
    assert [usage.blocks_live for usage in monitor.summary().labels["lora"]] == [2, 1]


def test_two_publishers_under_one_topic_are_no_crash_loop(caplog):
    monitor, malformed = monitor_of("shared_topic.wire")
    accounts = monitor.summary().accounts
    assert malformed == []
    assert accounts.live >= 6
    assert (accounts.restarts <= 2, accounts.lost_frames <= 2) == (True, True)
    assert len([record for record in caplog.records if "topic" in record.message]) == 1


def test_two_topics_of_a_capture_are_two_sources():
    batches = [(b"a", 7, [1]), (b"b", 0, [1, 2]), (b"a", 8, [2]), (b"b", 1, [3])]
    data = b"".join(
        msgspec.msgpack.encode([10**18, topic, number.to_bytes(8), msgspec.msgpack.encode([1.0, [stored]])])
        for topic, number, hashes in batches
        for stored in [["BlockStored", hashes]]
    )
    reader, monitor = EventReader("capture"), Monitor()
    for frame in [*reader.feed(data), *reader.finish()]:
        monitor.process(frame)
    live = {cache.source: cache.table.live_count for cache in monitor.caches()}
    assert sorted(live.values()) == [2, 3]
    assert any(source.endswith("/b") for source in live)
    accounts = monitor.summary().accounts
    assert (accounts.restarts, accounts.lost_frames) == (0, 0)
