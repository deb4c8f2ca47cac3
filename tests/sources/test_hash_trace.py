"""Traces of requests by the hashes of their blocks, through a simulated cache."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.engine.monitor import Monitor
from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.sources.bailian import bailian_trace
from kvstream.sources.files import read_events
from kvstream.sources.lmcache import lookup_log
from kvstream.sources.mooncake import mooncake_trace
from kvstream.sources.options import ReadOptions
from kvstream.sources.reader import EventReader
from kvstream.sources.vllm_cache import ServiceTime

DATA = Path(__file__).parent.parent / "data"


def line(timestamp=None, hash_ids=(), **more):
    row = {"timestamp": timestamp, "input_length": 512, "output_length": 9, "hash_ids": hash_ids}
    return json.dumps({name: value for name, value in {**row, **more}.items() if value is not None}).encode()


def decoded(lines, capacity=100, trace=mooncake_trace, **options):
    """The frames of a trace, and the lines that were bad."""
    bad = []
    decoder = trace("trace", ReadOptions(capacity=capacity, **options))
    frames = decoder.decode_lines(b"\n".join(lines), lambda number, reason: bad.append((number, reason)))
    return [*frames, *decoder.finish()], bad


def run(capacity, lines):
    frames, bad = decoded(lines, capacity)
    monitor = Monitor()
    for frame in frames:
        monitor.process(frame)
    return monitor.summary(), bad


def times(frames):
    """The time of each request in ms."""
    return sorted({round(ts / 1e6) for frame in frames for ts in frame.ts.tolist()})


def summary_of(name, capacity):
    reader, monitor = EventReader(name, ReadOptions(capacity=capacity)), Monitor()
    for item in [*reader.feed((DATA / name).read_bytes()), *reader.finish()]:
        assert isinstance(item, EventFrame), item
        monitor.process(item)
    return monitor.summary()


def test_a_trace_becomes_the_events_of_an_lru_cache():
    summary, bad = run(3, [line(0, [1, 2]), line(27, [1, 2, 3]), line(3000, [1, 4])])
    assert not bad
    # 3 was the last of its request, so it goes first.
    assert (summary.accounts.allocations, summary.accesses, summary.total_evictions) == (4, 3, 1)
    assert summary.blocks_live == 3
    assert summary.lifetime.max == 3.0 - 0.027


def prefixes(request):
    return [tuple(request[: end + 1]) for end in range(len(request))]


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=30), st.integers(6, 12))
def test_hits_are_those_of_a_plain_lru_cache_of_prefixes(requests, capacity):
    held, hits, misses = OrderedDict(), 0, 0
    for request in requests:
        wanted = prefixes(request)
        hits += sum(block in held for block in wanted)
        misses += sum(block not in held for block in wanted)
        for block in reversed(wanted):
            held[block] = None
            held.move_to_end(block)
        while len(held) > capacity:
            held.popitem(last=False)
    summary, _ = run(capacity, [line(number, request) for number, request in enumerate(requests)])
    assert (summary.accesses, summary.accounts.allocations) == (hits, misses)
    assert summary.accounts.live == len(held)


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), max_size=20), st.integers(1, 8))
def test_a_cache_holds_no_more_than_it_has_room_for_and_looks_all_blocks_up(requests, capacity):
    summary, bad = run(capacity, [line(number, request) for number, request in enumerate(requests)])
    assert not bad
    assert summary.blocks_live <= capacity
    assert summary.accesses + summary.accounts.allocations == sum(map(len, requests))
    assert summary.accounts.unknown_accesses == summary.accounts.unknown_evictions == 0


def test_of_a_request_larger_than_the_cache_all_blocks_are_looked_up():
    summary, _ = run(2, [line(0, [1, 2, 3, 4, 5]), line(10, [1, 2])])
    assert (summary.accesses, summary.accounts.allocations, summary.blocks_live) == (1, 6, 2)


def test_a_hit_after_a_hole_is_none():
    summary, _ = run(10, [line(0, [1, 2, 3]), line(10, [9, 2, 3]), line(20, [1, 2, 7])])
    assert (summary.accesses, summary.accounts.allocations) == (2, 7)


def test_equal_blocks_within_a_request_are_different_prefixes():
    summary, _ = run(10, [line(0, [0, 0, 0]), line(10, [0, 0])])
    assert (summary.accesses, summary.accounts.allocations) == (2, 3)


def test_times_are_in_the_unit_of_the_format_unless_another_is_given():
    rows = [line(61.5, [1], chat_id=1), line(62, [1], chat_id=2)]
    assert times(decoded(rows, trace=bailian_trace)[0]) == [61_500, 62_000]
    assert times(decoded([line(61, [1])])[0]) == [61]
    for unit, time in {"s": 61_000, "ms": 61, "us": 0}.items():
        assert times(decoded([line(61, [1])], time_unit=unit)[0]) == [time]


def test_rows_without_times_come_a_second_after_one_another():
    assert times(decoded([line(hash_ids=[1]), line(hash_ids=[2]), line(hash_ids=[3])])[0]) == [0, 1000, 2000]


def test_requests_of_one_time_are_told_apart_by_nanoseconds():
    (frame,), _ = decoded([line(5, [1, 2]), line(5, [3]), line(5, [1])])
    assert frame.ts.tolist() == [5_000_000, 5_000_000, 5_000_001, 5_000_002]


def test_turns_with_a_delay_come_after_the_turn_before_and_in_order_of_time():
    turns = [
        line(0, [1], session_id="a"),
        line(None, [1, 2], session_id="a", delay=3000),
        line(None, [1, 2, 3], session_id="a", delay=500),
        line(1000, [9], session_id="b"),
        line(None, [9, 8], session_id="b", delay=100),
    ]
    frames, bad = decoded(turns)
    assert not bad
    assert times(frames) == [0, 1000, 1100, 3000, 3500]
    (ts,) = {tuple(ts) for ts in [[t for frame in frames for t in frame.ts.tolist()]]}
    assert list(ts) == sorted(ts)


def test_created_time_stands_for_timestamp_and_delay_ms_for_delay():
    first = {"created_time": 7, "input_tokens": 3, "output_tokens": 4}
    rows = [line(None, [1], session_id="a", **first), line(None, [1], session_id="a", delay_ms=20)]
    assert times(decoded(rows)[0]) == [7, 27]


def test_ids_of_64_bits_and_hexadecimal_ones_are_told_apart():
    ids = [2**64 - 1, 2**63, -1, "ff", "0xfe", "00" * 24 + "00000000000000ff"]
    summary, bad = run(99, [line(i, [each]) for i, each in enumerate(ids)])
    assert not bad
    # -1 is 2**64 - 1, and the long one ends as "ff" does.
    assert (summary.accounts.allocations, summary.accesses) == (4, 2)


def test_bad_lines_are_reported():
    good = line(1, [1])
    bad = [b"{", line(-1, [1]), line(1, ["x"]), line(1, [2**64]), line(1, [1.5]), line(1e300, [1])]
    _, found = run(4, [*bad, good])
    assert [number for number, _ in found] == [1, 2, 3, 4, 5, 6]


def test_a_unit_of_time_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="time_unit must be one of s, ms, us, ns, not 'm'"):
        read_events(str(tmp_path / "trace.jsonl"), capacity=1, time_unit="m")


@pytest.mark.parametrize("engine", ["lru", "vllm"])
def test_requests_at_the_end_of_time_are_served_and_those_after_it_bad_lines(engine):
    last = 2**62 - 1
    rows = [line(at, [1], session_id="s") for at in (last, last, last + 1, 2**63 - 1)]
    frames, bad = decoded([*rows, line(hash_ids=[1], session_id="s", delay=1)], time_unit="ns", engine=engine)
    assert bad == [
        (3, f"time {last + 1} is before 1970 or after 2116"),
        (4, f"time {2**63 - 1} is before 1970 or after 2116"),
        (5, f"time {last + 1} ns is after 2116"),
    ]
    assert frames[0].ts.tolist()[:2] == [last, last + 1]


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("bailian_seconds.jsonl", {"blocks_live": 40, "total_evictions": 40}),
        ("u64_ids.jsonl", {"accesses": 2, "blocks_live": 4}),
        ("aiperf_delay.jsonl", {"accesses": 3, "blocks_live": 4}),
        # As LMCache 0.5.6 wrote it: a, ab, abc; a, ab, abd; x; a, ab, abc, abce.
        ("lmcache_lookups.jsonl", {"accesses": 5, "blocks_live": 6}),
    ],
)
def test_traces_of_peers_are_read(name, right):
    summary = summary_of(name, 40)
    assert {field: getattr(summary, field) for field in right} == right
    if name.startswith("bailian"):
        assert summary.p50_lifetime == pytest.approx(120.0, rel=0.03)
    if name.startswith("lmcache"):
        assert round(summary.timestamp) == 1711929611


def chunks(timestamp, hashes, **more):
    return json.dumps({"timestamp": timestamp, "chunk_hashes": hashes, **more}).encode()


def test_chunks_of_lmcache_have_the_size_that_their_row_says():
    rows = [
        chunks(1.0, ["a", "b"], chunk_size=512),
        chunks(2.0, ["a"], chunk_size=512),
        chunks(3.0, ["c"], chunk_size=64),
        chunks(4.0, ["d"]),
        chunks(5.0, ["e"], chunk_size=0),
    ]
    frames, bad = decoded(rows, trace=lookup_log)
    assert [(frame.block_tokens, len(frame)) for frame in frames] == [(512, 3), (64, 1), (256, 1)]
    assert [number for number, _ in bad] == [5]


def test_by_vllms_rules_all_chunks_of_a_log_have_one_size():
    rows = [chunks(1.0, ["a", "b"], chunk_size=16), chunks(2.0, ["a"], chunk_size=32)]
    frames, bad = decoded(rows, trace=lookup_log, engine="vllm")
    assert {frame.block_tokens for frame in frames} == {16}
    assert bad == [(2, "blocks of 32 tokens after some of 16")]


def served_by_vllm(lines, capacity, trace=mooncake_trace, **options):
    frames, bad = decoded(lines, capacity, trace, engine="vllm", **options)
    return [event for frame in frames for event in frame.to_events()], bad


def test_by_vllms_rules_output_takes_blocks_and_no_full_prompt_is_found():
    rows = [
        line(0, [1, 2], input_length=1_024, output_length=2),
        line(60_000, [1, 2], input_length=1_024, output_length=2),
    ]
    events, bad = served_by_vllm(rows, 10)
    assert not bad
    assert [type(event).__name__ for event in events] == (
        ["BlockAllocated"] * 3  # the third for the second token of output
        + ["BlockAccessed", "BlockEvicted", "BlockAllocated", "BlockAllocated"]
    )
    keys = [event.key for event in events if hasattr(event, "key")]
    assert keys[0] is not None
    assert (keys[2], keys[3], keys[4]) == (None, keys[1], None)


@pytest.mark.parametrize(
    ("trace", "block_tokens", "unit_ns"), [(mooncake_trace, 512, 10**6), (bailian_trace, 16, 10**9)]
)
def test_a_request_runs_for_its_prompt_and_its_output(trace, block_tokens, unit_ns):
    tokens = 2 * block_tokens
    row = line(1, [1, 2], input_length=tokens, output_length=block_tokens + 2, chat_id=1)
    service = ServiceTime(prefill_rate=1_000.0, decode_rate=10.0)
    events, bad = served_by_vllm([row], 10, trace, service=service)
    assert not bad
    first_token_ns = unit_ns + tokens * 10**6
    assert [event.ts for event in events] == [
        unit_ns,
        unit_ns,
        first_token_ns,
        first_token_ns + block_tokens * 10**8,
    ]


def test_by_vllms_rules_a_request_that_never_has_room_is_a_bad_line():
    rows = [line(0, [1]), line(1, [1, 2, 3], input_length=1_536, output_length=600), line(2, [1])]
    events, bad = served_by_vllm(rows, 5)
    assert bad == [(2, "a request of 5 blocks never has room in 5")]
    assert len(events) > 0


def test_by_vllms_rules_rows_without_lengths_have_full_blocks_and_rows_that_go_back_come_at_once():
    rows = [
        line(5_000, [1, 2], input_length=None, output_length=None),
        line(1_000, [1, 9], input_length=None, output_length=None),
    ]
    events, bad = served_by_vllm(rows, 10)
    assert not bad
    assert [type(event).__name__ for event in events] == ["BlockAllocated"] * 2 + ["BlockAccessed"] + [
        "BlockAllocated"
    ]
    assert events[2].ts == 5_000 * 10**6 + 1
