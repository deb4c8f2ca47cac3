"""Every size has a bound: what is beyond is refused, counted and raises an alert; what is gone goes."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream import (
    ConfigError,
    EventFrame,
    KVStream,
    Labels,
    MalformedInputError,
    MetricsConfig,
)
from kvstream.engine.limits import MAX_TIERS
from kvstream.engine.monitor import Monitor
from kvstream.events.types import Op
from kvstream.metrics.histogram import IntervalStats
from kvstream.recording.queue import MOST_OBJECTS, FrameQueue
from kvstream.recording.registry import SentFrames
from kvstream.sources.timing import FrameCutter
from tests.blocks.test_table import apply_plain
from tests.reference import ReferenceSource
from tests.strategies import cuts, fewer, plain_events
from tests.strategies import frame as event_frame


def frame(op, blocks, source="s", tier="gpu", ts=0, seq=-1, epoch=0):
    n = len(blocks)
    ops = np.full(n, op, np.uint8)
    return EventFrame(ops, np.array(blocks), np.full(n, ts), source, tier, seq=seq, epoch=epoch)


# Live blocks


def test_blocks_beyond_the_limit_are_dropped_and_so_are_accesses_that_would_make_them_live():
    monitor = Monitor(MetricsConfig(max_live_blocks=10))
    monitor.process(frame(Op.ALLOC, range(6), "a"))
    monitor.process(frame(Op.ALLOC, range(6), "b"))
    monitor.process(frame(Op.ACCESS, range(6), "b"))
    monitor.process(frame(Op.EVICT, range(6), "b"))
    accounts = monitor.summary().accounts
    assert accounts.dropped == {"too_many_blocks": 4}
    assert (accounts.allocations, accounts.live, accounts.evicted) == (10, 6, 4)
    assert (accounts.unknown_accesses, accounts.unknown_evictions) == (0, 2)
    assert accounts.balanced
    monitor.process(frame(Op.ALLOC, range(4), "b"))  # there is room again
    assert monitor.summary().accounts.live == 10
    assert monitor.summary("b").accounts.dropped == {"too_many_blocks": 4}
    assert monitor.summary("a").accounts.dropped == {}


@pytest.mark.parametrize("op", [Op.ALLOC, Op.STORE])
def test_at_the_limit_blocks_that_are_live_go_on(op):
    monitor = Monitor(MetricsConfig(max_live_blocks=5))
    monitor.process(frame(op, range(5)))
    monitor.process(frame(op, [0, 1, 7, 2]))
    accounts = monitor.summary().accounts
    assert accounts.dropped == {"too_many_blocks": 1}
    assert accounts.processed == 8
    assert accounts.live == 5


@fewer
@given(plain_events(), st.integers(1, 6), st.data())
def test_the_limit_holds_over_any_stream_and_the_accounts_with_it(events, most, data):
    monitor, free = Monitor(MetricsConfig(max_live_blocks=most)), Monitor()
    for start, end in data.draw(cuts(len(events))):
        for tier in ("gpu", "cpu"):
            monitor.process(event_frame(events[start:end], tier=tier))
            free.process(event_frame(events[start:end], tier=tier))
            accounts = monitor.summary().accounts
            assert accounts.live <= most
            assert accounts.balanced
    begun = sum(op not in (Op.EVICT, Op.REMOVE, Op.CLEAR) for op, *_ in events)
    if 2 * begun <= most:  # each beginning is given room of its own
        assert monitor.summary().accounts == free.summary().accounts


# Caches and tiers


def test_no_source_takes_all_places_with_its_tiers():
    monitor = Monitor(MetricsConfig(max_caches=MAX_TIERS + 2))
    for n in range(MAX_TIERS + 17):
        monitor.process(frame(Op.ALLOC, [1, 2], "greedy", f"tier-{n}"))
    monitor.process(frame(Op.ALLOC, [1, 2], "modest"))
    accounts = monitor.summary().accounts
    assert accounts.dropped == {"too_many_tiers": 17 * 2}
    assert accounts.live == (MAX_TIERS + 1) * 2
    assert accounts.balanced


def test_sources_of_which_only_losses_are_known_are_bounded_too():
    monitor = Monitor(MetricsConfig(max_caches=10))
    for n in range(1_000):
        monitor.note_lost(f"s{n}", 1)
    assert len(monitor.sources) == 10


# Forgetting


def test_a_forgotten_source_stays_in_the_totals_and_leaves_its_place():
    config = MetricsConfig(max_caches=1)
    monitor, kept = Monitor(config), Monitor()
    parts = [
        frame(Op.ALLOC, range(10), "a", ts=10, seq=0),
        frame(Op.ALLOC, range(10), "a", ts=10, seq=0),  # a duplicate
        frame(Op.EVICT, range(4), "a", ts=10**9, seq=3),
        frame(Op.ALLOC, [100], "a", ts=2 * 10**9, seq=0, epoch=1),
    ]
    for part in parts:
        monitor.process(part)
        kept.process(part)
    assert monitor.process(frame(Op.ALLOC, [1], "b")).alerts == []
    monitor.forget("a", "gone")
    monitor.process(frame(Op.ALLOC, [1], "b"))
    summary, before = monitor.summary(), kept.summary()
    accounts = summary.accounts
    assert (accounts.forgotten, accounts.forgotten_sources) == (1, 1)
    assert (accounts.live, accounts.allocations) == (1, before.accounts.allocations + 1)
    assert accounts.balanced
    assert accounts.dropped == {"too_many_caches": 1, "duplicate": 10}
    for field in ("lost_frames", "duplicate_frames", "restarts", "evicted", "cleared"):
        assert getattr(accounts, field) == getattr(before.accounts, field), field
    assert summary.lifetime == before.lifetime
    assert summary.evictions_by_reason == before.evictions_by_reason
    assert monitor.summary("a").accounts.allocations == 0


@fewer
@given(st.lists(st.tuples(st.sampled_from("abc"), plain_events(), st.booleans()), max_size=12))
def test_forgetting_at_any_moment_keeps_the_accounts_and_what_was_measured(steps):
    monitor, tables = Monitor(), []
    current: dict[str, ReferenceSource] = {}
    for source, events, forget in steps:
        if source not in current:
            current[source] = ReferenceSource()
            tables.append(current[source].table("gpu"))
        monitor.process(event_frame(events, source))
        apply_plain(current[source].table("gpu"), events)
        if forget and source in monitor.sources:
            monitor.forget(source, "gone")
            del current[source]
        summary = monitor.summary()
        accounts = summary.accounts
        assert accounts.balanced
        assert accounts.allocations == sum(table.allocations for table in tables)
        assert accounts.live + accounts.forgotten == sum(len(table.live) for table in tables)
        lifetimes = [e.lifetime for table in tables for e in table.evicted if e.lifetime is not None]
        assert summary.lifetime.count == len(lifetimes)
        assert (summary.reuse_gap or IntervalStats()).count == sum(len(table.reuse_gaps) for table in tables)


def test_the_alerts_of_a_forgotten_source_end():
    monitor = Monitor()
    alerts = []
    for seq, second in [(0, 0), (1, 1), (5, 2), (6, 3)]:
        part = frame(Op.ALLOC, [seq], "a", ts=second * 10**9, seq=seq)
        alerts += monitor.process(part).alerts
    assert [(alert.rule, alert.state) for alert in alerts] == [("lost_frames", "firing")]
    (ended,) = monitor.forget("a", "the source was forgotten")
    assert (ended.rule, ended.state, ended.message) == ("lost_frames", "resolved", "the source was forgotten")
    assert ended.fingerprint == alerts[0].fingerprint


# Names


@pytest.mark.parametrize("name", ["", "x" * 257, "\ud800"])
async def test_what_is_no_name_is_refused_at_every_entrance(name):
    async def frames():
        yield frame(Op.ALLOC, [1], name)
        yield frame(Op.ALLOC, [1], "s", name)
        yield frame(Op.ALLOC, [1, 2])

    async with KVStream() as stream:
        for names in ((name, "gpu"), ("s", name)):
            with pytest.raises(ConfigError, match="name"):
                stream.producer(*names)
            with pytest.raises(MalformedInputError, match="name"):
                await stream.send(frame(Op.ALLOC, [1], *names))
        await stream.feed(frames())
        await stream.flush()
        accounts = stream.accounts()
    assert (accounts.malformed, accounts.processed) == (2, 2)
    assert accounts.balanced


# Queues


@pytest.mark.parametrize("labels", [(), tuple(Labels(tenant=f"t{n}") for n in range(1_000))])
async def test_a_queue_is_bounded_also_by_frames_without_events_and_by_labels(labels):
    queue = FrameQueue(1_000_000)
    one = msgspec.structs.replace(frame(Op.ALLOC, []), labels=labels, label_of=np.zeros(0, np.uint16))
    count = 0
    while queue.offer(one, SentFrames()):
        count += 1
    assert count == MOST_OBJECTS // (1 + len(labels))
    items = await queue.take()
    assert len(list(items)) == count
    assert queue.offer(one, SentFrames())


def test_a_cutter_remembers_a_bounded_number_of_sources(monkeypatch):
    monkeypatch.setattr("kvstream.sources.timing._MOST_SOURCES", 100)
    cutter = FrameCutter(10**9)
    for n in range(1_000):
        for _, part in cutter.cut(frame(Op.ALLOC, [1], f"s{n}", seq=0)):
            assert part.seq == 0
    assert len(cutter._sequences) <= 101
