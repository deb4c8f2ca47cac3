import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream._core.columns import joined_columns
from kvstream.engine.joining import joined_frames
from kvstream.events.frame import EventFrame, frames_from_events
from kvstream.events.types import Labels
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


@pytest.mark.parametrize("n", [4, 2_000])
def test_what_only_some_frames_have_is_empty_in_the_others(n):
    plain = EventFrame(np.zeros(n, np.uint8), np.arange(n), np.arange(n))
    whole = msgspec.structs.replace(
        plain,
        keys=np.arange(n) + 1,
        reasons=np.ones(n, np.uint8),
        labels=(Labels("a"), Labels("b")),
        label_of=np.full(n, 2, np.uint16),
    )
    joined = joined_frames([plain, whole, plain])
    assert joined.keys.tolist() == [0] * n + list(range(1, n + 1)) + [0] * n
    assert joined.reasons.tolist() == [0] * n + [1] * n + [0] * n
    assert [joined.labels[at - 1].tenant if at else None for at in joined.label_of] == (
        [None] * n + ["b"] * n + [None] * n
    )


def test_columns_that_are_none_are_refused():
    n = 2_000
    ops, ts = np.zeros(n, np.uint8), np.arange(n)
    with pytest.raises(ValueError, match="dimension"):
        joined_frames([EventFrame(ops, np.zeros((n, 4), np.int64), ts), EventFrame(ops, ts, ts)])
    with pytest.raises(ValueError, match=r"columns|dimension"):
        joined_columns([np.zeros((n, 4), np.int64)], np.dtype(np.int64))
