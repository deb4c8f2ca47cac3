"""Every size has a bound: what is beyond is refused, counted and raises an alert; what is gone goes."""

import datetime
import gc
import threading

import anyio
import msgspec
import numpy as np
import pytest
import trio
from anyio import to_thread
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from kvstream import (
    ConfigError,
    EventFrame,
    KVStream,
    Labels,
    MalformedInputError,
    MetricsConfig,
    Silence,
    StreamConfig,
    default_rules,
)
from kvstream.alerts.drops import DropWatch
from kvstream.alerts.silences import Silences
from kvstream.engine.limits import MAX_TIERS, StreamLimits
from kvstream.engine.monitor import Monitor
from kvstream.events.types import Op
from kvstream.metrics.histogram import IntervalStats
from kvstream.recording import registry
from kvstream.recording.producer import Producer
from kvstream.recording.queue import MOST_OBJECTS, FrameQueue
from kvstream.recording.registry import SentFrames
from kvstream.sources.timing import FrameCutter
from kvstream.stream import sources_of
from tests.blocks.test_table import apply_plain
from tests.reference import ReferenceSource
from tests.strategies import cuts, fewer, plain_events
from tests.strategies import frame as event_frame
from tests.waiting import DEADLINE


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


def simulated(main):
    """Runs ``main`` on a clock that jumps over every wait."""
    return trio.run(main, clock=MockClock(autojump_threshold=0))


def clock():
    return round(trio.current_time() * 1e9)


def config(window_seconds=10.0, **metrics):
    return StreamConfig(
        metrics=MetricsConfig(export_interval=0.0, window_seconds=window_seconds, **metrics),
        flush_seconds=1.0,
    )


def test_a_stream_forgets_silent_sources_and_lets_others_in():
    async def main():
        async with KVStream(config(max_caches=3, forget_seconds=600.0), clock=clock) as stream:
            for n in range(3):
                await stream.producer(f"dead-{n}").allocated(range(10))
            await stream.flush()
            await anyio.sleep(300)
            await stream.producer("dead-2").accessed(1)
            await stream.flush()
            await anyio.sleep(310)
            left = [source.source for source in sources_of(stream)]
            for n in range(2):
                await stream.producer(f"living-{n}").allocated(range(5))
            await stream.flush()
            await anyio.sleep(600)
            accounts = stream.accounts()
            assert stream.statistics().producers == ()
        return left, stream.caches(), accounts

    left, places, accounts = simulated(main)
    assert left == ["dead-2"]
    assert len(places) <= 2
    assert accounts.forgotten_sources >= 3
    assert accounts.dropped == {}
    assert accounts.offered == accounts.processed == 41
    assert accounts.balanced


def test_with_0_nothing_is_ever_forgotten():
    async def main():
        async with KVStream(config(forget_seconds=0.0), clock=clock) as stream:
            await stream.producer("engine").allocated(range(10))
            await stream.flush()
            await anyio.sleep(3 * 3600)
            assert stream.caches() == [("engine", "gpu")]

    simulated(main)


def test_where_places_are_short_the_longest_silent_source_goes_sooner():
    async def main():
        async with KVStream(config(max_caches=2, forget_seconds=1200.0), clock=clock) as stream:
            for name in ("first", "second"):
                await stream.producer(name).allocated([1])
                await stream.flush()
                await anyio.sleep(60)
            await stream.producer("third").allocated([1])  # "first" is silent for two minutes
            await stream.flush()
            assert stream.caches() == [("second", "gpu"), ("third", "gpu")]
            await stream.producer("fourth").allocated([1])  # "second" for one
            await stream.flush()
            assert stream.caches() == [("second", "gpu"), ("third", "gpu")]
            assert stream.accounts().dropped == {"too_many_caches": 1}

    simulated(main)


def test_a_source_that_comes_back_begins_anew():
    async def main():
        async with KVStream(config(forget_seconds=60.0), clock=clock) as stream:
            alerts = stream.alerts()
            await stream.send(frame(Op.ALLOC, [1], "engine", ts=clock(), seq=0))
            await stream.flush()
            await anyio.sleep(100)
            await stream.send(frame(Op.EVICT, [1], "engine", ts=clock(), seq=0))
            await stream.flush()
            accounts = stream.accounts()
        return accounts, [alert async for alert in alerts]

    accounts, alerts = simulated(main)
    assert alerts == []
    assert (accounts.unknown_evictions, accounts.forgotten, accounts.restarts) == (1, 1, 0)
    assert accounts.balanced


