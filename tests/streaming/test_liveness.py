"""Silent sources are noticed by the clock, and forgotten in the end."""

import anyio
import numpy as np
import trio
from trio.testing import MockClock

from kvstream import EventFrame, KVStream, MetricsConfig, StreamConfig
from kvstream.events.types import Op
from kvstream.stream import consumers_of


def frame(op, blocks, source="s", ts=0, seq=-1):
    n = len(blocks)
    return EventFrame(np.full(n, op, np.uint8), np.array(blocks), np.full(n, ts), source, seq=seq)


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
            left = [source.source for source in consumers_of(stream).sources()]
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


async def test_the_clock_leaves_a_source_alone_while_its_frame_is_being_applied():
    times = np.arange(2000) * 10**9
    metrics = MetricsConfig(window_seconds=0.002, export_interval=0)
    async with KVStream(StreamConfig(metrics=metrics)) as stream:
        await stream.send(frame(Op.ALLOC, range(2000), ts=times))
        await stream.flush()
        assert stream.accounts().clock_steps == 0
