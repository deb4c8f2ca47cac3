"""Hours of stream in milliseconds: the core on trio, with a virtual clock and a seeded scheduler.

Needs two of trio's private names, kept here alone: the scheduler's random generator and its batch order.
"""

import random

import anyio
import pytest
import trio
import trio._core._run as trio_scheduler
from trio.testing import MockClock

from kvstream import KVStream, MetricsConfig, StreamConfig

HOUR = 3600
START = 1_767_225_600_000_000_000


def simulate(seed, main, monkeypatch):
    monkeypatch.setattr(trio_scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr(trio_scheduler, "_r", random.Random(seed))
    return trio.run(main, clock=MockClock(autojump_threshold=0))


def virtual_ns():
    return START + round(trio.current_time() * 1e9)


async def engine(stream, name, rng, hours, bad_from=None, bad_to=None):
    """Allocates, accesses and evicts five times a second; between two minutes nothing is found again."""
    producer = stream.producer(name)
    end = trio.current_time() + hours * HOUR
    start = trio.current_time()
    step = 0
    while trio.current_time() < end:
        minute = (trio.current_time() - start) / 60
        bad = bad_from is not None and bad_from <= minute < bad_to
        blocks = [(step * 8 + i) % 512 for i in range(8)]
        await producer.evicted(blocks)
        await producer.allocated(blocks)
        if not bad:
            await producer.accessed([b for b in blocks for _ in range(8)])
        step += 1
        await anyio.sleep(rng.uniform(0.15, 0.25))


@pytest.mark.parametrize(
    ("seed", "minutes", "bad"),
    [(1, 17, (8, 13)), *(pytest.param(seed, 60, (20, 30), marks=pytest.mark.slow) for seed in (1, 2))],
)
def test_some_bad_minutes_wake_someone_once(seed, minutes, bad, monkeypatch):
    async def main():
        config = StreamConfig(metrics=MetricsConfig(export_interval=60.0), flush_seconds=1.0, consumers=2)
        async with KVStream(config, clock=virtual_ns) as stream:
            alerts, summaries = stream.alerts(), stream.summaries()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine, stream, "good", random.Random(seed), minutes / 60)
                tasks.start_soon(engine, stream, "bad", random.Random(seed + 1), minutes / 60, *bad)
        found = [(a.source, a.rule, a.state, (a.timestamp - START / 1e9) / 60) async for a in alerts]
        return found, [s.timestamp async for s in summaries], stream.summary_nowait().accounts

    alerts, summaries, accounts = simulate(seed, main, monkeypatch)
    drops = [(source, state) for source, rule, state, _ in alerts if rule == "hit_ratio_drop"]
    begin, end = bad
    assert drops == [("bad", "firing"), ("bad", "firing"), ("bad", "resolved")], "one rises"
    fired, rose, resolved = (minute for _, rule, _, minute in alerts if rule == "hit_ratio_drop")
    assert begin < fired < begin + 1
    assert rose == pytest.approx(fired + 2.5, abs=0.05)
    assert end + 1 < resolved < end + 3
    assert not [a for a in alerts if a[0] == "good"]
    assert minutes <= len(summaries) <= minutes + 2
    assert accounts.balanced
    assert not accounts.dropped


def test_a_silent_engine_is_noticed_by_the_clock_and_in_time(monkeypatch):
    async def main():
        async with KVStream(StreamConfig(flush_seconds=0.5), clock=virtual_ns) as stream:
            alerts = stream.alerts()
            await engine(stream, "engine-0", random.Random(3), 0.05)
            stopped = trio.current_time()
            async for alert in alerts:
                if alert.rule == "engine_stalled":
                    break
            return alert, stopped, trio.current_time()

    alert, stopped, noticed = simulate(3, main, monkeypatch)
    assert alert.state == "firing"
    assert alert.timestamp - START / 1e9 == pytest.approx(stopped + 31, abs=1.5)
    assert noticed - stopped < 34


def test_the_same_seed_gives_the_same_run(monkeypatch):
    async def main():
        async with KVStream(StreamConfig(frame_events=50, flush_seconds=0.3), clock=virtual_ns) as stream:
            evictions = stream.evictions(buffer=10**6)
            async with anyio.create_task_group() as tasks:
                for i in range(3):
                    tasks.start_soon(engine, stream, f"e{i}", random.Random(i), 0.01)
        return [(e.source, e.block_id, e.timestamp) async for e in evictions]

    first = simulate(7, main, monkeypatch)
    assert len(first) > 500
    assert first == simulate(7, main, monkeypatch)


@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(8, 80), marks=pytest.mark.slow)])
def test_cancelling_at_any_moment_keeps_the_accounts(seeds, monkeypatch):
    async def run(at):
        async def main():
            with anyio.move_on_after(at):
                config = StreamConfig(frame_events=64, queue_events=256, flush_seconds=0.1, consumers=2)
                async with KVStream(config, clock=virtual_ns) as stream:
                    async with anyio.create_task_group() as tasks:
                        for i in range(4):
                            tasks.start_soon(engine, stream, f"e{i}", random.Random(i), 1)
            return stream.summary_nowait().accounts

        return main

    for seed in seeds:
        at = random.Random(seed).uniform(0.0, 5.0)
        accounts = simulate(seed, trio.run(run, at), monkeypatch)
        assert accounts.balanced
        assert accounts.in_flight == 0
