import gc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvstream._core.buckets import window_runs
from kvstream.events.counters import CacheCounts
from kvstream.events.frame import EventFrame
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.window import LATE_WINDOWS, Window, WindowRing


def frame(times):
    n = len(times)
    return EventFrame(np.zeros(n, np.uint8), np.arange(n), np.array(times, np.int64))


@given(st.lists(st.lists(st.integers(0, 400), min_size=1, max_size=20), min_size=1, max_size=6))
def test_every_event_counts_in_the_window_where_the_stream_stands(frames):
    ring = WindowRing(window_ns=10, keep=100, scale=4)
    at, expected = frames[0][0] // 10, {}
    for times in frames:
        if max(times) // 10 < at - LATE_WINDOWS:
            return  # a step of the clock, which starts afresh
        for t in times:
            at = max(at, t // 10)
            expected[at] = expected.get(at, 0) + 1
        for index, part in ring.cut(frame(times)):
            window, _ = ring.enter(index)
            window.measurements.add_counts(CacheCounts(allocations=len(part)))
    ring.close()
    found = {w.index: w.measurements.allocations for w in ring.closed()}
    assert found == expected
    for last in (1, 3, 100):
        total = sum(n for index, n in expected.items() if index > at - last)
        assert ring.recent(last).allocations == total


def clock_steps(ring):
    return sum(window.measurements.clock_steps for window in [*ring.closed(), ring.open])


def test_a_step_back_of_many_windows_starts_afresh():
    ring = WindowRing(window_ns=10, keep=5, scale=4)
    for times in ([1000], [910], [899], [905], [800]):
        for index, _ in ring.cut(frame(times)):
            ring.enter(index)
    assert clock_steps(ring) == 1
    assert ring.latest == 90
    assert [window.clock_step for window in ring.closed()] == [True]


def test_ring_keeps_no_more_than_it_should():
    ring = WindowRing(window_ns=1, keep=5, scale=4)
    for i in range(50):
        ring.enter(i)
    assert [w.index for w in ring.closed()] == [44, 45, 46, 47, 48]


def test_of_older_windows_the_counts_stay():
    whole, thin = (WindowRing(window_ns=1, keep=20, scale=4, detailed=d) for d in (None, 3))
    for ring in (whole, thin):
        for i in range(50):
            window, _ = ring.enter(i)
            window.live, window.lost = i, i % 3
            window.measurements.add_counts(CacheCounts(allocations=i, accesses=2 * i, never_accessed=i // 2))
            window.measurements.lifetime.record(np.arange(i))
    assert thin.newest(100).tolist() == whole.newest(100).tolist()
    assert thin.newest(100)["index"].tolist() == list(range(29, 49))
    assert thin.newest(1)["observed"].tolist() == [48]
    assert [window.index for window in thin.closed()] == [46, 47, 48]
    assert thin.recent(4).allocations == whole.recent(4).allocations == 46 + 47 + 48 + 49
    assert thin.closed_count == whole.closed_count == 49


def test_events_that_were_on_their_way_while_time_went_on_are_not_late():
    ring = WindowRing(window_ns=10, keep=100, scale=4)

    def take(times):
        for index, part in ring.cut(frame(times)):
            window, _ = ring.enter(index)
            window.measurements.add_counts(CacheCounts(allocations=len(part)))

    take([1000])
    assert ring.advance(140).index == 100
    ring.advance(150)
    assert ring.recent(40).allocations == 0, "a minute of silence is seen"
    take([995, 1021, 1400])
    assert clock_steps(ring) == 0
    ring.close()
    assert {w.index: w.measurements.allocations for w in ring.closed()} == {100: 1, 101: 1, 102: 1, 140: 1}


def test_a_step_back_is_seen_after_time_went_on_without_events():
    ring = WindowRing(window_ns=10, keep=100, scale=4)
    ring.enter(100)[0].measurements.add_counts(CacheCounts(allocations=1))
    ring.advance(150)
    for index, _ in ring.cut(frame([800])):
        ring.enter(index)
    assert clock_steps(ring) == 1


@given(
    st.lists(st.integers(-60, 300) | st.just(2**63 - 1) | st.just(-(2**63)), min_size=1, max_size=40),
    st.sampled_from([1, 7, 10]),
    st.none() | st.integers(-5, 40),
)
def test_events_are_parted_where_one_is_of_a_later_window(times, window_ns, stands):
    runs = window_runs(np.array(times, np.int64), window_ns, stands, LATE_WINDOWS)
    indexes = [time // window_ns for time in times]
    at = indexes[0] if stands is None else stands
    if max(indexes) < at - LATE_WINDOWS or max(indexes) == indexes[0] > at:
        at = indexes[0]
    expected = [at := max(at, index) for index in indexes]
    assert [index for index, start, end in runs for _ in range(start, end)] == expected
    assert [start for _, start, _ in runs] == [0, *(end for _, _, end in runs[:-1])]
    assert len({index for index, _, _ in runs}) == len(runs)


def test_what_a_cache_keeps_of_many_windows_costs_the_garbage_collector_nothing():
    window = Window(1, Measurements.empty())
    assert not gc.is_tracked(window)
    assert not gc.is_tracked(window.measurements)
