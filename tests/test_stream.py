import logging
import threading

import anyio
import numpy as np
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from kvstream import (
    AlertLevel,
    ClosedStreamError,
    ConfigError,
    EventFrame,
    KVStream,
    Labels,
    Malformed,
    MalformedInputError,
    MetricsConfig,
    StreamConfig,
)
from kvstream.stream import consumers_of
from tests.waiting import DEADLINE


def config(**options):
    metrics = MetricsConfig(export_interval=options.pop("export_interval", 0.0))
    return StreamConfig(metrics=metrics, **options)


def frame(ops, blocks, ts, source="s", seq=-1):
    return EventFrame(np.array(ops, np.uint8), np.array(blocks), np.array(ts), source, seq=seq)


def small_frames(count, source="s", events=100):
    return [frame([0] * events, list(range(events)), [i] * events, source) for i in range(count)]


def trouble(source="s"):
    """A stream whose hit ratio collapses after five minutes: hit_ratio_drop fires, and becomes critical."""
    frames = []
    for second in range(540):
        n = 200
        ops = ([0] + [1] * 9) * 20 if second < 300 else [0] * n
        blocks = [i // 10 for i in range(n)] if second < 300 else list(range(n))
        frames.append(frame(ops, blocks, [second * 10**9] * n, source))
    return frames


async def test_leaving_the_stream_processes_everything_recorded():
    async with KVStream(config()) as stream:
        producer = stream.producer("engine-0")
        await producer.allocated([1, 2, 3])
        await producer.accessed(2)
        await producer.evicted(np.array([1, 2]), reason="expired")
        producer.cleared_nowait()
    summary = stream.summary_nowait()
    assert summary.final
    assert summary.evictions_by_reason["expired"] == 2
    assert summary.evictions_by_reason["cleared"] == 1
    assert summary.accounts.offered == summary.accounts.processed == 7
    assert summary.accounts.balanced


async def test_producers_say_whose_blocks_they_are():
    async with KVStream(StreamConfig(frame_events=3)) as stream:
        producer = stream.producer("engine-0")
        await producer.allocated([1, 2, 3], labels=Labels(tenant="acme"))
        producer.allocated_nowait(4, labels=Labels(tenant="umbrella", lora="sql"))
        await producer.accessed([1, 4, 4])
        await producer.allocated(5)
        await stream.flush()
        summary = stream.summary_nowait("engine-0")
    tenants = {of.value: (of.blocks_live, of.accesses, of.hit_share) for of in summary.labels["tenant"]}
    assert tenants == {"acme": (3, 1, 1 / 3), "umbrella": (1, 2, 2 / 3), None: (1, 0, 0.0)}
    assert {of.value for of in summary.labels["lora"]} == {"sql", None}
    hot, held = stream.hottest("engine-0", n=1)[0], stream.longest_held("engine-0")
    assert (hot.block_id, hot.accesses, hot.labels) == (4, 2, Labels(tenant="umbrella", lora="sql"))
    assert [block.block_id for block in held][-1] == 5


async def test_a_producer_sends_the_content_keys_of_slots():
    async with KVStream(config()) as stream:
        producer = stream.producer("engine-0")
        await producer.allocated([1, 2], keys=[70, None])
        producer.allocated_nowait(3, keys=-(2**63))
        recorder = producer.recorder()
        recorder.allocated_with_nowait(4, 72)
        recorder.end_step()
        await producer.evicted([1, 2, 3, 4])
        producer.allocated_nowait(np.array([5, 6, 7, 8]), keys=np.array([72, 2**63, 70, 99], dtype=np.uint64))
        with pytest.raises(MalformedInputError, match="2 blocks need as many keys, not 1"):
            producer.allocated_nowait([9, 10], keys=[5])
        await stream.flush()
        summary = stream.summary_nowait("engine-0")
    assert (summary.accounts.allocations, summary.total_evictions, summary.premature.count) == (8, 4, 3)


async def test_what_engines_share_is_known_whichever_consumers_follow_them():
    contents = [2**40 + n for n in range(100)]
    async with KVStream(config(consumers=3)) as stream:
        for n in range(6):
            await stream.send(frame([0] * 100, contents, [n * 1_000_000] * 100, f"engine-{n}"))
        await stream.flush()
        summary = await stream.summary()
        assert (await stream.summary("engine-3")).shared is None
    assert summary.shared.engines == 6
    assert summary.shared.held_by == [0.0] * 5 + [1.0]
    assert summary.shared.duplicates == pytest.approx(5 / 6)
    assert summary.shared.held_elsewhere == pytest.approx(5 / 6), "all but the first engine's misses"
    assert summary.misses.never_stored == 1.0


async def test_flush_makes_a_summary_current():
    async with KVStream(config(flush_seconds=60)) as stream:
        producer = stream.producer()
        producer.allocated_nowait(range(10))
        assert stream.summary_nowait().accounts.in_flight == 10
        await stream.flush()
        assert stream.summary_nowait().blocks_live == 10


async def test_an_unfinished_frame_is_sent_on_by_time():
    async with KVStream(config(flush_seconds=0.01)) as stream:
        evictions = stream.evictions()
        producer = stream.producer()
        producer.allocated_nowait(1)
        producer.evicted_nowait(1)
        with anyio.fail_after(DEADLINE):
            assert (await anext(evictions)).block_id == 1


async def test_order_within_a_source_is_kept_over_frames_and_consumers():
    async with KVStream(config(consumers=3, frame_events=7)) as stream:
        producers = [stream.producer(f"engine-{i}") for i in range(10)]
        for _ in range(200):
            for producer in producers:
                await producer.allocated([1, 2])
                await producer.accessed(1)
                await producer.evicted([1, 2])
    accounts = stream.summary_nowait().accounts
    assert accounts.unknown_accesses == accounts.unknown_evictions == 0
    assert accounts.evicted == 10 * 200 * 2
    assert stream.summary_nowait().evictions_by_reason["replaced"] == 0


@pytest.mark.parametrize("rounds", [200, pytest.param(2_500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("overflow", ["block", "drop_newest", "drop_oldest", "sample"])
async def test_events_from_threads_and_tasks_are_all_accounted_for(overflow, rounds, caplog):
    caplog.set_level(logging.CRITICAL, "kvstream")
    limit = 20_000
    options = config(
        consumers=4, queue_events=limit, overflow=overflow, export_interval=0.02, shutdown_timeout=DEADLINE
    )
    blocks, events = list(range(50)), 8 * rounds * 2 * 50
    most = 0
    stream = KVStream(options)
    sleeping = anyio.Event()

    async def sleeper(summary):
        sleeping.set()
        await anyio.sleep(0.05)

    def raiser(summary):
        raise RuntimeError("no")

    stream.on_summary(sleeper)
    stream.on_summary(raiser)

    def in_thread(producer):
        for _ in range(rounds):
            producer.allocated_nowait(blocks)
            producer.evicted_nowait(blocks)

    async def in_task(producer):
        nonlocal most
        for i in range(rounds):
            await producer.allocated(blocks)
            await producer.evicted(blocks)
            if i % 50 == 0:
                most = max(most, *(q.events for q in stream.statistics().queues))
                await checkpoint()

    with anyio.fail_after(2 * DEADLINE):
        async with stream:
            producers = [stream.producer(f"engine-{i}") for i in range(8)]
            async with anyio.create_task_group() as tasks:
                for producer in producers[:4]:
                    tasks.start_soon(in_task, producer)
                for producer in producers[4:]:
                    tasks.start_soon(to_thread.run_sync, in_thread, producer)
            await sleeping.wait()
    statistics = stream.statistics()
    accounts = statistics.accounts
    assert accounts.balanced
    assert accounts.in_flight == 0
    assert accounts.offered == events
    assert most <= limit
    if overflow == "block":
        assert accounts.dropped == {}
        assert accounts.processed == events
        assert accounts.unknown_evictions == 0
        assert accounts.evicted == events // 2
    else:
        assert accounts.processed + sum(accounts.dropped.values()) == events
        reasons = {
            "drop_newest": {"queue_full"},
            "drop_oldest": {"displaced", "queue_full"},
            "sample": {"sampled", "queue_full"},
        }
        assert set(accounts.dropped) <= reasons[overflow]
    by_name = {s.name.split(".")[-1]: s for s in statistics.subscribers}
    assert by_name["raiser"].failures == by_name["raiser"].delivered >= 1
    for s in statistics.subscribers:
        assert s.published == s.delivered + s.buffered + s.dropped


async def test_block_makes_a_task_wait_until_there_is_room():
    done = []
    async with KVStream(config(queue_events=100, frame_events=10)) as stream:
        producer = stream.producer()
        async with anyio.create_task_group() as tasks:

            async def produce():
                for i in range(100):
                    await producer.allocated(list(range(10 * i, 10 * i + 10)))
                done.append(True)

            tasks.start_soon(produce)
    assert done
    assert stream.summary_nowait().blocks_live == 1000
    assert producer.statistics().dropped == {}


async def test_on_the_loop_a_full_queue_never_waits_and_counts_what_it_drops():
    async with KVStream(config(queue_events=100, frame_events=10)) as stream:
        producer = stream.producer()
        for i in range(100):
            producer.allocated_nowait(list(range(10 * i, 10 * i + 10)))
        dropped = producer.statistics().dropped
        assert dropped == {"would_block": 1000 - 100 - 80}
    assert stream.summary_nowait().accounts.processed == 180
    assert stream.summary_nowait().accounts.balanced


async def test_drop_newest_keeps_what_came_first():
    async with KVStream(config(queue_events=100, frame_events=10, overflow="drop_newest")) as stream:
        producer = stream.producer()
        for i in range(20):
            producer.allocated_nowait(list(range(10 * i, 10 * i + 10)))
        await stream.flush()
        blocks = {b.block_id for t in consumers_of(stream).caches() for b in t.table.live_blocks()}
    assert blocks == set(range(100))
    assert stream.summary_nowait().accounts.dropped == {"queue_full": 100}


async def test_drop_oldest_keeps_what_came_last_and_leaves_other_producers_alone():
    async with KVStream(config(queue_events=100, frame_events=10)) as stream:
        other = stream.producer("s", "cpu", overflow="block")
        producer = stream.producer("s", "gpu", overflow="drop_oldest")
        other.allocated_nowait(list(range(30)))
        for i in range(20):
            producer.allocated_nowait(list(range(10 * i, 10 * i + 10)))
        await stream.flush()
        live = {t.tier: {b.block_id for b in t.table.live_blocks()} for t in consumers_of(stream).caches()}
    assert live["cpu"] == set(range(30))
    assert live["gpu"] == set(range(130, 200))
    assert producer.statistics().dropped == {"displaced": 130}


async def test_sample_keeps_whole_blocks():
    async with KVStream(config(queue_events=1000, frame_events=100, overflow="sample")) as stream:
        producer = stream.producer()
        blocks = list(range(100))
        for _ in range(30):
            producer.allocated_nowait(blocks)
            producer.evicted_nowait(blocks)
        rate = producer.statistics().sample_rate
        await stream.flush()
        accounts = stream.summary_nowait().accounts
    assert rate < 1.0
    assert accounts.balanced
    assert accounts.dropped["sampled"] > 0
    # A block kept to the end has all of its generations; the others stop at some point.
    assert accounts.unknown_evictions == 0


async def test_a_slow_subscriber_drops_its_oldest_and_delays_nobody():
    async with KVStream(config()) as stream:
        slow = stream.evictions(buffer=10)
        newest = stream.evictions(buffer=10, policy="drop_newest")
        producer = stream.producer()
        await producer.allocated(range(100))
        await producer.evicted(range(100))
    kept = [event.block_id async for event in slow]
    assert kept == list(range(90, 100))
    assert [event.block_id async for event in newest] == list(range(10))
    assert slow.statistics()[1:5] == (100, 10, 0, 90)


async def test_a_raising_handler_is_named_in_the_log_and_hears_the_next(caplog):
    heard = []

    async def picky(event):
        heard.append(event.block_id)
        raise ValueError("cannot")

    async with KVStream(config()) as stream:
        stream.on_eviction(picky)
        producer = stream.producer()
        await producer.allocated([1, 2])
        await producer.evicted([1, 2])
    assert heard == [1, 2]
    assert "picky" in caplog.text
    assert stream.statistics().subscribers[0].failures == 2


async def test_a_plain_handler_runs_off_the_loop():
    threads = []
    async with KVStream(config()) as stream:

        @stream.on_summary
        def handler(summary):
            threads.append(threading.get_ident())

    assert threads
    assert threads[0] != threading.get_ident()


async def test_alerts_reach_iterators_and_handlers_by_level():
    heard = []
    async with KVStream(config()) as stream:
        critical = stream.alerts(AlertLevel.CRITICAL)
        stream.on_alert(heard.append)
        for part in trouble():
            await stream.send(part)
        await stream.flush()  # which an interpreted core may need longer for than a stream has to end
    assert [a.rule async for a in critical] == ["hit_ratio_drop"]
    drops = [(a.level.value, a.state) for a in heard if a.rule == "hit_ratio_drop"]
    assert drops == [("warning", "firing"), ("critical", "firing")]


async def test_summaries_come_periodically_and_once_at_the_end():
    async with KVStream(config(export_interval=0.01)) as stream:
        summaries = stream.summaries()
        with anyio.fail_after(DEADLINE):
            first = await anext(summaries)
        assert not first.final
    rest = [s async for s in summaries]
    assert [s.final for s in rest][-1]
    assert sum(s.final for s in rest) == 1


async def test_cancellation_drains_nothing_but_keeps_accounts_true():
    with anyio.CancelScope() as scope:
        async with KVStream(config(queue_events=10**6)) as stream:
            alerts = stream.alerts()
            producer = stream.producer()
            producer.allocated_nowait(list(range(5)))
            for part in small_frames(50):
                await stream.send(part)
            scope.cancel()
            await checkpoint()
    accounts = stream.summary_nowait().accounts
    assert accounts.balanced
    assert accounts.in_flight == 0
    assert accounts.dropped["cancelled"] >= 5
    assert [a async for a in alerts] == []


async def test_an_exception_in_the_body_comes_out_as_it_is():
    with pytest.raises(KeyError):
        async with KVStream(config()) as stream:
            stream.producer().allocated_nowait([1, 2])
            raise KeyError("mine")
    accounts = stream.summary_nowait().accounts
    assert accounts.dropped == {"cancelled": 2}
    assert accounts.balanced


async def test_shutdown_gives_up_on_a_handler_that_never_ends():
    async with KVStream(config(shutdown_timeout=0.05)) as stream:
        stream.on_summary(lambda_forever)
        await stream.producer().allocated([1])
        await stream.flush()
    assert stream.summary_nowait().accounts.processed == 1


async def lambda_forever(_):
    await anyio.sleep_forever()


async def test_events_after_closing_are_counted_as_dropped():
    async with KVStream(config()) as stream:
        producer = stream.producer()
    producer.allocated_nowait([1, 2])
    await producer.allocated(3)
    assert stream.summary_nowait().accounts.dropped == {"closed": 3}
    assert stream.summary_nowait().accounts.balanced


async def test_a_closed_or_unopened_stream_says_so():
    stream = KVStream(config())
    with pytest.raises(ClosedStreamError, match="not open yet"):
        stream.producer()
    with pytest.raises(ClosedStreamError, match="not open yet"):
        await stream.forget("engine-0")
    async with stream:
        pass
    with pytest.raises(ClosedStreamError, match="closed"):
        await stream.send(small_frames(1)[0])
    with pytest.raises(ClosedStreamError):
        stream.alerts()
    with pytest.raises(ClosedStreamError):
        await stream.__aenter__()


async def test_rejected_input_is_counted_and_kept_within_a_bound():
    async with KVStream(config()) as stream:
        for i in range(500):
            stream.reject(Malformed("x", "line", i, "odd"))
    assert stream.summary_nowait().accounts.malformed == 500
    assert len(stream.malformed) == 100
    assert stream.summary_nowait().accounts.balanced


async def test_losses_of_a_producer_raise_an_alert():
    async with KVStream(config(queue_events=10, frame_events=10)) as stream:
        alerts = stream.alerts()
        producer = stream.producer()
        for _ in range(30):
            producer.allocated_nowait(list(range(10)), ts=10**9)
        await stream.flush()
        await producer.allocated(list(range(10)), ts=5 * 10**9)
    assert "lost_frames" in [a.rule async for a in alerts]


async def test_cancelling_a_waiting_receiver_loses_nothing():
    async with KVStream(config()) as stream:
        evictions = stream.evictions()
        with anyio.move_on_after(0.01):
            await anext(evictions)
        producer = stream.producer()
        await producer.allocated([1])
        await producer.evicted([1])
        await stream.flush()
        with anyio.fail_after(DEADLINE):
            assert (await anext(evictions)).block_id == 1


async def test_the_producer_of_a_source_is_made_once():
    async with KVStream(config()) as stream:
        assert stream.producer("a") is stream.producer("a")
        assert stream.producer("a", "cpu") is not stream.producer("a")
        assert stream.producer("a", overflow="drop_newest") is not stream.producer("a")


@pytest.mark.parametrize("arguments", [("",), ("x" * 257,), ("a", ""), ("a", "gpu", "explode")])
async def test_a_producer_that_cannot_be_is_refused(arguments):
    async with KVStream(config()) as stream:
        with pytest.raises(ConfigError):
            stream.producer(*arguments)


@pytest.mark.parametrize("ts", [-1, 1.5, 2**63, "now"])
async def test_a_time_that_is_none_is_refused_and_nothing_recorded(ts):
    async with KVStream(config()) as stream:
        with pytest.raises(MalformedInputError, match="nanoseconds"):
            stream.producer().allocated_nowait(1, ts=ts)
        assert stream.summary_nowait().accounts.offered == 0


async def test_a_task_that_only_produces_lets_consumers_run():
    async with KVStream(config(queue_events=1000, frame_events=100, overflow="drop_newest")) as stream:
        producer = stream.producer()
        for i in range(1000):
            await producer.allocated(list(range(10 * i, 10 * i + 10)))
    assert stream.summary_nowait().accounts.processed == 10_000


@pytest.mark.parametrize("consumers", [1, 3])
async def test_caches_beyond_the_bound_are_dropped_and_counted(consumers, caplog):
    config = StreamConfig(consumers=consumers, metrics=MetricsConfig(max_caches=5))
    with anyio.fail_after(DEADLINE):
        async with KVStream(config) as stream:
            for n in range(20):
                for tier in ("gpu", "cpu"):
                    await stream.send(
                        EventFrame(np.zeros(3, np.uint8), np.arange(3), np.full(3, n), f"s{n}", tier)
                    )
                await stream.flush()
            await stream.producer("late").allocated([1, 2])
            await stream.flush()
            await stream.producer("late").allocated(3)
            await stream.flush()
            for monitor in consumers_of(stream).monitors:
                monitor.note_lost("later", 1)
            assert len(stream.caches()) == 5
            assert len(consumers_of(stream).sources()) <= 5
            accounts = stream.summary_nowait().accounts
    assert accounts.processed == 5 * 3
    assert accounts.dropped["too_many_caches"] == 40 * 3 - 5 * 3 + 3
    assert accounts.balanced
    assert "max_caches" in caplog.text
