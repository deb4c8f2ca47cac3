import threading

import numpy as np
import pytest
from anyio import fail_after, to_thread
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from kvstream import KVStream, StreamConfig
from kvstream.errors import MalformedInputError
from kvstream.events.types import REASON_CODE, REASONS, UNKNOWN_REASON, Op
from kvstream.recorder import StepRecorder

IDS = st.integers(0, 50) | st.integers(-(2**63), -33) | st.integers(0, 2**64 - 1)
ANYTHING = IDS | st.sampled_from([None, "17", 1.5, 2**64, -(2**63) - 1, np.int64(9), True])
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["accessed", "allocated", "evicted", "end_step", "take"]),
        ANYTHING,
        st.lists(ANYTHING, max_size=4),
        st.booleans(),
        st.sampled_from([None, *REASONS, "nonsense"]),
    ),
    max_size=30,
)


def is_id(value):
    return isinstance(value, (int, np.integer)) and -(2**63) <= value < 2**64 - 32


def signed(value):
    return int(np.array([int(value) % 2**64], np.uint64).view(np.int64)[0])


def new_recorder():
    """A recorder whose clock says 1000, 1001 and so on."""
    clock = iter(range(1_000, 10_000))
    return StepRecorder(lambda: next(clock), 10**9, lambda: None, lambda: None)


@given(CALLS)
def test_recorded_events_equal_those_taken_down_one_by_one(calls):
    recorder = new_recorder()
    expected, step, now, malformed = [], [], 1_000, 0
    found, found_malformed = [], 0

    def end():
        nonlocal now
        expected.extend((*event, now) for event in step)
        step.clear()
        now += 1

    def take():
        nonlocal found_malformed
        frame, bad = recorder.take("engine", "gpu")
        found_malformed += bad
        reasons = [0] * len(frame) if frame.reasons is None else frame.reasons.tolist()
        found.extend(zip(frame.ops.tolist(), frame.blocks.tolist(), reasons, frame.ts.tolist(), strict=True))
        end()

    for name, one, several, at_once, reason in calls:
        if name == "end_step":
            recorder.end_step()
            end()
        elif name == "take":
            take()
        else:
            op = {"accessed": Op.ACCESS, "allocated": Op.ALLOC, "evicted": Op.EVICT}[name]
            more = (reason,) if op == Op.EVICT and reason else ()
            code = REASON_CODE.get(reason, UNKNOWN_REASON) if more else 0
            ids = several if at_once else [one]
            getattr(recorder, f"{name}_all" if at_once else name)(several if at_once else one, *more)
            step.extend((op, signed(i), code) for i in ids if is_id(i))
            malformed += sum(not is_id(i) for i in ids)
    take()
    assert found == expected
    assert found_malformed == malformed
    assert not recorder


@given(st.lists(st.integers(-32, -1) | st.integers(0, 9) | st.just(2**63), max_size=20))
def test_reserved_numbers_given_as_ids_raise_nothing(ids):
    recorder = new_recorder()
    recorder.accessed_all(ids)
    frame, _ = recorder.take("engine", "gpu")
    assert len(frame.ops) == len(frame.blocks) == len(frame.ts) <= len(ids)
    assert all(ts >= 0 for ts in frame.ts.tolist())


@pytest.mark.parametrize("ts", [-1, 2**63, 1.5, "now"])
def test_a_step_ends_at_a_time(ts):
    with pytest.raises(MalformedInputError, match="nanoseconds since 1970"):
        new_recorder().end_step(ts)


async def test_steps_and_single_records_keep_their_order():
    async with KVStream() as stream:
        engine = stream.producer("engine")
        recorder = engine.recorder()
        assert engine.recorder() is recorder
        for block in range(2_000):
            recorder.allocated(block)
            engine.record_accessed([block] * 3)
            recorder.evicted(block, "preempted")
            if block % 10 == 9:
                recorder.end_step()
        recorder.accessed_all([0, "no id"])  # of a step that has not ended yet
        await stream.flush()
        summary = stream.summary()
    assert summary.accesses == 6_000
    assert summary.evictions_by_reason["preempted"] == 2_000
    assert summary.accounts.unknown_accesses == 1
    assert summary.accounts.dropped == {"malformed": 1}
    assert summary.accounts.balanced


async def test_an_engine_that_never_ends_a_step_is_flushed_by_time_and_never_fills_memory():
    async with KVStream(StreamConfig(flush_interval=0.001, queue_events=4_096)) as stream:
        recorder = stream.producer("engine").recorder()
        recorder.allocated(1)
        with fail_after(10):
            while not stream.summary().accounts.processed:
                await checkpoint()


async def test_threads_share_a_recorder_and_lose_nothing():
    async with KVStream(StreamConfig(flush_interval=0.001)) as stream:
        recorder = stream.producer("engine").recorder()

        def work(number):
            for i in range(500):
                first = (number * 500 + i) * 10
                recorder.allocated_all(range(first, first + 10))
                recorder.accessed(first)
                recorder.evicted_all(range(first, first + 10))
                recorder.end_step()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await to_thread.run_sync(thread.join)
    accounts = stream.summary().accounts
    assert accounts.processed == 4 * 500 * 21
    assert (accounts.unknown_accesses, accounts.unknown_evictions, accounts.live) == (0, 0, 0)
    assert accounts.balanced


def test_a_step_that_was_told_to_begin_gives_its_events_that_time():
    ticks = iter(range(1_000, 2_000, 100))
    recorder = StepRecorder(lambda: next(ticks), 4096, on_step=lambda: None, on_full=lambda: None)
    recorder.begin_step()  # 1,000
    recorder.accessed(1)
    frame, _ = recorder.take("s", "gpu")  # in the middle of it
    assert frame.ts.tolist() == [1_000]
    recorder.accessed(2)
    recorder.end_step()
    recorder.accessed(3)
    recorder.end_step()  # 1,100: was not told to begin
    frame, _ = recorder.take("s", "gpu")
    assert frame.ts.tolist() == [1_000, 1_100]
