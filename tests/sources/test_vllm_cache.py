import importlib.util
import json
import warnings

import pytest

from kvstream.engine.monitor import Monitor
from kvstream.errors import ConfigError, MalformedInputError
from kvstream.sources.vllm_cache import ServiceTime, VLLMCache
from tests.sources.vllm_block_manager import GOLDEN, WORKLOADS, Engine, figures

SECOND = 1_000_000_000
OPS = ("alloc", "access", "evict")


def simulated(workload):
    service = ServiceTime(prefill_rate=workload.prefill_rate, decode_rate=workload.decode_rate)
    cache = VLLMCache("trace", workload.capacity, workload.block_tokens, service)
    for arrival in workload.arrivals():
        cache.arrive(arrival.at_ns, arrival.contents, arrival.prompt_tokens, arrival.output_tokens)
    cache.finish()
    return cache, cache.take()


def events_of(frame):
    columns = [column.tolist() for column in (frame.ops, frame.blocks, frame.keys, frame.ts)]
    return [(OPS[op], block, key, ts) for op, block, key, ts in zip(*columns, strict=True)]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_events_equal_those_that_vllms_own_block_manager_gave(workload):
    golden = json.loads(GOLDEN.read_text())["workloads"][workload.name]
    cache, frame = simulated(workload)
    assert figures(events_of(frame), cache.preemptions) == golden


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_events_equal_those_of_the_installed_vllm(workload):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: its block manager cannot be asked")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's own
        engine = Engine(workload)
        real = engine.run()
    cache, frame = simulated(workload)
    assert events_of(frame) == real
    assert cache.preemptions == engine.preemptions


def served(*requests, capacity=8, block_tokens=4):
    """The events of requests of (time in s, contents, prompt tokens, output tokens), one second a token."""
    service = ServiceTime(prefill_rate=1e9, decode_rate=1.0)
    cache = VLLMCache("trace", capacity, block_tokens, service)
    for at, contents, prompt_tokens, output_tokens in requests:
        cache.arrive(at * SECOND, contents, prompt_tokens, output_tokens)
    cache.finish()
    return [(op, block, key) for op, block, key, _ in events_of(cache.take())]


def test_the_last_token_of_a_prompt_is_never_found():
    first = [("alloc", 1, 70), ("alloc", 2, 71)]
    assert served((0, [70, 71], 8, 1), (5, [70, 71], 9, 1))[:2] == first
    assert served((0, [70, 71], 8, 1), (5, [70, 71], 9, 1))[2:4] == [("access", 1, 0), ("access", 2, 0)]
    assert served((0, [70, 71], 8, 1), (5, [70, 71], 8, 1))[2:] == [("access", 1, 0), ("alloc", 3, 71)]


def test_blocks_of_output_have_no_key_and_are_given_out_first_where_they_are_not_full():
    events = served((0, [70], 4, 3), (9, [80], 4, 1))
    assert events == [("alloc", 1, 70), ("alloc", 2, 0), ("evict", 2, 0), ("alloc", 2, 80)]


def test_a_request_waits_until_a_running_one_gives_up_its_blocks():
    events = served((0, [1, 2, 3, 4], 16, 5), (1, [5, 6, 7, 8], 16, 1), capacity=8)
    assert [key for op, _, key in events if op == "alloc"] == [1, 2, 3, 4, 0, 5, 6, 7, 8]
    assert events.index(("alloc", 6, 5)) > events.index(("alloc", 5, 0))


def test_a_running_request_shares_its_blocks_and_keeps_them():
    events = served((0, [70], 5, 9), (1, [70], 5, 1))
    assert events[:4] == [("alloc", 1, 70), ("alloc", 2, 0), ("access", 1, 0), ("alloc", 3, 0)]
    assert ("evict", 1, 0) not in events


def test_two_requests_that_miss_the_same_content_at_once_hold_it_twice():
    assert served((0, [70], 4, 2), (0, [70], 4, 2))[:2] == [("alloc", 1, 70), ("alloc", 2, 70)]


def test_a_request_that_never_has_room_is_malformed():
    cache = VLLMCache("trace", 4, 16, ServiceTime())
    cache.arrive(0, [1, 2], 40, 9)
    with pytest.raises(MalformedInputError, match="4 blocks never has room in 4"):
        cache.arrive(1, [1, 2], 40, 10)
    cache.finish()
    assert len(cache.take()) == 3
    assert cache.take() is None


def test_a_monitor_finds_premature_evictions_in_slots_that_have_keys():
    _, frame = simulated(WORKLOADS[1])
    monitor = Monitor()
    monitor.process(frame)
    summary = monitor.summary()
    keys, evicted, premature = {}, set(), 0
    for op, block, key, _ in events_of(frame):
        if op == "alloc" and key:
            premature += key in evicted
            evicted.discard(key)
            keys[block] = key
        elif op == "evict" and block in keys:
            evicted.add(keys.pop(block))
    assert summary.premature.count == premature > 0
    assert summary.accounts.live == summary.accounts.allocations - summary.total_evictions


@pytest.mark.parametrize(
    "rates", [{"prefill_rate": 0}, {"prefill_rate": 1e-8}, {"decode_rate": -1}, {"decode_rate": 2e9}]
)
def test_rates_that_no_engine_has_are_refused(rates):
    with pytest.raises(ConfigError, match="rates"):
        ServiceTime(**rates)


@pytest.mark.parametrize("rates", [{"prefill_rate": 0.001}, {"decode_rate": 0.001}])
def test_requests_that_run_until_after_the_last_time_of_64_bits_are_refused(rates):
    cache = VLLMCache("trace", 100, 10**6, ServiceTime(**rates))
    with pytest.raises(ConfigError, match=r"after 2262 at .*0\.001 "):
        for tokens in (10**6, 10**7):
            cache.arrive(0, [], tokens, tokens)
        cache.finish()
    assert cache.take().ts.min() == 0  # none has wrapped around
