"""Summaries of a stream, made cache by cache while other tasks go on."""

from collections import Counter

from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.alerts.evaluator import Evaluator
from kvstream.engine import contents
from kvstream.engine.gathering import Gathering
from kvstream.streaming import turns
from kvstream.streaming.accounts import StreamAccounts
from tests.waiting import note_calls, numbered_turns

SOURCES = 30


async def fill(stream):
    for number in range(SOURCES):
        engine = stream.producer(f"vllm-{number}")
        await engine.allocated(range(8), keys=range(100, 108))
        await engine.accessed(1)
        await engine.evicted([2, 3])
    await stream.flush()


async def test_each_part_of_a_summary_has_a_turn_of_its_own(monkeypatch):
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    async with KVStream(StreamConfig()) as stream, numbered_turns() as turn:
        await fill(stream)
        parts = []
        note_calls(
            monkeypatch,
            lambda: parts.append(turn()),
            (Gathering, "expect"),
            (Gathering, "add"),
            (contents, "miss_causes"),
            (contents, "tier_uses"),
            (contents, "shared_content"),
            (StreamAccounts, "of"),
        )
        judged = []
        note_calls(monkeypatch, lambda: judged.append(turn()), (Evaluator, "firing"))
        await stream.summary()
    assert len(set(judged)) == len(judged) == SOURCES
    assert len(parts) == 2 * SOURCES + 4
    assert max(Counter(parts).values()) == 1


async def test_a_summary_made_in_turns_is_the_one_made_at_once():
    async with KVStream(StreamConfig()) as stream:
        await fill(stream)
        assert await stream.summary() == stream.summary_nowait()


async def test_no_capacity_is_known_before_there_is_a_cache():
    config = StreamConfig(metrics=MetricsConfig(capacity=8))
    async with KVStream(config) as stream:
        summary = stream.summary_nowait()
        assert (summary.capacity, summary.occupancy) == (None, None)
        await stream.producer("vllm-0").allocated(range(2))
        await stream.flush()
        summary = stream.summary_nowait()
        assert (summary.capacity, summary.occupancy) == (8, 0.25)
