import contextlib
import gc
import os
import shlex
import subprocess
import sys
import sysconfig
import threading
import time
from array import array
from functools import partial

import numpy as np
import pytest
from anyio import fail_after, to_thread
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from kvstream import KVStream, StreamConfig
from kvstream._core import recorder as installed
from kvstream.errors import MalformedInputError
from kvstream.events.clock import Clock
from kvstream.events.recorded import recorded_frame
from kvstream.events.types import REASON_CODE, REASONS, UNKNOWN_REASON, Labels, Op
from tests.interpreted import interpreted
from tests.waiting import DEADLINE

IDS = st.integers(0, 50) | st.integers(-40, 0) | st.integers(-(2**63), 2**64 - 1)
FORMS = {"installed": installed, "interpreted": interpreted("kvstream._core.recorder")}


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
    b"17",  # a hash of bytes is no sequence of ids
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
    return isinstance(number(block), (int, np.integer)) and -(2**63) <= number(block) < 2**64


def signed(block):
    return int(np.array([int(number(block)) % 2**64], np.uint64).view(np.int64)[0])


@pytest.fixture(params=FORMS)
def form(request):
    """The module as it is installed, compiled where there is a compiler, and interpreted."""
    return FORMS[request.param]


def both_forms():
    return [counting(module) for module in FORMS.values()]


def counting(module):
    """A recorder on a clock that says 1000, 1001 and so on."""
    clock = partial(next, iter(range(1_000, 10**9)))
    return module.StepRecorder(clock, 10**9, on_step=lambda: None, on_full=lambda: None)


def taken(recorder):
    recorded = recorder.take()
    return recorded_frame(recorded, "engine", "gpu"), recorded[-1]


@given(CALLS)
def test_recorded_events_equal_those_taken_down_one_by_one(calls):
    for recorder in both_forms():
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
            getattr(recorder, f"{name}_nowait")(several if at_once else one, *more)
            step.extend((op, signed(i), code) for i in ids if is_id(i))
            malformed += sum(not is_id(i) for i in ids)
    take()
    assert found == expected
    assert found_malformed == malformed
    assert not recorder


@pytest.mark.parametrize("block", [-1, -31, -32, -33, 2**63 - 1, -(2**63), 2**63, 2**64 - 32, 2**64 - 1])
def test_every_64_bit_id_is_valid(form, block):
    recorder = counting(form)
    recorder.allocated_nowait(block)
    recorder.accessed_nowait([block, Slotted(block)])
    recorder.evicted_nowait(Unslotted(block))
    frame, malformed = taken(recorder)
    assert frame.blocks.tolist() == [signed(block)] * 4
    assert malformed == 0


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
    np.array([5]),
    np.arange(3).reshape(3, 1)[:, 0],
    array("q", [1, 2]),
    array("b", [1, 2]),
    memoryview(np.arange(3)),
    range(3),
    {5},
    (1, 2, None),
    [7] * 10_000,
]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
@pytest.mark.parametrize("name", ["accessed_nowait", "allocated_nowait", "evicted_nowait"])
def test_rows_of_blocks_come_in_any_form(row, name):
    found = []
    for recorder in both_forms():
        getattr(recorder, name)(row)
        frame, malformed = taken(recorder)
        found.append((frame.ops.tolist(), frame.blocks.tolist(), frame.ts.tolist(), malformed))
    assert found[0] == found[1]
    assert len(found[0][1]) + found[0][-1] == len(row)


def can_compile():
    """Whether the C compiler that a build takes reads Python's headers."""
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        f"-I{sysconfig.get_path('include')}",
        "-E",
        "-xc",
        "-",
    ]
    with contextlib.suppress(OSError):
        return subprocess.run(command, input=b"#include <Python.h>", capture_output=True).returncode == 0
    return False


def test_the_package_was_built_with_a_compiled_recorder():
    if not can_compile():
        pytest.skip("needs a C compiler and Python's headers")
    assert not installed.__file__.endswith(".py")
    assert FORMS["interpreted"].__file__.endswith(".py")