# Alerts


def test_refused_events_raise_one_alert_that_names_the_limit_and_ends():
    async def main():
        async with KVStream(config(1.0, max_caches=2, forget_seconds=0.0), clock=clock) as stream:
            alerts = stream.alerts()
            for n in range(200):
                await stream.send(frame(Op.ALLOC, [1], f"s{n}", ts=clock()))
                await anyio.sleep(0.1)
            firing = stream.summary_nowait().alerts
            await anyio.sleep(120)
        return firing, [alert async for alert in alerts if alert.rule == "limit_reached"]

    firing, (fired, resolved) = simulated(main)
    assert (fired.state, fired.source, fired.tier, fired.level) == ("firing", "*", "*", "warning")
    assert "more than 2 caches (max_caches = 2)" in fired.message
    assert resolved.state == "resolved"
    assert resolved.fingerprint == fired.fingerprint
    assert [alert["rule"] for alert in firing].count("limit_reached") == 1


def test_a_stream_that_ends_at_once_still_says_that_it_refused_events():
    async def main():
        async with KVStream(config(max_live_blocks=2)) as stream:
            alerts = stream.alerts()
            await stream.producer("engine").allocated(range(10))
        return [alert async for alert in alerts]

    (alert,) = anyio.run(main)
    assert (alert.rule, alert.state) == ("limit_reached", "firing")
    assert "max_live_blocks = 2" in alert.message


class Watching:
    """A DropWatch, and a window of the clock for each call."""

    def __init__(self, silences=()):
        limits = StreamLimits(MetricsConfig()).descriptions()
        self.watch = DropWatch(default_rules(), Silences(silences), limits)
        self.counts = {"repeated": 0, "stale": 0, "conflicting": 0}
        self.now = 0

    def windows(self, count, **new):
        alerts = []
        for _ in range(count):
            self.now += 1
            for kind, frames in new.items():
                self.counts[kind] += frames
            some = {kind: frames for kind, frames in self.counts.items() if frames}
            alerts += self.watch.look({}, [("engine", some)] if some else [], self.now)
        return alerts


@pytest.mark.parametrize("kind", ["repeated", "stale", "conflicting"])
def test_duplicates_that_a_producer_keeps_sending_raise_an_alert_that_says_which(kind):
    watching = Watching()
    (fired,) = watching.windows(60, **{kind: 3})
    assert (fired.rule, fired.state, fired.source) == (f"frames_{kind}", "firing", "engine")
    assert watching.watch.firing() == [fired]
    (resolved,) = watching.windows(60)
    assert (resolved.rule, resolved.state) == (f"frames_{kind}", "resolved")
    assert watching.watch.firing() == []


def test_duplicates_after_reconnects_raise_none():
    watching = Watching()
    for _ in range(10):
        assert watching.windows(3, repeated=1_000) == []
        assert watching.windows(60) == []


def test_a_slow_producer_that_is_never_heard_is_noticed():
    watching, alerts = Watching(), []
    for _ in range(30):
        alerts += watching.windows(1, stale=1) + watching.windows(2)
    assert [alert.rule for alert in alerts] == ["frames_stale"]


def test_a_silenced_alert_of_drops_is_published_once_the_silence_ends():
    until = datetime.datetime.fromtimestamp(100, datetime.UTC)
    watching = Watching([Silence(until=until, rule="frames_*")])
    assert watching.windows(90, repeated=1) == []
    assert [alert.rule for alert in watching.windows(20, repeated=1)] == ["frames_repeated"]


def test_a_forgotten_source_leaves_nothing_behind():
    watching = Watching()
    watching.windows(60, repeated=1)
    (ended,) = watching.watch.forget("engine", "gone", 70)
    assert (ended.state, ended.message) == ("resolved", "gone")
    assert watching.watch.firing() == []


