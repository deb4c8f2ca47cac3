"""Intervals come to their windows, vLLM's buckets and their label sets, however long they wait."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.blocks.apply_result import LabelledIntervals, Observations, joined
from kvstream.blocks.table import BlockTable
from kvstream.metrics import intervals as module
from kvstream.metrics.intervals import Intervals
from kvstream.metrics.measurements import Measurements
from tests.metrics.test_histogram_rows import fields
from tests.reference import at_most_bounds, interval_fields
from tests.strategies import cuts, frame, plain_events

NAMES = ("lifetime", "idle", "first_reuse", "reuse_gap")


@st.composite
def observed(draw):
    """What one ``apply`` sees of blocks with labels: intervals by name, and their label sets."""
    lives, idles, firsts, gaps = (draw(st.integers(0, 6)) for _ in range(4))
    counts = dict(zip(NAMES, (lives, idles, firsts, gaps), strict=True))
    lengths = st.integers(0, 100) | st.integers(0, 2**40)
    values = {name: draw(st.lists(lengths, min_size=n, max_size=n)) for name, n in counts.items()}
    label_sets = {
        name: draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)) for name, n in counts.items()
    }
    return values, label_sets


def observations(values, label_sets):
    columns = {name: [np.array(of, np.int64)] for name, of in values.items()}
    of = {name: np.array(numbers, np.uint16) for name, numbers in label_sets.items()}
    labelled = [
        LabelledIntervals(
            lifetimes=of["lifetime"],
            idles=of["idle"],
            first_reuses=of["first_reuse"],
            reuse_gaps=of["reuse_gap"],
        )
    ]
    return Observations(
        lifetimes=columns["lifetime"],
        idles=columns["idle"],
        first_reuses=columns["first_reuse"],
        reuse_gaps=columns["reuse_gap"],
        labelled=labelled,
    )


@given(st.lists(st.lists(observed(), max_size=5), max_size=3), st.integers(1, 30))
def test_every_interval_is_counted_once_in_its_window_and_for_its_owner(windows, at_once):
    intervals = Intervals(4)
    of_label_set, all_values = defaultdict(list), defaultdict(list)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", at_once)
        for seen_in_window in windows:
            window, expected = Measurements.empty(4), defaultdict(list)
            for values, label_sets in seen_in_window:
                intervals.observe(observations(values, label_sets), window)
                for name in NAMES:
                    expected[name] += values[name]
                    all_values[name] += values[name]
                    for label_set, value in zip(label_sets[name], values[name], strict=True):
                        of_label_set[label_set, name].append(value)
            intervals.settle(window)
            for name in NAMES:
                assert fields(getattr(window, name)) == interval_fields(expected[name], 4)
    for name in NAMES:
        assert intervals.classic[name].cumulative() == at_most_bounds(all_values[name])
        for label_set in range(4):
            assert fields(intervals.of_label_set(label_set)[name]) == interval_fields(
                of_label_set[label_set, name], 4
            )


@given(st.data(), plain_events(), st.booleans())
def test_table_counts_the_intervals_that_it_would_show(data, events, records):
    counting, showing = (BlockTable("s", "gpu") for _ in range(2))
    intervals, all_values = Intervals(4), defaultdict(list)
    for start, end in data.draw(cuts(len(events))):
        window = Measurements.empty(4)
        counted = counting.apply(frame(events[start:end]), intervals.counter(window), records=records)
        shown = showing.apply(frame(events[start:end]), records=records)
        columns = (shown.lifetimes, shown.idles, shown.first_reuses, shown.reuse_gaps)
        for name, column in zip(NAMES, columns, strict=True):
            values = joined(column).tolist()
            assert fields(getattr(window, name)) == interval_fields(values, 4)
            all_values[name] += values
        assert [event for batch in counted.evicted for event in batch.to_events("s", "gpu")] == [
            event for batch in shown.evicted for event in batch.to_events("s", "gpu")
        ]
    for name in NAMES:
        assert intervals.classic[name].cumulative() == at_most_bounds(all_values[name])