def test_a_block_may_record_others_while_it_is_asked_for_its_number(form):
    class Talkative:
        def __init__(self, recorder, blocks):
            self.recorder, self.blocks = recorder, blocks

        @property
        def block_id(self):
            self.blocks.clear()
            self.recorder.accessed_nowait(range(20_000))
            return 7

    recorder = counting(form)
    blocks = []
    blocks += [1, Talkative(recorder, blocks), 2]
    recorder.allocated_nowait(blocks)
    frame, malformed = taken(recorder)
    assert frame.blocks.tolist() == [1, *range(20_000), 7]
    assert malformed == 0


def test_a_collection_of_garbage_may_record_and_take_while_something_is_recorded(form):
    recorder = counting(form)
    found, kept, own = [], [], 10**9
    recording = threading.get_ident()

    def record(phase, _):
        nonlocal own
        if phase == "stop" and threading.get_ident() == recording:  # a recorder is for one thread
            own += 1
            recorder.accessed_nowait(own)
            if own % 7 == 0:
                found.extend(taken(recorder)[0].blocks.tolist())

    thresholds = gc.get_threshold()
    gc.callbacks.append(record)
    gc.set_threshold(1)
    try:
        for block in range(0, 30_000, 3):
            kept.append([Slotted(block + 1)])  # what is kept is what makes Python collect
            recorder.allocated_nowait([block, *kept[-1]])
            recorder.evicted_nowait(Unslotted(block + 2))
            if block % 9 == 0:
                found.extend(taken(recorder)[0].blocks.tolist())
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(record)
    found.extend(taken(recorder)[0].blocks.tolist())
    assert own > 10**9 + 7
    assert sorted(found) == [*range(30_000), *range(10**9 + 1, own + 1)]