def test_a_producer_that_repeats_itself_is_noticed_in_a_stream():
    async def main():
        async with KVStream(config(1.0), clock=clock) as stream:
            alerts = stream.alerts()
            for _ in range(120):
                await stream.send(frame(Op.ALLOC, [1], "engine", ts=5, seq=0))
                await anyio.sleep(1)
        return [alert async for alert in alerts]

    assert "frames_repeated" in [alert.rule for alert in simulated(main)]


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


# Producers


async def test_producers_made_without_end_are_bounded_and_keep_every_count(monkeypatch):
    monkeypatch.setattr(registry, "_MAX_PRODUCERS", 100)
    config = StreamConfig(metrics=MetricsConfig(max_caches=4), queue_events=1_000)
    async with KVStream(config) as stream:
        for n in range(10_000):
            stream.producer(f"s{n}", overflow="drop_newest").allocated_nowait(n)
            if n % 100 == 0:
                await checkpoint()
        assert len(stream.statistics().producers) <= 100
        await stream.flush()
        gc.collect()
        # Those that are kept, those of the frames that the consumer took last, and a few on their way.
        assert sum(isinstance(each, Producer) for each in gc.get_objects()) <= 100 + 1_000 + 100
        accounts = stream.accounts()
    assert accounts.offered == 10_000
    assert accounts.balanced


async def test_a_producer_too_many_is_refused_where_the_events_of_all_wait_for_room(monkeypatch):
    monkeypatch.setattr(registry, "_MAX_PRODUCERS", 3)
    async with KVStream(StreamConfig(queue_events=4, frame_events=2)) as stream:
        with pytest.raises(ConfigError, match="3 producers"):
            for n in range(20):
                stream.producer(f"s{n}").allocated_nowait([1, 2])
        await stream.flush()
        stream.producer("late").allocated_nowait([1, 2])
        await stream.flush()
        accounts = stream.accounts()
    assert accounts.offered == accounts.processed
    assert accounts.balanced


async def test_a_producer_that_is_still_held_goes_on_working_after_it_was_retired(monkeypatch):
    monkeypatch.setattr(registry, "_MAX_PRODUCERS", 2)
    async with KVStream(StreamConfig(flush_seconds=0.001)) as stream:
        held = stream.producer("held")
        recorder = held.recorder()
        held.allocated_nowait([1, 2])
        for n in range(50):
            stream.producer(f"other-{n}").allocated_nowait(1)
        assert held.statistics().offered == 0  # handed over
        assert stream.producer("held") is held
        held.allocated_nowait(3)
        recorder.allocated_nowait(4)
        recorder.end_step()
        del held
        gc.collect()
        await stream.flush()
        assert stream.summary_nowait("held").blocks_live == 4
        accounts = stream.accounts()
    assert accounts.offered == 54
    assert accounts.balanced


async def test_retiring_a_producer_loses_nothing_while_threads_record(monkeypatch):
    monkeypatch.setattr(registry, "_MAX_PRODUCERS", 8)
    config = StreamConfig(frame_events=10, queue_events=200, flush_seconds=0.001)
    stop = threading.Event()
    counts = [0] * 4

    def record(n):
        producer = stream.producer(f"s{n}")
        while not stop.is_set() and counts[n] < 20_000:
            producer.allocated_nowait([1, 2, 3])
            counts[n] += 3

    async with KVStream(config) as stream:
        threads = [threading.Thread(target=record, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        with anyio.move_on_after(DEADLINE):
            while any(thread.is_alive() for thread in threads):
                for n in range(20):
                    stream.producer(f"more-{n}")
                accounts = stream.accounts()
                assert accounts.balanced
                assert accounts.in_flight >= 0
                await anyio.sleep(0.001)
        stop.set()
        for thread in threads:
            await to_thread.run_sync(thread.join)
        await stream.flush()
        accounts = stream.accounts()
    assert accounts.offered == accounts.processed == sum(counts)


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
    assert len(items) == count
    assert queue.offer(one, SentFrames())


def test_a_cutter_remembers_a_bounded_number_of_sources(monkeypatch):
    monkeypatch.setattr("kvstream.sources.timing._MOST_SOURCES", 100)
    cutter = FrameCutter(10**9)
    for n in range(1_000):
        for _, part in cutter.cut(frame(Op.ALLOC, [1], f"s{n}", seq=0)):
            assert part.seq == 0
    assert len(cutter._sequences) <= 101
