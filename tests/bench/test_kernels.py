"""The kernels under pytest-benchmark: ``pytest tests/bench --benchmark-enable``. Otherwise each runs once."""

import numpy as np
import pytest

from kvstream._core.recorder import StepRecorder
from kvstream.bench.streams import busy, filling
from kvstream.blocks.table import BlockTable
from kvstream.engine.monitor import Monitor
from kvstream.events.codec import decode_frame, decode_lines, encode_frame, encode_lines
from kvstream.events.frame import frames_from_events
from kvstream.events.recorded import recorded_frame
from kvstream.events.types import Op
from kvstream.metrics.histogram import ExponentialHistogram

EVENTS = 16_384


def no_bad(number, reason):
    raise AssertionError(f"line {number}: {reason}")


@pytest.mark.parametrize("blocks", [1_000, 100_000])
@pytest.mark.parametrize("content", [False, True], ids=["slots", "content"])
def test_table_applies_a_frame(benchmark, blocks, content):
    events = busy(blocks, EVENTS, content=content)

    def filled():
        table = BlockTable("bench", "gpu")
        table.apply(filling(blocks, content=content), records=False)
        return (table, events), {"records": False}

    seen = benchmark.pedantic(BlockTable.apply, setup=filled, rounds=20)
    counts = seen.counts
    assert counts.unknown_accesses == counts.unknown_evictions == counts.replacements == 0
    assert counts.accesses + counts.allocations + counts.evictions.sum() == EVENTS


@pytest.mark.parametrize("frame_events", [64, 4_096])
def test_monitor_joins_and_applies_frames(benchmark, frame_events):
    frames = busy(1_000, EVENTS).cut(frame_events)
    outcomes = benchmark(lambda: Monitor().process_batch(frames))
    assert [(outcome.source, outcome.tier) for outcome in outcomes] == [("bench", "gpu")]


def test_histograms_record_intervals(benchmark):
    values = np.random.default_rng(1).lognormal(18, 2, EVENTS).astype(np.int64)
    histogram = ExponentialHistogram()
    benchmark.pedantic(histogram.record, args=(values,), rounds=1 if benchmark.disabled else 200)
    assert histogram.count >= EVENTS


def test_frame_goes_through_the_codec(benchmark):
    frame = busy(1_000, 4_096)
    assert np.array_equal(benchmark(lambda: decode_frame(encode_frame(frame))).blocks, frame.blocks)


def test_lines_become_frames(benchmark):
    frame = busy(1_000, 3_000)
    lines = encode_lines(frame.to_events())
    (decoded,) = benchmark(lambda: list(decode_lines(lines, no_bad)))
    assert np.array_equal(decoded.ts, frame.ts)


def test_events_become_columns(benchmark):
    frame = busy(1_000, 3_000)
    (made,) = benchmark(frames_from_events, frame.to_events())
    assert np.array_equal(made.ops, frame.ops)


def test_recorder_takes_steps_down(benchmark):
    frame = busy(1_000, 4_096)
    calls = list(zip(frame.ops.tolist(), frame.blocks.tolist(), strict=True))
    recorder = StepRecorder(lambda: 0, len(calls) * 2, lambda: None, lambda: None)

    def record():
        for op, block in calls:
            if op == Op.ACCESS:
                recorder.accessed_nowait(block)
            elif op == Op.ALLOC:
                recorder.allocated_nowait(block)
            else:
                recorder.evicted_nowait(block)
        recorder.end_step()
        return recorder.take()

    taken = benchmark(record)
    recorded, malformed = recorded_frame(taken, "bench", "gpu"), taken[-1]
    assert malformed == 0
    assert np.array_equal(recorded.ops, frame.ops)
    assert np.array_equal(recorded.blocks, frame.blocks)
