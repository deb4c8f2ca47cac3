import gc
import threading

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from kvstream import ConfigError, KVStream, MalformedInputError, MetricsConfig, StreamConfig
from kvstream.recording import registry
from kvstream.recording.producer import Producer
from tests.test_stream import frame
from tests.waiting import DEADLINE


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


async def test_sources_of_ready_frames_without_end_are_remembered_within_a_bound(monkeypatch):
    monkeypatch.setattr(registry, "_MOST_QUEUES_KNOWN", 10)
    async with KVStream() as stream:
        for n in range(100):
            await stream.send(frame([0], [1], [1], f"s{n}"))
        assert len(stream._producers._queues) <= 10
    assert stream.accounts().processed == 100


async def test_what_is_no_name_is_refused_also_where_it_equals_one():
    class Name(str):
        __slots__ = ()

    async with KVStream() as stream:
        await stream.send(frame([0], [1], [1], "a"))
        for name in (Name("a"), None, ["a"], ""):
            with pytest.raises(MalformedInputError):
                await stream.send(frame([0], [1], [1], name))
    assert stream.accounts().offered == 1
