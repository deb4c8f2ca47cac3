"""Windows of several caches, added up."""

import numpy as np
import pytest

from kvstream.metrics.history import HistoryBuilder
from kvstream.metrics.window_counts import WINDOW_COUNTS


def window(index, live, allocations=10, **more):
    values = {
        "accesses": 30,
        "evictions": 5,
        "index": index,
        "live": live,
        "allocations": allocations,
        **more,
    }
    return tuple(values.get(name, 0) for name in WINDOW_COUNTS.names)


def rows(*windows):
    return np.array([*windows], WINDOW_COUNTS)


def test_a_cache_that_is_idle_goes_on_holding_its_blocks():
    history = HistoryBuilder(1.0)
    history.add(rows(*(window(n, 100) for n in range(10, 15))), True, ("busy", "gpu"))
    history.add(rows(window(10, 50), window(11, 70)), True, ("idle", "gpu"))
    built = history.history()
    assert built.ts == [10, 11, 12, 13, 14]
    assert built.blocks == [150, 170, 170, 170, 170]
    assert built.allocation_rate == [20, 20, 10, 10, 10]


def test_blocks_that_went_in_a_silence_are_gone_from_the_next_row_on():
    history = HistoryBuilder(1.0)
    history.add(rows(window(10, 100), window(13, 100)), True, ("busy", "gpu"))
    history.add(rows(window(10, 50), window(12, 0, is_empty=True)), True, ("cleared", "gpu"))
    assert history.history().blocks == [150, 100]


def test_rows_reach_back_from_the_newest_window_of_all_caches():
    history = HistoryBuilder(1.0)
    history.add(rows(window(4, 40), window(5, 50)), True, ("silent for long", "gpu"))
    history.add(rows(*(window(n, 100) for n in (101, 102, 103))), True, ("busy", "gpu"))
    built = history.history(newest=2)
    assert built.ts == [102, 103], "and no row of a time at which only one cache was looked at"
    assert built.blocks == [150, 150]


def test_windows_that_not_all_have_passed_are_left_out():
    history = HistoryBuilder(1.0)
    history.add(rows(*(window(n, 100) for n in (101, 102, 103))), True, ("ahead", "gpu"))
    history.add(rows(*(window(n, 50) for n in (100, 101, 102))), True, ("behind", "gpu"))
    built = history.history(newest=2, until=102)
    assert built.ts == [101, 102]
    assert built.allocation_rate == [20, 20]


def test_windows_added_bit_by_bit_are_those_added_at_once():
    windows = rows(*(window(n, 10 * n) for n in range(1, 8)))
    bit_by_bit, at_once = HistoryBuilder(1.0), HistoryBuilder(1.0)
    bit_by_bit.add(windows[:3], True)
    bit_by_bit.add(windows[3:], True)
    at_once.add(windows, True)
    assert bit_by_bit.history() == at_once.history()
    assert at_once.history(limit=3).blocks == [20, 50, 70]


def test_lifetimes_are_those_of_one_cache_and_weighted_by_its_evictions():
    times = {"lifetime_p05_ns": 10**8, "lifetime_p50_ns": 10**9, "lifetime_p95_ns": 10**10}
    longer = {name: 3 * ns for name, ns in times.items()}
    history = HistoryBuilder(1.0)
    history.add(
        rows(window(0, 9, observed=10, **times), window(2, 9, observed=30, **longer), window(5, 9)), True
    )
    built = history.history()
    assert built.lifetime_p50 == [1.0, 3.0, None]
    joined = history.history(limit=1)
    assert (joined.lifetime_p05, joined.lifetime_p95) == ([0.25], [25.0])
    history.add(rows(window(1, 9, observed=10, **times)), True, ("another", "gpu"))
    assert history.history().lifetime_p50 == [None] * 4


@pytest.mark.parametrize(("hits_are_known", "ratio"), [(True, 0.75), (False, None)])
def test_where_hits_are_unknown_so_is_the_hit_ratio(hits_are_known, ratio):
    history = HistoryBuilder(1.0)
    history.add(rows(window(1, 9, premature=4)), hits_are_known)
    built = history.history()
    assert built.hit_ratio == [ratio]
    assert built.access_rate == [30.0 if hits_are_known else None]
    assert built.premature_ratio == [0.8]


def test_caches_with_unknown_hits_do_not_raise_the_hit_ratio_of_the_others():
    history = HistoryBuilder(1.0)
    history.add(rows(window(1, 9)), True, ("known", "gpu"))
    history.add(rows(window(1, 9, accesses=1000)), False, ("unknown", "gpu"))
    assert history.history().hit_ratio == [0.75]
