"""The costs of snapshots, measured on a small scale."""

import pytest

from kvstream.bench.saving import measure_saving
from tests.waiting import DEADLINE


@pytest.mark.slow
def test_what_snapshots_cost_is_measured():
    shown = []
    results = measure_saving(shown.append, [(1, 1000, False), (3, 1000, True)])
    assert shown == ["saving 1 x 1,000 blocks, slots", "saving 3 x 1,000 blocks, content hashes"]
    for each, caches in zip(results, (1, 3), strict=True):
        assert each.caches == caches
        assert 0 < each.bytes_per_cache < 200_000
        assert each.cost_seconds > 0
        assert 0 < each.held_seconds < DEADLINE
        assert each.of_savez > 0
        assert each.throughput_meanwhile > 0
        assert each.interval_seconds >= 5.0
        assert min(each.throughput_meanwhile, 1.0) <= each.throughput <= max(each.throughput_meanwhile, 1.0)
