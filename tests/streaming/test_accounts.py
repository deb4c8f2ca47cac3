"""Accounts are exact at every moment, also while threads record."""

import threading
import time

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from kvstream import KVStream, MetricsConfig, StreamConfig
from tests.test_stream import small_frames

POLICIES = ["block", "drop_newest", "drop_oldest", "sample"]


@pytest.mark.usefixtures("threads_take_turns_often")
@pytest.mark.parametrize("overflow", POLICIES)
@pytest.mark.parametrize("most", [500, pytest.param(5_000, marks=pytest.mark.slow)])
async def test_accounts_balance_at_every_look_while_threads_record(overflow, most):
    settings = StreamConfig(
        metrics=MetricsConfig(export_interval=0.0, curve_keys=0, remembered_evictions=0),
        consumers=2,
        overflow=overflow,
        queue_events=3_000,
        frame_events=50,
        flush_seconds=0.001,
    )
    stop = threading.Event()

    def record(producer):
        recorder = producer.recorder()
        while not stop.is_set():
            producer.allocated_nowait(range(60))
            producer.accessed_nowait(7)
            recorder.allocated_nowait(range(200))
            recorder.accessed_nowait("no block")
            recorder.end_step()
            producer.evicted_nowait(range(60))
            time.sleep(0.001)  # lets the loop look

    async with KVStream(settings) as stream:
        producers = [stream.producer(f"engine-{n}") for n in range(3)]
        threads = [threading.Thread(target=record, args=(producer,)) for producer in producers]
        for thread in threads:
            thread.start()
        looks, seen = 0, set()
        try:
            while looks < most or len(seen) < 10:
                accounts = stream.accounts()
                assert accounts.balanced, accounts
                assert accounts.in_flight >= 0, accounts
                inside = stream.statistics()
                assert inside.accounts.balanced
                for producer in inside.producers:
                    assert producer.offered == producer.sent + producer.buffered + sum(
                        producer.dropped.values()
                    )
                seen.add(accounts.processed)
                looks += 1
                if looks % 5 == 0:
                    await checkpoint()
        finally:
            stop.set()
            for thread in threads:
                await to_thread.run_sync(thread.join)
        await stream.flush()
        accounts, inside = stream.accounts(), stream.statistics()
        held = sum(queue.events + queue.processing_events for queue in inside.queues)
        assert accounts.in_flight == held + sum(producer.buffered for producer in inside.producers) == 0
    assert stream.accounts().balanced
    assert stream.accounts().in_flight == 0


async def test_a_frame_that_waits_for_room_is_in_flight():
    async with KVStream(StreamConfig(queue_events=100)) as stream:
        async with anyio.create_task_group() as tasks:
            for each in small_frames(3):
                tasks.start_soon(stream.send, each)
            await checkpoint()
            assert stream.accounts().balanced
    assert stream.accounts().processed == 300
