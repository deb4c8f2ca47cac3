import re
from pathlib import Path

import numpy as np

import kvstream
from kvstream._core.columns import COUNTED
from kvstream._core.table import Table
from kvstream.blocks.apply_result import Observations
from kvstream.events.counters import DROP_REASONS, CacheCounts, SourceCounts, counts_of
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.summary import PROBLEM_COUNTS, Accounts


def test_every_count_has_a_help_text():
    assert {*counts_of(CacheCounts), "evictions"} == set(CacheCounts.__struct_fields__)
    assert set(counts_of(SourceCounts)) == set(SourceCounts.__struct_fields__)
    for count in (
        *counts_of(CacheCounts).values(),
        *counts_of(SourceCounts).values(),
        *counts_of(Accounts).values(),
    ):
        assert re.fullmatch(r"[A-Z].+\.", count.help), count


def test_no_two_counts_are_one_metric():
    metrics = [
        count.metric
        for kind in (CacheCounts, SourceCounts, Accounts)
        for count in counts_of(kind).values()
        if count.metric
    ]
    assert len(metrics) == len(set(metrics))


def test_measurements_hold_and_add_every_count_of_a_cache():
    names = list(counts_of(CacheCounts))
    total = Measurements.empty(4)
    total.add_counts(CacheCounts(**{name: place for place, name in enumerate(names, 1)}))
    other = Measurements.empty(4)
    other.merge(total)
    other.merge(total)
    assert [getattr(other, name) for name in names] == [2 * place for place in range(1, len(names) + 1)]


def test_what_the_core_counts_is_declared():
    table = Table(4, 0, 2**64)
    table.begin(
        np.zeros(1, np.uint8), np.ones(1, np.int64), np.ones(1, np.int64), *(None,) * 5, False, False, 0, 0
    )
    seen = Observations()
    table.apply(0, seen)
    assert (seen.allocations, seen.counts.allocations) == (1, 1)
    assert set(COUNTED) - {"lookups"} <= set(CacheCounts.__struct_fields__)


def test_accounts_show_every_problem():
    assert set(PROBLEM_COUNTS) <= set(Accounts.__struct_fields__)
    assert len(set(PROBLEM_COUNTS)) == len(PROBLEM_COUNTS)


def test_sources_add_up():
    total = SourceCounts(lost_frames=1)
    total.add(SourceCounts(lost_frames=2, restarts=3))
    assert (total.lost_frames, total.restarts, total.duplicate_frames) == (3, 3, 0)


def test_every_declared_drop_reason_is_used():
    text = "".join(path.read_text() for path in Path(kvstream.__path__[0]).rglob("*.py"))
    for reason in DROP_REASONS:
        assert f'"{reason}"' in text.replace(f'    "{reason}": DropReason', "")
