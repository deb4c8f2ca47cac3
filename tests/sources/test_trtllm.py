import json
import random

import pytest

from kvstream.engine.monitor import Monitor
from kvstream.sources.trtllm import TensorRTDecoder
from tests.strategies import mutated


def line(event_id, data, **more):
    return json.dumps({"event_id": event_id, "data": data, **more}).encode()


def created(event_id=0, **more):
    return line(event_id, {"type": "created", "num_blocks_per_cache_level": [100, 50]}, **more)


def stored(event_id, hashes, level=0, **more):
    blocks = [
        {
            "type": "stored_block",
            "block_hash": block_hash,
            "tokens": [{"type": "unique_token", "token_id": 9001, "token_extra_id": 0}],
            "cache_level": level,
            "priority": 35,
        }
        for block_hash in hashes
    ]
    return line(event_id, {"type": "stored", "parent_hash": None, "blocks": blocks}, **more)


def removed(event_id, hashes, **more):
    return line(event_id, {"type": "removed", "block_hashes": hashes}, **more)


def moved(event_id, block_hash, old, new):
    level = {"type": "event_diff", "old_value": old, "new_value": new}
    return line(
        event_id, {"type": "updated", "block_hash": block_hash, "cache_level": level, "priority": None}
    )


def test_an_adapter_is_a_label():
    block = {"type": "stored_block", "block_hash": 2**40, "cache_level": 0, "lora_id": 4}
    adapter = line(2, {"type": "stored", "parent_hash": None, "blocks": [block]})
    monitor, bad = run(created(), stored(1, [2**40 + 1]), adapter)
    assert not bad
    assert {of.value: of.blocks_live for of in monitor.summary().labels["lora"]} == {"4": 1, None: 1}


def run(*lines):
    """A monitor after these lines, and the lines that were bad."""
    bad = []
    decoder, monitor = TensorRTDecoder("trt", clock=lambda: 5_000), Monitor()
    for frame in decoder.decode_lines(b"\n".join(lines), lambda number, reason: bad.append((number, reason))):
        monitor.process(frame)
    return monitor, bad


def test_stored_is_an_allocation_then_another_copy_and_removed_an_eviction():
    monitor, bad = run(created(), stored(1, [7, 2**64 - 1]), stored(2, [7]), removed(3, [2**64 - 1]))
    summary = monitor.summary("trt", "gpu")
    assert not bad
    assert (summary.accounts.allocations, summary.accesses, summary.total_evictions) == (2, 0, 1)
    assert summary.accounts.lost_frames == 0


def test_a_block_moves_between_levels_and_is_removed_where_it_is():
    monitor, bad = run(created(), stored(1, [7, 8]), moved(2, 7, 0, 1), removed(3, [7]), removed(4, [8]))
    assert not bad
    assert monitor.summary("trt", "gpu").evictions_by_reason["capacity"] == 2
    host = monitor.summary("trt", "cpu")
    assert (host.accounts.allocations, host.accounts.evicted, host.accounts.live) == (1, 1, 0)
    back, _ = run(created(), stored(1, [7], level=1), moved(2, 7, 1, 0))
    assert back.summary("trt", "cpu").evictions_by_reason["other"] == 1
    assert back.summary("trt", "gpu").blocks_live == 1


def test_missing_ids_are_lost_and_created_again_is_a_restart():
    monitor, bad = run(created(), stored(1, [7]), stored(4, [8]), created(), stored(1, [9]), stored(1, [9]))
    accounts = monitor.summary().accounts
    assert (accounts.lost_frames, accounts.restarts, accounts.cleared, accounts.live) == (2, 1, 2, 1)
    assert bad == [(6, "event_id 1 after 1: it came before")]


def test_ranks_and_windows_are_kept_apart_and_recorded_times_taken():
    monitor, bad = run(
        stored(0, [7], attention_dp_rank=0, window_size=4096, ts=1_000),
        stored(1, [7], attention_dp_rank=0, window_size=128, ts=2_000),
        removed(2, [7], attention_dp_rank=0, window_size=4096, ts=4_000),
        stored(0, [7], attention_dp_rank=1),
    )
    assert not bad
    first = monitor.summary("trt/dp0")
    assert (first.accounts.allocations, first.accounts.live, first.lifetime.max) == (2, 1, 3e-6)
    assert monitor.summary("trt/dp1").blocks_live == 1


def test_numbers_beyond_64_bits_are_bad_lines():
    adapter = {"type": "stored_block", "block_hash": 1, "lora_id": 2**70}
    stored_with = line(0, {"type": "stored", "parent_hash": None, "blocks": [adapter]})
    _, bad = run(stored(2**64, [1]), stored_with, stored(0, [1], window_size=2**64))
    assert [number for number, _ in bad] == [1, 2, 3]


def test_an_event_id_that_no_engine_comes_to_is_a_bad_line_and_no_loss():
    monitor, bad = run(created(-(2**63)), created(), stored(2**63 - 1, [1]), stored(1, [2]))
    assert [number for number, _ in bad] == [1, 3]
    accounts = monitor.summary().accounts
    assert (accounts.live, accounts.lost_frames) == (1, 0)


def test_bad_lines_are_reported_and_hold_no_tokens():
    monitor, bad = run(
        b"{", stored(0, ["x"]), line(0, {"type": "melted", "tokens": [9001]}), stored(0, [1]), b""
    )
    assert [number for number, _ in bad] == [1, 2, 3]
    assert not any("9001" in reason for _, reason in bad)
    assert monitor.summary().blocks_live == 1


@pytest.mark.parametrize("turns", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_mutated_lines_upset_nothing(turns):
    rng = random.Random(6)
    lines = [
        created(),
        stored(1, [7, 8], window_size=128),
        moved(2, 7, 0, 1),
        removed(3, [7]),
        removed(4, [8]),
    ]
    decoder, bad, events = TensorRTDecoder("trt", clock=lambda: 5_000), [], 0
    for turn in range(turns):
        line = mutated(rng, lines[turn % len(lines)])
        events += sum(map(len, decoder.decode_lines(line, lambda number, reason: bad.append(reason))))
    assert events > turns // 100
    assert len(bad) > turns // 10
