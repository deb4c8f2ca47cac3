import shutil
import sys
import sysconfig
import threading
from array import array
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from anyio import fail_after, to_thread
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from kvstream import KVStream, StreamConfig
from kvstream.errors import MalformedInputError
from kvstream.events.types import REASON_CODE, REASONS, UNKNOWN_REASON, Op
from kvstream.recorder import StepRecorder, is_compiled, new_recorder, recorded_frame
from tests.waiting import DEADLINE

IDS = st.integers(0, 50) | st.integers(-(2**63), -33) | st.integers(0, 2**64 - 1)


class Slotted:
    __slots__ = ("block_id",)

    def __init__(self, block_id):
        self.block_id = block_id


class Unslotted:
    def __init__(self, block_id):
        self.block_id = block_id


class Pretending:
    block_id = Slotted.block_id  # a slot of another class, which must not be looked for in this one


class Raising:
    @property
    def block_id(self):
        raise ValueError("broken")


NO_IDS = [
    None,
    "17",
    1.5,
    2**64,
    -(2**63) - 1,
    Slotted(None),
    Slotted("17"),
    object(),
    Raising(),
    Pretending(),
]
ANYTHING = (
    IDS
    | st.builds(Slotted, IDS)
    | st.builds(Unslotted, IDS)
    | st.sampled_from([*NO_IDS, np.int64(9), True, Slotted(np.int64(9)), Unslotted(True)])
)
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


def number(block):
    return block.block_id if isinstance(block, (Slotted, Unslotted)) else block


def is_id(block):
    return isinstance(number(block), (int, np.integer)) and -(2**63) <= number(block) < 2**64 - 32


def signed(block):
    return int(np.array([int(number(block)) % 2**64], np.uint64).view(np.int64)[0])


def plain_and_compiled():
    """Both forms of the recorder, as far as they are there, on a clock that says 1000, 1001 and so on."""
    for make in (StepRecorder, new_recorder):
        yield make(partial(next, iter(range(1_000, 10_000))), 10**9, lambda: None, lambda: None)


def taken(recorder):
    recorded = recorder.take()
    return recorded_frame(recorded, "engine", "gpu"), recorded[-1]


@given(CALLS)
def test_recorded_events_equal_those_taken_down_one_by_one(calls):
    for recorder in plain_and_compiled():
        check_calls(recorder, calls)


def check_calls(recorder, calls):
    expected, step, now, malformed = [], [], 1_000, 0
    found, found_malformed = [], 0

    def end():
        nonlocal now
        expected.extend((*event, now) for event in step)
        step.clear()
        now += 1

    def take():
        nonlocal found_malformed
        frame, bad = taken(recorder)
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
    for recorder in plain_and_compiled():
        recorder.accessed_all(ids)
        frame, _ = taken(recorder)
        assert len(frame.ops) == len(frame.blocks) == len(frame.ts) <= len(ids)
        assert all(ts >= 0 for ts in frame.ts.tolist())


ROWS = [
    np.arange(5),
    np.arange(10)[::2],
    np.arange(5)[::-1],
    np.arange(5, dtype=np.int32),
    np.arange(5, dtype=">i8"),
    np.arange(0),
    np.array([2**64 - 40, 2**63, 1, 2**64 - 1], dtype=np.uint64),
    np.array([[1, 2], [3, 4]]),
    np.array([1.0, 2.0]),
    np.arange(3).reshape(3, 1)[:, 0],
    array("q", [1, 2]),
    array("b", [1, 2]),
    memoryview(np.arange(3)),
    b"\x01\x02",
    range(3),
    (1, 2, None),
    [7] * 10_000,
]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
@pytest.mark.parametrize("name", ["accessed_all", "allocated_all", "evicted_all"])
def test_rows_of_blocks_come_in_any_form(row, name):
    found = []
    for recorder in plain_and_compiled():
        getattr(recorder, name)(row)
        frame, malformed = taken(recorder)
        found.append((frame.ops.tolist(), frame.blocks.tolist(), frame.ts.tolist(), malformed))
    assert found[0] == found[1]
    assert len(found[0][1]) + found[0][-1] == len(row)


CAN_COMPILE = shutil.which("cc") and Path(sysconfig.get_path("include"), "Python.h").exists()


@pytest.mark.skipif(not CAN_COMPILE, reason="needs a C compiler and Python's headers")
def test_the_package_was_built_with_its_compiled_recorder():
    assert is_compiled()


@pytest.mark.skipif(not is_compiled(), reason="needs the compiled recorder")
def test_a_block_may_record_others_while_it_is_asked_for_its_number():
    class Talkative:
        def __init__(self, recorder, blocks):
            self.recorder, self.blocks = recorder, blocks

        @property
        def block_id(self):
            self.blocks.clear()
            self.recorder.accessed_all(range(20_000))
            return 7

    _, recorder = plain_and_compiled()
    blocks = []
    blocks += [1, Talkative(recorder, blocks), 2]
    recorder.allocated_all(blocks)
    frame, malformed = taken(recorder)
    assert frame.blocks.tolist() == [1, *range(20_000), 7]
    assert malformed == 0


def test_a_compiled_recorder_is_called_as_the_plain_one_and_keeps_nothing_alive():
    block, before = Slotted(3), sys.getrefcount(Slotted)
    for recorder in plain_and_compiled():
        recorder.evicted(block, reason="manual")
        recorder.evicted_all([block], reason=None)
        assert taken(recorder)[0].reasons.tolist() == [REASON_CODE["manual"], 0]
        for wrong in ("evicted", "evicted_all", "end_step"):
            with pytest.raises(TypeError):
                getattr(recorder, wrong)(1, 2, 3)
            with pytest.raises(TypeError):
                getattr(recorder, wrong)([], nonsense=1)
        del recorder
    assert sys.getrefcount(block) == 2
    assert sys.getrefcount(Slotted) == before


@pytest.mark.parametrize("ts", [-1, 2**63, 1.5, "now"])
def test_a_step_ends_at_a_time(ts):
    for recorder in plain_and_compiled():
        recorder.accessed(1)
        with pytest.raises(MalformedInputError, match="nanoseconds since 1970"):
            recorder.end_step(ts)
        recorder.end_step(ts=5)
        assert taken(recorder)[0].ts.tolist() == [5]


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
        with fail_after(DEADLINE):
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
    for recorder in plain_and_compiled():
        recorder.begin_step()
        recorder.accessed(1)
        assert taken(recorder)[0].ts.tolist() == [1_000]  # in the middle of it
        recorder.accessed(2)
        recorder.end_step()
        recorder.accessed(3)
        recorder.end_step()  # was not told to begin
        assert taken(recorder)[0].ts.tolist() == [1_000, 1_001]
