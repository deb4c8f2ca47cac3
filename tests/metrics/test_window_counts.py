"""Counts of windows: one by one, then by ten, then by sixty."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvstream.metrics.history import HistoryBuilder
from kvstream.metrics.window import WindowRing
from kvstream.metrics.window_counts import WINDOW_COUNTS, CountsLog, joined

SUMS = ["allocations", "accesses", "evictions", "observed", "never_accessed", "lost", "premature"]


def row(index, **counts):
    return tuple({"index": index, **counts}.get(name, 0) for name in WINDOW_COUNTS.names)


def filled(windows, keep=20):
    log = CountsLog(keep)
    for index in range(windows):
        log.add(row(index, allocations=index, live=index, observed=2, lifetime_p50_ns=10 * index))
    return log


@given(st.lists(st.integers(1, 40), max_size=60), st.sampled_from([10, 60]))
def test_joined_rows_have_the_sums_of_those_they_are_of(steps, every):
    indices = np.cumsum([0, *steps])
    rows = np.array([row(int(i), live=int(i), **dict.fromkeys(SUMS, int(i))) for i in indices], WINDOW_COUNTS)
    found = joined(rows, every)
    assert found["index"].tolist() == sorted({int(i) // every * every for i in indices})
    for each in found:
        of = indices[indices // every * every == each["index"]]
        assert each["live"] == of[-1]
        assert {int(each[name]) for name in SUMS} == {of.sum()}


def test_lifetimes_of_several_windows_count_by_their_evictions():
    rows = np.array(
        [row(0, observed=1, lifetime_p50_ns=10), row(1, observed=3, lifetime_p50_ns=30)], WINDOW_COUNTS
    )
    assert joined(rows, 10)["lifetime_p50_ns"].tolist() == [25]


def test_the_older_windows_are_the_more_of_them_a_row_has():
    log = filled(20_000)
    rows, longest = log.since(0)
    assert longest == 60
    lengths = np.diff(rows["index"]).tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert set(lengths) == {60, 10, 1}
    assert rows["allocations"].sum() == sum(range(int(rows["index"][0]), 20_000)), "none is lost between them"
    assert len(rows) < 20 + 2 * 360 + 3 * 120
    assert [log.since(index)[1] for index in (19_990, 19_000, 12_000)] == [1, 10, 60]


def test_only_as_many_windows_as_are_kept_are_given_one_by_one():
    assert filled(1000).newest(10**6)["index"].tolist() == list(range(980, 1000))
    assert filled(1000).newest(0).tolist() == []


def test_what_was_saved_goes_on():
    straight, log = filled(5000), filled(3000)
    restored = CountsLog(20)
    restored.restore(log.save())
    for index in range(3000, 5000):
        restored.add(row(index, allocations=index, live=index, observed=2, lifetime_p50_ns=10 * index))
        if index % 77 == 0:
            restored.since(0)  # asking changes nothing
    assert restored.since(0)[0].tolist() == straight.since(0)[0].tolist()


def test_a_history_of_long_rows_has_true_rates_at_both_ends():
    history = HistoryBuilder(1.0)
    history.add(np.array([row(index, allocations=5) for index in range(55, 124)], WINDOW_COUNTS), True)
    built = history.history(every=60)
    assert built.ts == [0, 60, 120]
    assert built.allocation_rate == [5.0, 5.0, 5.0]


def test_a_ring_answers_for_hours():
    ring = WindowRing(window_ns=1, keep=20, scale=4, detailed=3)
    for index in range(8000):
        ring.enter(index)
    rows, longest = ring.since(8000 - 7000)
    assert (int(rows["index"][0]) <= 1000, longest) == (True, 60)
