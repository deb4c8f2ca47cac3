import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream._core.table import count_distinct
from kvstream.engine.monitor import Monitor
from kvstream.metrics.working_set import ERROR, DistinctCounter, WorkingSetHistory
from tests.strategies import frame

SECOND = 1_000_000_000


@pytest.mark.parametrize("count", [0, 1, 10, 100, 1_000, 3_000, 10_000, 200_000])
def test_the_error_is_as_stated_at_every_size(count):
    errors = []
    for seed in range(12):
        counter = DistinctCounter()
        values = np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, count)
        counter.add(np.repeat(values, 3))
        errors.append(counter.estimate() / max(1, count) - (1 if count else 0))
    assert np.sqrt(np.mean(np.square(errors))) < 1.6 * ERROR
    assert abs(np.mean(errors)) < ERROR


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=600), st.integers(0, 600), st.integers(1, 600))
def test_counters_merge_as_if_one_had_counted_all(values, cut, at_once):
    one, left, right = DistinctCounter(), DistinctCounter(), DistinctCounter()
    for counter, part in ((one, values), (left, values[:cut]), (right, values[cut:])):
        for start in range(0, len(part), at_once):
            counter.add(np.array(part[start : start + at_once], np.int64))
    left.merge(right)
    registers = np.zeros_like(one.registers)
    count_distinct(np.array(values, np.int64), registers, 11)
    assert left.registers.tolist() == one.registers.tolist() == registers.tolist()
    assert left.estimate() == one.estimate()


def test_each_horizon_counts_its_own_windows():
    history = WorkingSetHistory()
    for index in range(100):
        history.add(index, [np.arange(index * 10, index * 10 + 20)])
    found = history.recent(99).blocks
    assert found == [pytest.approx(n, rel=0.08) for n in (20, 110, 610)]
    assert history.recent(105).blocks[0] == 0
    assert WorkingSetHistory().recent(None).blocks == [0, 0, 0]


@pytest.mark.parametrize("base", [0, 2**40])
def test_a_block_is_in_use_if_it_was_allocated_or_accessed(base):
    monitor = Monitor()
    live = [(0, base + i, 1, "") for i in range(300)]
    monitor.process(frame([*live, (1, base + 5, 2, ""), (1, base + 5, 3, "")]))
    assert monitor.summary().working_set.blocks[0] == pytest.approx(300, rel=0.08)
    later = 100 * SECOND
    used = [(1, base + i, later + i, "") for i in range(50)]
    gone = [(2, base + i, later + 500, "capacity") for i in range(100, 200)]
    monitor.process(frame(used + gone))
    assert monitor.summary().working_set.blocks == [pytest.approx(50, abs=4)] * 3


def test_the_counters_of_many_windows_cost_the_garbage_collector_nothing():
    history = WorkingSetHistory()
    history.add(1, [np.arange(8)])
    (window,) = history._windows
    assert not gc.is_tracked(window)
    assert not gc.is_tracked(window.used)
    gc.collect()  # which lets go of tuples of what it does not look at
    assert not gc.is_tracked(window.used._waiting)
