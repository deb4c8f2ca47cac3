"""Several consumers apply batches in threads at once, to the same effect as one does on the event loop."""

import os
import threading
import weakref
from collections import defaultdict

import anyio
import numpy as np
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstream import EventFrame, KVStream, MetricsConfig, StreamConfig
from kvstream.engine.monitor import Monitor
from kvstream.engine.source import SourceMonitor
from kvstream.stream import consumers_of
from tests.faults.test_fork import in_child
from tests.interpreted import needs_compiled
from tests.strategies import cuts, fewer, plain_events
from tests.strategies import frame as event_frame
from tests.test_stream import config, frame, trouble
from tests.waiting import DEADLINE, turns_while

BACKENDS = ["asyncio", "trio"]
SOURCES = [f"engine-{number}" for number in range(8)]
QUIET = MetricsConfig(export_interval=0.0)


@pytest.fixture(autouse=True)
def no_source_is_silent_for_too_long(monkeypatch):
    """However slow the machine is, the clock closes no windows."""
    monkeypatch.setattr("kvstream.engine.cache._SILENT_WINDOWS", 10**9)


@pytest.fixture
def every_batch_in_a_thread(monkeypatch):
    """However small batches are, those of several consumers are applied in threads."""
    monkeypatch.setattr("kvstream.streaming.consumer._WORTH_A_THREAD", 1)


@pytest.fixture
def entered(monkeypatch):
    """Threads that were in the state of each source; fails where two are at once."""
    inside, seen, met = defaultdict(int), defaultdict(set), []
    slices = SourceMonitor.slices

    def watched(self, frames, records):
        parts = slices(self, frames, records)
        while True:
            inside[self.source] += 1
            met.extend([self.source] * (inside[self.source] > 1))
            seen[self.source].add(threading.get_ident())
            part = next(parts, None)
            inside[self.source] -= 1
            if part is None:
                return
            yield part

    monkeypatch.setattr(SourceMonitor, "slices", watched)
    yield seen
    assert met == []


