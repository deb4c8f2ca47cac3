"""The state of a stream, as pages show it."""

from collections import Counter

import pytest

from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.blocks.table import BlockTable
from kvstream.metrics.history import HistoryBuilder
from kvstream.reports import overview
from kvstream.reports.overview import Selection, blocks, history, state_of
from kvstream.streaming import turns
from kvstream.streaming.accounts import StreamAccounts
from tests.waiting import note_calls, numbered_turns
from tests.web.fleets import START, fall_silent, send_hits

ALL = Selection(None, None)


def stream_of(**metrics):
    return KVStream(StreamConfig(metrics=MetricsConfig(capacity=512, **metrics)))


async def test_a_total_ends_with_the_newest_window_that_all_caches_have_passed():
    async with stream_of() as stream:
        await send_hits(stream, "ahead", seconds=30)
        await send_hits(stream, "behind", seconds=28)
        total = await history(stream, ALL, 100)
        assert total.ts[-1] == START // 10**9 + 26
        assert set(total.access_rate) == {200.0}
        assert (await history(stream, Selection("ahead", "gpu"), 100)).ts[-1] == START // 10**9 + 28


async def test_a_total_does_not_wait_for_a_cache_that_is_far_behind():
    async with stream_of() as stream:
        await send_hits(stream, "ahead", seconds=60)
        await send_hits(stream, "far behind", seconds=20)
        total = await history(stream, ALL, 10)
        assert total.ts[-1] == START // 10**9 + 58
        assert set(total.blocks) == {200}, "and still counts its blocks"


@pytest.mark.parametrize(("keys", "share"), [(None, None), (range(1, 21), 0.5)])
async def test_where_contents_are_unknown_so_is_whether_evictions_were_premature(keys, share):
    async with stream_of() as stream:
        producer = stream.producer("a")
        for second in range(2):  # the same content again, if it is known
            await producer.allocated(range(20), ts=START + second * 10**9, keys=keys)
            await producer.evicted(range(20), ts=START + second * 10**9 + 1)
        await producer.allocated([50], ts=START + 3 * 10**9)
        await stream.flush()
        state = await state_of(stream, ALL)
        summary = state.summary
        assert (summary.premature.share, summary.recent.premature_ratio) == (share, share)
        assert state.caches[0].premature_ratio == share
        assert state.history.premature_ratio[-1] == (None if share is None else 1.0)


async def test_evictions_of_unknown_contents_do_not_lower_the_share_of_premature_ones():
    async with stream_of() as stream:
        for source, keys in (("known", range(1, 21)), ("unknown", None)):
            producer = stream.producer(source)
            for second in range(2):
                await producer.allocated(range(20), ts=START + second * 10**9, keys=keys)
                await producer.evicted(range(20), ts=START + second * 10**9 + 1)
            await producer.allocated([50], ts=START + 3 * 10**9)
        await stream.flush()
        state = await state_of(stream, ALL)
        summary, history = state.summary, state.history
        assert (summary.total_evictions, summary.premature.count) == (80, 20)
        assert (summary.premature.share, summary.recent.premature_ratio) == (0.5, 0.5)
        assert summary.recent.premature_rate == 20 / summary.recent.seconds
        assert (history.premature_ratio[:2], history.premature_rate[:2]) == ([0.0, 1.0], [0.0, 20.0])
        for source in ("known", "unknown"):
            await stream.forget(source)
            assert stream.summary_nowait().premature.share == 0.5


async def test_a_history_of_hours_has_longer_rows_of_what_is_older():
    async with stream_of(windows=60) as stream:
        await send_hits(stream, "a", seconds=400)
        one_by_one = await history(stream, ALL)
        assert (len(one_by_one.ts), one_by_one.window_seconds) == (60, 1.0)
        short, long = [await history(stream, ALL, seconds=seconds) for seconds in (30, 3600)]
        assert (len(short.ts), short.window_seconds) == (30, 1.0)
        assert long.window_seconds == 10.0
        assert long.ts[-1] - long.ts[0] >= 390
        assert set(long.access_rate) == {100.0}


async def test_ages_go_on_while_nothing_comes():
    async with stream_of() as stream:
        await send_hits(stream, "a")
        before = await state_of(stream, ALL)
        await fall_silent(stream, 60.0)
        after = await state_of(stream, ALL)
        assert before.caches[0].age_seconds < 30.0 < 60.0 <= after.caches[0].age_seconds
        assert after.now - before.now >= 60.0


async def test_what_is_bad_in_absolute_terms_is_a_concern_though_no_rule_fires():
    async with stream_of() as stream:
        producer = stream.producer("poor")
        producer.accessed_nowait([1], ts=START)
        producer.allocated_nowait([1], ts=START)
        for second in range(60):
            producer.allocated_nowait(range(20), ts=START + second * 10**9)
            producer.evicted_nowait(range(20), ts=START + second * 10**9 + 1)
        producer.allocated_nowait([1], ts=START + 70 * 10**9)
        producer.accessed_nowait([1], ts=START + 70 * 10**9)
        producer.allocated_nowait([2], ts=START + 71 * 10**9)
        await stream.flush()
        (cache,) = (await state_of(stream, ALL)).caches
        assert cache.concern == "hit ratio 0.00: hardly any prefix is found"
        assert cache.level is None


async def test_each_view_of_the_blocks_has_a_turn_of_its_own(monkeypatch):
    async with KVStream() as stream, numbered_turns() as turn:
        await stream.producer("vllm-0").allocated(range(5))
        await stream.flush()
        views = []
        methods = ("hottest", "longest_held", "block_map")
        note_calls(monkeypatch, lambda: views.append(turn()), *((BlockTable, name) for name in methods))
        await blocks(stream, Selection("vllm-0", "gpu"))
    assert len(set(views)) == len(views) == 3


async def test_a_state_and_its_summary_take_turns(monkeypatch):
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    async with stream_of() as stream, numbered_turns() as turn:
        for number in range(5):
            await send_hits(stream, f"vllm-{number}", seconds=3)
        parts = []
        note_calls(
            monkeypatch,
            lambda: parts.append(turn()),
            (StreamAccounts, "of"),
            (StreamAccounts, "total"),
            (overview, "_cache_now"),
            (KVStream, "event_time"),
            (HistoryBuilder, "add"),
        )
        await state_of(stream, ALL)
    assert len(parts) == 1 + 1 + 5 + 1 + 5, "accounts of all caches are added up once"
    by_turn = Counter(parts)
    assert by_turn[parts[0]] == 2, "both are the same"
    assert len(by_turn) >= len(parts) - 2
