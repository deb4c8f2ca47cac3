import numpy as np
import pytest

from kvstream.blocks.table import BlockTable
from kvstream.metrics.intervals import Intervals
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.patterns import analyze_access_pattern, lifetime_distribution
from tests.strategies import frame


def measured(accesses_per_block, survivors=0):
    events, ts = [], 0
    for block in range(survivors):
        events.append((0, 10_000 + block, ts, ""))
        events += [(1, 10_000 + block, ts + i, "") for i in range(50)]
    for block, accesses in enumerate(accesses_per_block):
        events.append((0, block, ts, ""))
        events += [(1, block, ts + 10 * (i + 1), "") for i in range(accesses)]
        ts += 1000
        events.append((2, block, ts, "capacity"))
    seen = Measurements.empty(4)
    BlockTable("s", "gpu").apply(frame(events), Intervals(4).counter(seen), seen)
    return seen


@pytest.mark.parametrize(
    ("accesses", "survivors", "pattern"),
    [
        ([], 0, "no_data"),
        ([0] * 20, 0, "unknown"),
        ([0] * 19 + [1], 0, "scan"),
        ([0] * 20, 5, "hot_set"),
        ([2] * 20, 0, "reuse"),
        ([0, 0, 1] * 8, 0, "mixed"),
    ],
)
def test_pattern_is_named_after_how_blocks_are_used(accesses, survivors, pattern):
    assert analyze_access_pattern(measured(accesses, survivors)).pattern == pattern


def test_rates_add_up():
    found = analyze_access_pattern(measured([0, 0, 1, 2, 5]))
    assert found.zero_access_rate == pytest.approx(0.4)
    assert found.single_access_rate == pytest.approx(0.2)
    assert found.multi_access_rate == pytest.approx(0.4)
    assert found.avg_access_count == pytest.approx(8 / 5)
    assert found.reuse_gap.count == 1 + 4
    assert found.first_reuse.p50 == pytest.approx(10e-9, rel=0.03)


def test_lifetimes_are_listed_in_buckets():
    found = lifetime_distribution(measured([0] * 7))
    assert found.stats.count == 7
    assert sum(n for _, n in found.buckets) == 7
    assert all(bound >= 1e-6 for bound, _ in found.buckets)
    assert np.isfinite([bound for bound, _ in found.buckets]).all()