def large(source, events=40_000, start=0):
    """Allocations and evictions of the same blocks by turns, a millisecond apart."""
    at = np.arange(start, start + events)
    return frame(at % 2 * 2, at // 2 % 100, at * 10**6, source)


def state_of(stream):
    """Everything that is known of each source, in plain values."""
    return {
        (cache.source, cache.tier): (
            stream.accounts(cache.source, cache.tier),
            stream.summary_nowait(cache.source, cache.tier).to_dict() | {"accounts": None},
            [(b.block_id, b.access_count, b.birth_ns) for b in cache.table.live_blocks()],
        )
        for cache in consumers_of(stream).caches()
    }


async def fed(frames, consumers, **options):
    """The state, alerts and evictions by source of a stream that was given frames."""
    alerts, evictions = defaultdict(list), defaultdict(list)
    async with KVStream(StreamConfig(metrics=QUIET, consumers=consumers, **options)) as stream:
        fired, evicted = stream.alerts(buffer=10_000), stream.evictions(buffer=1_000_000)
        for each in frames:
            await stream.send(each)
        await stream.flush()
        state = state_of(stream)
    async for alert in fired:
        alerts[alert.source].append((alert.rule, alert.level, alert.state, alert.timestamp))
    async for event in evicted:
        evictions[event.source].append((event.block_id, event.lifetime_seconds, event.reason))
    return state, alerts, evictions, stream.accounts()


@st.composite
def interleaved_frames(draw):
    """Frames of several sources and tiers, each with its events in order."""
    streams = []
    for source in draw(st.lists(st.sampled_from(SOURCES), min_size=2, max_size=5, unique=True)):
        events = draw(plain_events())
        tier = draw(st.sampled_from(["gpu", "cpu"]))
        pieces = [events[a:b] for a, b in draw(cuts(len(events)))]
        streams.append([event_frame(piece, source, tier) for piece in pieces if piece])
    turns = draw(st.permutations([number for number, of in enumerate(streams) for _ in of]))
    parts = [iter(of) for of in streams]
    return [next(parts[number]) for number in turns]


@settings(fewer, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=interleaved_frames(), consumers=st.integers(2, 4))
def test_several_consumers_come_to_what_one_does(frames, consumers, every_batch_in_a_thread):
    assert anyio.run(fed, frames, consumers) == anyio.run(fed, frames, 1)


@needs_compiled
@pytest.mark.parametrize("backend", BACKENDS)
def test_alerts_and_large_batches_of_several_consumers_are_those_of_one(backend, entered):
    by_source = [
        [*trouble(source), *(large(source, 9_000, 540_000 + n) for n in (0, 9_000))] for source in SOURCES[:2]
    ]
    frames = [each for turn in zip(*by_source, strict=True) for each in turn]
    one = anyio.run(fed, frames, 1, backend=backend)
    assert {thread for threads in entered.values() for thread in threads} == {threading.get_ident()}
    several = anyio.run(fed, frames, 3, backend=backend)
    assert several == one
    assert {rule for rule, *_ in one[1][SOURCES[0]]} == {"hit_ratio_drop"}
    assert {thread for threads in entered.values() for thread in threads} > {threading.get_ident()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_looks_at_state_while_threads_change_it_are_exact(backend, entered, threads_take_turns_often):
    async def main():
        looks = 0
        async with KVStream(StreamConfig(metrics=QUIET, consumers=3)) as stream:

            async def feed(source):
                for start in range(0, 400_000, 20_000):
                    await stream.send(large(source, 20_000, start))
                left.discard(source)

            left = set(SOURCES)
            async with anyio.create_task_group() as tasks:
                for source in SOURCES:
                    tasks.start_soon(feed, source)
                while left or stream.accounts().in_flight:
                    accounts = stream.statistics().accounts
                    assert accounts.balanced, accounts
                    assert accounts.in_flight >= 0
                    summary = await stream.summary() if looks % 2 else stream.summary_nowait()
                    assert summary.accounts.balanced
                    assert (
                        sum(cache.table.live_count for cache in consumers_of(stream).caches())
                        == stream.accounts().live
                    )
                    async for source in consumers_of(stream).in_turn(consumers_of(stream).sources()):
                        of = stream.accounts(source.source)
                        assert of.allocations == of.live + of.evicted + of.cleared
                    looks += 1
                    await checkpoint()
        return stream.accounts(), looks

    accounts, looks = anyio.run(main, backend=backend)
    assert accounts.processed == 400_000 * len(SOURCES)
    assert (accounts.unknown_evictions, accounts.time_regressions) == (0, 0)
    assert looks > 5
    assert {thread for threads in entered.values() for thread in threads} > {threading.get_ident()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_cancelled_in_the_middle_of_a_batch_what_is_not_applied_counts_as_dropped(
    backend, every_batch_in_a_thread
):
    events = 100 * 16
    seconds_apart = frame([0] * events, range(events), np.arange(events) * 10**9, SOURCES[0])
    streams = []

    async def run():
        async with KVStream(StreamConfig(metrics=QUIET, consumers=2)) as stream:
            streams.append(stream)
            await stream.send(seconds_apart)
            await stream.flush()

    async def main():
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                while not streams or streams[0].accounts().processed < 20 * 16:
                    for stream in streams:
                        assert stream.accounts().balanced
                    await checkpoint()
                tasks.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    accounts = streams[0].accounts()
    assert 20 * 16 <= accounts.processed < events
    assert accounts.balanced
    assert accounts.in_flight == 0
    assert accounts.dropped == {"cancelled": events - accounts.processed}


async def test_one_consumer_applies_everything_on_the_event_loop(entered):
    async with KVStream(StreamConfig(metrics=QUIET)) as stream:
        await stream.send(large(SOURCES[0]))
    assert entered == {SOURCES[0]: {threading.get_ident()}}


async def test_a_small_batch_of_several_consumers_is_applied_on_the_event_loop(entered):
    async with KVStream(StreamConfig(metrics=QUIET, consumers=2)) as stream:
        await stream.send(large(SOURCES[0], 100))
    assert entered == {SOURCES[0]: {threading.get_ident()}}


async def test_others_get_their_turn_while_a_thread_applies_a_batch(every_batch_in_a_thread):
    async with KVStream(StreamConfig(metrics=QUIET, consumers=2)) as stream:
        await stream.send(large(SOURCES[0], 300_000))
        assert await turns_while(stream.flush()) >= 9
        assert stream.accounts().processed == 300_000


async def test_what_a_thread_raises_ends_the_stream(every_batch_in_a_thread, monkeypatch):
    def fail(self, frames, records=False):
        yield from ()
        raise ZeroDivisionError

    monkeypatch.setattr(Monitor, "slices", fail)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with KVStream(StreamConfig(metrics=QUIET, consumers=2)) as stream:
            await stream.send(large(SOURCES[0], 100))
            await anyio.sleep(DEADLINE)
    assert raised.group_contains(ZeroDivisionError)
    assert stream.accounts().dropped == {"cancelled": 100}


@pytest.mark.parametrize("most", [7, 500])
async def test_consumers_at_once_keep_to_the_bounds_of_the_stream(most, every_batch_in_a_thread, caplog):
    metrics = MetricsConfig(export_interval=0.0, max_caches=5, max_live_blocks=most)
    live = []
    async with KVStream(StreamConfig(metrics=metrics, consumers=4)) as stream:
        for start in range(0, 1_000, 100):
            for source in SOURCES:
                await stream.send(
                    EventFrame(
                        np.zeros(100, np.uint8), np.arange(start, start + 100), np.full(100, start), source
                    )
                )
            await checkpoint()
            live.append(stream.accounts().live)
        await stream.flush()
        assert len(consumers_of(stream).caches()) == 5
        accounts = stream.accounts()
    assert max(live) <= accounts.live == most
    assert accounts.balanced
    assert accounts.dropped["too_many_caches"] == 3_000
    assert accounts.dropped["too_many_blocks"] == 5_000 - most


@needs_compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_child_forked_while_threads_apply_waits_for_none_of_them():
    def look():
        accounts = stream.accounts()
        return accounts.balanced, accounts.in_flight, accounts.dropped["forked"]

    async with KVStream(StreamConfig(metrics=QUIET, consumers=2)) as stream:
        for source in SOURCES:
            await stream.send(large(source, 300_000))
        while not stream.accounts().processed:
            await checkpoint()
        await checkpoint()  # the next slices have begun
        balanced, in_flight, dropped = in_child(look)
    assert balanced
    assert in_flight == 0
    assert dropped > 0
    assert stream.accounts().processed == 300_000 * len(SOURCES)


@pytest.mark.parametrize(
    ("events", "seconds", "clears", "slices"),
    [
        (300_000, 0, False, 9),
        (640, 1, False, 40),
        (320, 60, False, 20),
        (320, 10**7, False, 20),
        (640, 0, True, 10),
    ],
)
async def test_others_get_their_turn_while_a_large_frame_is_applied(events, seconds, clears, slices):
    ops = np.arange(events) % 2 * 3 if clears else np.zeros(events)
    ts = np.arange(events) * seconds * 10**9
    large = frame(ops, np.arange(events) % 1000, ts)
    async with KVStream(config()) as stream:
        await stream.send(large)
        assert await turns_while(stream.flush()) >= slices
        assert stream.accounts().processed == events


async def test_accounts_are_exact_between_the_slices_of_a_frame_and_when_one_is_the_last():
    events = 100 * 16
    large = frame([0] * events, range(events), np.arange(events) * 10**9, seq=0)
    again = frame([0] * 7, range(7), [events * 10**9] * 7, seq=0)
    seen = set()
    async with anyio.create_task_group() as tasks:

        async def run():
            async with KVStream(config()) as stream:
                seen.add(stream)
                await stream.send(large)
                await stream.send(again)
                await stream.flush()

        tasks.start_soon(run)
        while not seen or next(iter(seen)).accounts().processed < 50 * 16:
            for stream in seen:
                assert stream.accounts().balanced
            await checkpoint()
        tasks.cancel_scope.cancel()
    accounts = stream.accounts()
    assert 50 * 16 <= accounts.processed < events
    assert accounts.balanced
    assert accounts.in_flight == 0
    assert accounts.dropped == {"duplicate": 7, "cancelled": events - accounts.processed}


async def test_a_frame_in_slices_is_no_repeat_of_itself():
    async with KVStream(config()) as stream:
        for seq in range(3):
            await stream.send(frame([0] * 100, range(100), (np.arange(100) + 100 * seq) * 10**9, seq=seq))
        await stream.flush()
        accounts = stream.accounts()
    assert (accounts.duplicate_frames, accounts.lost_frames, accounts.processed) == (0, 0, 300)


async def test_a_consumer_that_waits_holds_none_of_the_frames_that_it_has_applied():
    async with KVStream() as stream:
        frames = [frame([0], [n], [n]) for n in range(4)]
        columns = [weakref.ref(each.ops) for each in frames]
        for each in frames:
            await stream.send(each)
        del frames, each
        await stream.flush()
        for _ in range(10):
            await checkpoint()
        assert [column() for column in columns] == [None] * 4
