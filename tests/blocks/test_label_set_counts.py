"""What became of the blocks of each label set, as the table counts it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream._core.columns import COUNTED_BY_LABEL_SET
from kvstream.blocks.label_set_counts import LabelSetCounts
from kvstream.blocks.table import BlockTable
from kvstream.events.frame import EventFrame
from kvstream.events.types import Labels, Op
from tests.strategies import frame

TIMES = st.integers(-(2**62), 2**62) | st.integers(0, 2**33)


def allocations(blocks, ts, labels, label_of):
    ops = np.full(len(blocks), Op.ALLOC, np.uint8)
    return EventFrame(
        ops,
        np.array(blocks, np.int64),
        np.array(ts, np.int64),
        labels=labels,
        label_of=np.array(label_of, np.uint16),
    )


def held_ns(counts, label_set):
    row = dict(zip(COUNTED_BY_LABEL_SET, counts.rows[label_set].tolist(), strict=True))
    return (row["held_upper"] << 32) + row["held_lower"]


@given(st.lists(st.tuples(st.integers(0, 2), TIMES, TIMES), max_size=8), TIMES)
def test_times_of_blocks_add_up_exactly_whatever_they_are(blocks, cleared_at):
    table, labels = BlockTable("s", "gpu", label_sets=4), (Labels(tenant="a"), Labels(tenant="b"))
    label_sets = [label_set for label_set, _, _ in blocks]
    table.apply(
        allocations([*range(len(blocks)), 10**6], [*(b for _, b, _ in blocks), 0], labels, [*label_sets, 1])
    )
    evicted = len(blocks) // 2
    table.apply(frame([(2, i, blocks[i][2], "") for i in range(evicted)] + [(3, 0, cleared_at, "")]))
    expected = Counter({2: cleared_at})
    for place, (label_set, begun, ended) in enumerate(blocks):
        expected[label_set + 1 if label_set else 0] += (ended if place < evicted else cleared_at) - begun
    assert [held_ns(table.of_label_sets, number) for number in (0, 2, 3)] == [expected[n] for n in (0, 2, 3)]


def test_blocks_from_before_labels_count_for_none():
    counts = LabelSetCounts(2)
    counts.begin(np.array([5, 2**40 + 7, -3], np.int64), 1)
    assert held_ns(counts, 0) == -(2**40 + 9)
    row = dict(zip(COUNTED_BY_LABEL_SET, counts.rows[0].tolist(), strict=True))
    assert (row["allocations"], row["unknown_births"]) == (2, 1)


def test_what_was_live_before_labels_is_counted_once_though_no_label_is_a_name():
    table = BlockTable("s", "gpu", label_sets=4)
    table.apply(frame([(0, block, 100, "") for block in range(5)]))
    for _ in range(2):
        table.apply(allocations([9], [200], (Labels(tenant=""),), [0]))
    assert table.of_label_sets.rows[0, COUNTED_BY_LABEL_SET.index("allocations")] == 7


def test_nothing_waits_of_label_sets_where_there_is_no_interval():
    table = BlockTable("s", "gpu", label_sets=4)
    assert table.apply(allocations([1, 2], [10, 10], (Labels(tenant="a"),), [1, 0])).labelled == []
    assert len(table.apply(frame([(1, 1, 20, "")])).labelled) == 1


def test_label_sets_that_have_no_number_are_not_restored():
    table = BlockTable("s", "gpu", label_sets=4)
    table.apply(allocations([1, 2], [10, 10], (Labels(tenant="a"),), [1, 0]))
    saved = table.save()
    saved["rows"] = saved["rows"]()
    BlockTable("s", "gpu", label_sets=4).restore(saved)
    saved["attribution"] = np.array([1, 900], np.uint16)
    with pytest.raises(ValueError, match="label sets beyond 3"):
        BlockTable("s", "gpu", label_sets=4).restore(saved)
