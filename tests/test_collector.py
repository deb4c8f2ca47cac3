import threading
from types import SimpleNamespace

import numpy as np
import pytest

from kvstream import (
    BatchMetricsCollector,
    BlockMetricsState,
    ConfigError,
    KVCacheMetricsCollector,
    MalformedInputError,
    MetricsConfig,
    create_metrics_collector,
)


class FakeClock:
    def __init__(self):
        self.now = 1_000_000_000

    def __call__(self):
        return self.now


def test_eviction_event_has_the_fields_of_the_original_module():
    clock = FakeClock()
    collector = KVCacheMetricsCollector(clock=clock)
    collector.on_block_allocated(7)
    for step in (1, 2, 4):
        clock.now += step * 10**9
        collector.on_block_accessed(SimpleNamespace(block_id=7))
    clock.now += 5 * 10**9
    collector.on_block_evicted(7, reason="preempted")
    (event,) = collector.drain_events()
    assert event.to_dict() == {
        "block_id": 7,
        "lifetime_seconds": 12.0,
        "idle_seconds": 5.0,
        "access_count": 3,
        "reuse_gaps_seconds": [2.0, 4.0],
        "timestamp": 13.0,
        "reason": "preempted",
        "source": "default",
        "tier": "gpu",
    }
    assert collector.drain_events() == []


def test_summary_has_the_fields_of_the_original_module():
    collector = create_metrics_collector()
    for block in range(10):
        collector.on_block_allocated(block)
        collector.on_block_accessed(block)
    for block in range(5):
        collector.on_block_evicted(block)
    summary = collector.get_summary()
    assert summary.total_blocks_sampled == 10
    assert summary.total_evictions == 5
    assert summary.avg_access_count == 1.0
    assert summary.hit_rate_estimate == 0.5
    assert summary.p50_lifetime <= summary.p95_lifetime <= summary.p99_lifetime
    wanted = {"avg_lifetime_seconds", "avg_idle_seconds", "avg_reuse_gap_seconds", "alerts"}
    assert wanted <= set(summary.to_dict())
    assert summary.accounts.balanced


def test_batches_keep_order_across_kinds_and_stamp_at_the_call():
    clock = FakeClock()
    collector = BatchMetricsCollector(clock=clock)
    collector.batch_allocate([1, 2])
    clock.now += 10**9
    collector.batch_evict(np.array([1, 2]))
    clock.now += 10**9
    collector.batch_allocate((1, 2))
    clock.now += 10**9
    collector.batch_access([1])
    evicted = collector.flush_all()
    assert [e.lifetime_seconds for e in evicted] == [1.0, 1.0]
    summary = collector.get_summary()
    assert summary.blocks_live == 2
    assert summary.accounts.unknown_accesses == 0
    assert summary.first_reuse.max == 1.0


@pytest.mark.parametrize("batch_mode", [False, True])
def test_threads_may_record_at_once(batch_mode):
    collector = create_metrics_collector(batch_mode=batch_mode, history_size=5)
    inner = collector.collector if batch_mode else collector

    def work(first):
        for i in range(first, first + 3000):
            inner.on_block_allocated(i)
            inner.on_block_accessed(i)
            inner.on_block_evicted(i)

    threads = [threading.Thread(target=work, args=(10_000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    summary = collector.get_summary()
    assert summary.total_evictions == 12_000
    assert summary.accesses == 12_000
    assert len(inner.drain_events()) == 5


def test_sampling_decision_is_fixed_and_near_the_rate():
    collector = create_metrics_collector(0.25)
    again = create_metrics_collector(0.25)
    chosen = [collector.should_sample_block(i, 5) for i in range(4000)]
    assert chosen == [again.should_sample_block(i, 5) for i in range(4000)]
    assert 0.22 < sum(chosen) / 4000 < 0.28
    assert create_metrics_collector().should_sample_block(SimpleNamespace(block_id=1))


def test_reset_forgets_everything():
    collector = KVCacheMetricsCollector()
    collector.on_block_allocated(1)
    collector.reset()
    assert collector.get_summary().accounts.allocations == 0


def test_alerts_are_drained_once():
    clock = FakeClock()
    collector = KVCacheMetricsCollector(MetricsConfig(capacity=4), clock=clock)
    for step in range(10):
        clock.now += 10**9
        collector.record(0, [step % 4])
        for block in range(4):
            collector.on_block_allocated(block)
    assert [a.rule for a in collector.drain_alerts()] == ["occupancy_high"]
    assert collector.drain_alerts() == []


def test_export_is_plain_and_whole():
    import json

    collector = KVCacheMetricsCollector()
    collector.on_block_allocated(1)
    collector.on_cache_cleared()
    exported = json.loads(json.dumps(collector.export_to_dict()))
    assert set(exported) == {"config", "summary", "lifetime_distribution", "access_patterns", "trends"}
    assert exported["summary"]["evictions_by_reason"]["cleared"] == 1
    assert exported["access_patterns"]["pattern"] == "no_data"


@pytest.mark.parametrize("bad", ["7", 1.5, None, 2**64, [1, "x"], np.array([0.5])])
def test_an_id_that_is_no_integer_is_refused_and_nothing_recorded(bad):
    collector = KVCacheMetricsCollector()
    with pytest.raises(MalformedInputError):
        collector.record(0, bad)
    collector.on_block_allocated(2**64 - 1)
    assert collector.get_summary().accounts.offered == 1


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(ConfigError, match="sample_rte"):
        create_metrics_collector(sample_rte=1)


def test_block_state_tells_its_times():
    block = BlockMetricsState(block_id=3, birth_ns=10**9)
    for t in (2, 3, 5, 9, 14):
        block.record_access(t * 10**9)
    now = 21 * 10**9
    assert block.get_lifetime_seconds(now) == 20.0
    assert block.get_idle_time_seconds(now) == 7.0
    assert block.get_reuse_gaps_seconds() == [2.0, 4.0, 5.0]
    assert block.get_access_frequency(now) == 0.25
    assert block.get_access_frequency(0) == 0.0
