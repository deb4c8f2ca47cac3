import json
from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from kvstream.engine.monitor import Monitor
from kvstream.sources.traces import PrefixCacheTrace


def line(timestamp, hash_ids):
    return json.dumps(
        {"timestamp": timestamp, "input_length": 512, "output_length": 9, "hash_ids": hash_ids}
    ).encode()


def run(capacity, lines):
    bad = []
    monitor = Monitor()
    trace = PrefixCacheTrace("trace", capacity)
    for frame in trace.decode_lines(b"\n".join(lines), lambda number, reason: bad.append((number, reason))):
        monitor.process(frame)
    return monitor.summary(), bad


def test_a_trace_becomes_the_events_of_an_lru_cache():
    summary, bad = run(3, [line(0, [1, 2]), line(27, [1, 2, 3]), line(3000, [1, 4])])
    assert not bad
    # 3 was the last of its request, so it goes first.
    assert (summary.accounts.allocations, summary.accesses, summary.total_evictions) == (4, 3, 1)
    assert summary.blocks_live == 3
    assert summary.lifetime.max == 3.0 - 0.027


@given(st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=30), st.integers(1, 8))
def test_hits_are_those_of_a_plain_lru_cache(requests, capacity):
    held, hits, misses = OrderedDict(), 0, 0
    for request in requests:
        wanted = list(dict.fromkeys(request))[:capacity]
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


def test_bad_lines_are_reported():
    _, bad = run(4, [b"{", line(-1, [1]), line(1, ["x"]), line(1, [2**64]), line(1, [1])])
    assert [number for number, _ in bad] == [1, 2, 3, 4]
