import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.engine.joining import joined_frames
from kvstream.events.frame import EventFrame, frames_from_events
from tests.strategies import EVENTS


@given(st.lists(EVENTS, max_size=30), st.data())
def test_joined_frames_hold_the_events_of_all(events, data):
    of_one = [msgspec.structs.replace(event, source="s", tier="gpu") for event in events]
    cut = data.draw(st.integers(0, len(of_one)))
    parts = [frame for part in (of_one[:cut], of_one[cut:]) for frame in frames_from_events(part)]
    assert [e for frame in parts for e in frame.to_events()] == of_one
    if parts:
        assert joined_frames(parts).to_events() == of_one


@pytest.mark.parametrize("n", [4, 2_000])
@pytest.mark.parametrize(
    "layout", [lambda b: b, lambda b: b[::2], lambda b: b.astype(np.uint64), lambda b: b.astype(">i8")]
)
def test_columns_of_every_layout_are_joined_by_their_values(n, layout):
    blocks = layout(np.arange(2 * n))
    first = EventFrame(np.zeros(len(blocks), np.uint8), blocks, np.arange(len(blocks)))
    others = [EventFrame(np.ones(n, np.uint8), np.arange(n), np.arange(n)) for n in (3, 0, 1)]
    joined = joined_frames([first, *others])
    assert joined.ops.tolist() == [0] * len(blocks) + [1] * 4
    assert joined.blocks.tolist() == [*blocks.tolist(), 0, 1, 2, 0]
    assert joined.ts.tolist() == [*range(len(blocks)), 0, 1, 2, 0]