def test_types_of_blocks_come_and_go(form):
    recorder = counting(form)
    blocks = []
    for number in range(300):
        slots = ("a", "b", "c")[: number % 4]
        kind = type("Made", (), {"__slots__": (*slots, "block_id")})
        blocks.append(kind())
        blocks[-1].block_id = number
        recorder.accessed_nowait(blocks[-1])
        recorder.accessed_nowait(blocks[number // 2])
        recorder.accessed_nowait(blocks[-1])
    frame, malformed = taken(recorder)
    assert malformed == 0
    assert frame.blocks.reshape(-1, 3).tolist() == [[n, n // 2, n] for n in range(300)]


@pytest.mark.parametrize("shared", ["StepRecorder", "CallRecorder"])
def test_threads_that_take_turns_at_every_instruction_lose_nothing(form, shared):
    found, errors, lock = [], [], threading.Lock()

    def apply():
        with lock:  # so that what is taken first is kept first
            found.append(recorder.take() if shared == "StepRecorder" else recorder._take_recorded())

    if shared == "StepRecorder":
        recorder = form.StepRecorder(Clock(), 1_000, on_step=lambda: None, on_full=apply)
        accessed, several = recorder.accessed_nowait, recorder.allocated_nowait
    else:
        made = type("Applying", (form.CallRecorder,), {"_apply_recorded": lambda _: apply()})
        recorder = made(time.monotonic_ns, 1_000)
        accessed, several = recorder.accessed_nowait, recorder.allocated_nowait

    def work(first):
        try:
            for block in range(first, first + 2_000, 4):
                accessed(block)
                several([block + 1, block + 2])
                accessed(Slotted(block + 3))
                if shared == "StepRecorder" and block % 64 == 0:
                    recorder.end_step()
        except BaseException as error:
            errors.append(error)
            raise

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(n * 2_000,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    apply()
    assert not errors
    frames = [recorded_frame(recorded, "engine", "gpu") for recorded in found]
    assert sorted(block for frame in frames for block in frame.blocks.tolist()) == list(range(8_000))
    if shared == "CallRecorder":
        times = np.concatenate([frame.ts for frame in frames])
        assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("clock", [Clock, lambda: partial(next, iter(range(10**9)))], ids=["own", "given"])
def test_calls_carry_their_times_and_are_applied_in_batches(form, clock):
    batches = []
    made = type(
        "Applying", (form.CallRecorder,), {"_apply_recorded": lambda me: batches.append(me._take_recorded())}
    )
    before = time.time_ns()
    recorder = made(clock(), 4_096)
    for block in range(5_000):
        recorder.allocated_nowait(block)
    assert [len(batch[0]) for batch in batches] == [4_096]
    recorder.cleared_nowait()
    recorder.record(Op.ACCESS, range(3))
    batches.append(recorder._take_recorded())
    frames = [recorded_frame(batch, "engine", "gpu") for batch in batches]
    times = np.concatenate([frame.ts for frame in frames])
    assert (np.diff(times)[:5_000] >= 0).all()
    assert len(set(times[5_001:].tolist())) == 1  # one call
    if clock is Clock:
        assert abs(times[0] - before) < DEADLINE * 10**9
    else:
        assert times.tolist() == [*range(5_001), 5_001, 5_001, 5_001]


def test_both_forms_are_called_alike_and_keep_nothing_alive():
    block = Slotted(3)
    alone, before = sys.getrefcount(block), sys.getrefcount(Slotted)
    for recorder in both_forms():
        recorder.evicted_nowait(block, reason="manual")
        recorder.evicted_nowait([block], reason=None)
        assert taken(recorder)[0].reasons.tolist() == [REASON_CODE["manual"], 0]
        for wrong in ("evicted_nowait", "end_step"):
            with pytest.raises(TypeError):
                getattr(recorder, wrong)(1, 2, 3)
            with pytest.raises(TypeError):
                getattr(recorder, wrong)([], nonsense=1)
        del recorder
    assert sys.getrefcount(block) == alone
    assert sys.getrefcount(Slotted) == before


@pytest.mark.parametrize("ts", [-1, 2**63, 1.5, "now"])
def test_a_step_ends_at_a_time(ts):
    for recorder in both_forms():
        recorder.accessed_nowait(1)
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
            recorder.allocated_nowait(block)
            engine.accessed_nowait([block] * 3)
            recorder.evicted_nowait(block, "preempted")
            if block % 10 == 9:
                recorder.end_step()
        recorder.accessed_nowait([0, "no id"])  # of a step that has not ended yet
        await stream.flush()
        summary = stream.summary_nowait()
    assert summary.accesses == 6_000
    assert summary.evictions_by_reason["preempted"] == 2_000
    assert summary.accounts.unknown_accesses == 1
    assert summary.accounts.dropped == {"malformed": 1}
    assert summary.accounts.balanced


async def test_an_engine_that_never_ends_a_step_is_flushed_by_time_and_never_fills_memory():
    async with KVStream(StreamConfig(flush_seconds=0.001, queue_events=4_096)) as stream:
        recorder = stream.producer("engine").recorder()
        recorder.allocated_nowait(1)
        with fail_after(DEADLINE):
            while not stream.summary_nowait().accounts.processed:
                await checkpoint()


async def test_threads_share_a_recorder_and_lose_nothing():
    async with KVStream(StreamConfig(flush_seconds=0.001)) as stream:
        recorder = stream.producer("engine").recorder()

        def work(number):
            for i in range(500):
                first = (number * 500 + i) * 10
                recorder.allocated_nowait(range(first, first + 10))
                recorder.accessed_nowait(first)
                recorder.evicted_nowait(range(first, first + 10))
                recorder.end_step()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await to_thread.run_sync(thread.join)
    accounts = stream.summary_nowait().accounts
    assert accounts.processed == 4 * 500 * 21
    assert (accounts.unknown_accesses, accounts.unknown_evictions, accounts.live) == (0, 0, 0)
    assert accounts.balanced


def test_a_time_before_1970_is_taken_as_1970(form):
    recorder = form.StepRecorder(lambda: -5, 10, on_step=lambda: None, on_full=lambda: None)
    recorder.accessed_nowait(1)
    recorder.end_step()
    recorder.accessed_nowait(2)
    assert taken(recorder)[0].ts.tolist() == [0, 0]


def test_a_step_that_begins_gives_its_events_that_time():
    for recorder in both_forms():
        recorder.begin_step()
        recorder.accessed_nowait(1)
        assert taken(recorder)[0].ts.tolist() == [1_000]  # in the middle of it
        recorder.accessed_nowait(2)
        recorder.end_step()
        recorder.accessed_nowait(3)
        recorder.end_step()  # of which the beginning was not noted
        assert taken(recorder)[0].ts.tolist() == [1_000, 1_001]


KEYS = st.none() | st.integers(-(2**63), 2**64 - 1)
NOTED = st.lists(
    st.tuples(
        st.sampled_from(["plain", "alone", "several", "accessed", "end_step", "grow"]),
        st.lists(st.tuples(IDS, KEYS), min_size=1, max_size=4),
        st.sampled_from([None, Labels(tenant="a"), Labels(lora="b")]),
    ),
    max_size=20,
)


def key_of(key):
    return 0 if key is None else signed(key)


@given(NOTED)
def test_allocations_keep_the_keys_and_labels_given_with_them(calls):
    for recorder in both_forms():
        expected = []
        for verb, blocks, labels in calls:
            ids, keys = zip(*blocks, strict=True)
            if verb == "end_step":
                recorder.end_step()
            elif verb == "grow":
                recorder.accessed_nowait(range(3_000))
                expected += [(block, 0, None) for block in range(3_000)]
            elif verb == "several":
                recorder.allocated_with_nowait(list(ids), list(keys), labels)
                expected += [(signed(i), key_of(key), labels) for i, key in blocks]
            elif verb == "alone":
                recorder.allocated_with_nowait(Slotted(ids[0]), keys[0], labels)
                expected.append((signed(ids[0]), key_of(keys[0]), labels))
            else:
                (recorder.allocated_nowait if verb == "plain" else recorder.accessed_nowait)(ids[0])
                expected.append((signed(ids[0]), 0, None))
        frame, malformed = taken(recorder)
        keys = [0] * len(frame) if frame.keys is None else frame.keys.tolist()
        numbers = [0] * len(frame) if frame.label_of is None else frame.label_of.tolist()
        labels = [(None, *frame.labels)[number] for number in numbers]
        assert list(zip(frame.blocks.tolist(), keys, labels, strict=True)) == expected
        assert malformed == 0


@pytest.mark.parametrize(
    ("blocks", "keys", "labels"),
    [
        ([1, 2], [5], None),
        ([1, 2], 5, None),
        ([1, 2], ["5", "6"], None),
        ([1, 2], [5, 2**64], None),
        ([1, 2], None, "acme"),
        ([None, 2.5], [5, 6], None),
    ],
)
def test_allocations_with_keys_or_labels_that_are_none_count_as_malformed(form, blocks, keys, labels):
    recorder = counting(form)
    recorder.allocated_with_nowait(blocks, keys, labels)
    frame, malformed = taken(recorder)
    assert (len(frame), malformed) == (0, 2)


def test_a_block_that_is_none_takes_its_key_with_it(form):
    recorder = counting(form)
    recorder.allocated_with_nowait([1, None, 3], [10, 20, 30])
    frame, malformed = taken(recorder)
    assert (frame.blocks.tolist(), frame.keys.tolist(), malformed) == ([1, 3], [10, 30], 1)


class Filled(Slotted):
    __slots__ = ("key",)


def asking(form, keys_of):
    return form.StepRecorder(lambda: 5, 10**9, lambda: None, lambda: None, keys_of)


def test_keys_are_asked_for_at_the_end_of_the_step_that_allocated(form):
    asked = []

    def keys_of(blocks):
        asked.append(blocks)
        return [getattr(block, "key", None) for block in blocks]

    recorder = asking(form, keys_of)
    first, second, third = Filled(1), Filled(2), Filled(3)
    recorder.allocated_nowait(first)
    recorder.accessed_nowait(first)
    recorder.allocated_with_nowait(second, 22)
    recorder.allocated_nowait([third, 4])
    first.key, third.key = 11, 33
    recorder.end_step()
    recorder.allocated_nowait(first)
    first.key = 44
    frame, _ = taken(recorder)  # in the middle of a step
    assert frame.blocks.tolist() == [1, 1, 2, 3, 4, 1]
    assert frame.keys.tolist() == [11, 0, 22, 33, 0, 44]
    assert asked == [[first, None, third, 4], [first]]


@pytest.mark.parametrize("found", [[], [1, 2, 3], ["a"], object()])
def test_what_cannot_be_keys_leaves_a_step_without(form, found):
    recorder = asking(form, lambda blocks: found)
    recorder.allocated_nowait(1)
    recorder.end_step()
    frame, malformed = taken(recorder)
    assert (frame.keys, malformed) == (None, 0)


def test_who_takes_events_while_keys_are_asked_for_gets_them_without(form):
    taken_meanwhile = []

    def keys_of(blocks):
        if not taken_meanwhile:
            taken_meanwhile.append(taken(recorder)[0])
        return [7] * len(blocks)

    recorder = asking(form, keys_of)
    recorder.allocated_nowait(1)
    recorder.end_step()
    recorder.allocated_nowait(2)
    recorder.end_step()
    frame, _ = taken(recorder)
    assert (taken_meanwhile[0].blocks.tolist(), taken_meanwhile[0].keys) == ([1], None)
    assert (frame.blocks.tolist(), frame.keys.tolist()) == ([2], [7])


@given(st.lists(st.tuples(IDS, KEYS), min_size=1, max_size=9))
def test_a_collector_keeps_the_keys_given_with_allocations(blocks):
    for module in FORMS.values():
        recorder = module.CallRecorder(lambda: 5, 4096)
        ids, keys = map(list, zip(*blocks, strict=True))
        recorder.allocated_nowait(1)
        recorder.allocated_nowait(ids, keys)
        recorder.allocated_nowait(Slotted(ids[0]), keys[0], Labels(tenant="a"))
        frame = recorded_frame(recorder._take_recorded(), "engine", "gpu")
        assert frame.blocks.tolist() == [1, *map(signed, ids), signed(ids[0])]
        found = [0] * len(frame) if frame.keys is None else frame.keys.tolist()
        assert found == [0, *map(key_of, keys), key_of(keys[0])]
        assert frame.label_of.tolist() == [0] * (len(ids) + 1) + [1]


def test_a_collector_refuses_keys_that_are_none_and_records_nothing(form):
    recorder = form.CallRecorder(lambda: 5, 4096)
    for blocks, keys in [([1, 2], [5]), (1, "5"), ([1], [2**64]), (1, [5, 6])]:
        with pytest.raises(MalformedInputError):
            recorder.allocated_nowait(blocks, keys)
    assert len(recorded_frame(recorder._take_recorded(), "engine", "gpu")) == 0


@given(st.lists(st.none() | st.binary(max_size=40)), st.integers(0, 6))
def test_the_tails_of_hashes_are_read_big_endian(hashes, skipped):
    for module in FORMS.values():
        tails, has_rest = module.hash_tails(hashes, skipped)
        ends = [(each or b"")[: max(0, len(each or b"") - skipped)] for each in hashes]
        assert np.frombuffer(tails, dtype=np.uint64).tolist() == [
            int.from_bytes(end[-8:], "big") if len(end) >= 8 else 0 for end in ends
        ]
        rests = [each[len(end) :] for each, end in zip(hashes, ends, strict=True) if len(end) >= 8]
        assert has_rest == any(map(any, rests))
