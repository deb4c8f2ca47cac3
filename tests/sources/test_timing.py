import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.engine.monitor import Monitor
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sources.timing import FrameCutter, merge_by_time, paced


def frame(times, source="s", seq=-1):
    n = len(times)
    return EventFrame(np.zeros(n, np.uint8), np.arange(n), np.array(times, np.int64), source, seq=seq)


async def listed(items):
    for item in items:
        yield item


async def test_parts_of_a_log_are_read_in_order_of_time_however_they_are_named():
    parts = [[frame([10 * i], seq=i) for i in range(start, start + 3)] for start in (6, 0, 3)]
    merged = [f async for f in merge_by_time([listed(p) for p in parts])]
    assert [f.seq for f in merged] == list(range(9))


async def test_engines_are_read_side_by_side_each_in_its_own_order():
    a = [frame([t], "a") for t in (1, 5, 4, 9)]
    b = [frame([t], "b") for t in (2, 3, 20)]
    bad = Malformed("b", "byte", 0, "odd")
    merged = [i async for i in merge_by_time([listed(a), listed([*b, bad])])]
    assert [(f.source, int(f.ts[0])) for f in merged if isinstance(f, EventFrame)] == [
        ("a", 1),
        ("b", 2),
        ("b", 3),
        ("a", 5),
        ("a", 4),
        ("a", 9),
        ("b", 20),
    ]
    assert bad in merged


@pytest.mark.parametrize("inputs", [1, 3])
@pytest.mark.parametrize("wrapped", [lambda items: items, lambda items: paced(items, 1e12)])
async def test_inputs_are_closed_with_what_reads_them(inputs, wrapped):
    open_inputs = set()

    async def held(number):
        open_inputs.add(number)
        try:
            async for each in listed([frame([number]), frame([10])]):
                yield each
        finally:
            open_inputs.remove(number)

    recordings = [held(number) for number in range(inputs)]
    merged = wrapped(merge_by_time(recordings))
    await anext(merged)
    assert len(open_inputs) == inputs
    await merged.aclose()
    assert not open_inputs


async def test_an_input_that_fails_closes_the_others():
    async def failing():
        yield frame([0])
        raise OSError("unreadable")

    other = listed([frame([0]), frame([1])])
    with pytest.raises(OSError, match="unreadable"):
        async for _ in merge_by_time([failing(), other]):
            pass
    assert other.ag_frame is None


@given(st.lists(st.lists(st.integers(0, 100), max_size=10), max_size=8), st.integers(1, 40), st.data())
def test_cutting_loses_nothing_and_keeps_repeats_and_holes_visible(frames, step, data):
    seqs = [data.draw(st.integers(0, 6)) for _ in frames]
    whole, cut = Monitor(), Monitor()
    cutter = FrameCutter(step)
    for times, seq in zip(frames, seqs, strict=True):
        whole.process(frame(times, seq=seq))
        numbers = []
        for number, part in cutter.cut(frame(times, seq=seq)):
            numbers.append(number)
            cut.process(part)
        assert all(a <= b for a, b in itertools.pairwise(numbers))
    assert whole.summary().accounts == cut.summary().accounts


def test_a_step_longer_than_all_of_time_does_not_cut():
    ((number, part),) = FrameCutter(10**30).cut(frame([0, 10**18, 2**63 - 2]))
    assert (number, len(part)) == (0, 3)
