import json
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstream import (
    BatchMetricsCollector,
    BlockMetricsState,
    ConfigError,
    KVCacheMetricsCollector,
    MalformedInputError,
    MetricsConfig,
    create_metrics_collector,
)
from kvstream import collector as installed
from kvstream._core.build import COMPILED
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import EventFrame, as_int64
from kvstream.events.types import REASON_CODE, REASONS, UNKNOWN_REASON, Labels, Op
from tests.interpreted import interpreted

FORMS = {
    "installed": installed,
    "interpreted": interpreted("kvstream.collector", recorder=interpreted("kvstream._core.recorder")),
}


@pytest.fixture(autouse=True, params=FORMS)
def form(request, monkeypatch):
    """Collectors as they are installed, compiled where there is a compiler, and interpreted."""
    for name in ("KVCacheMetricsCollector", "BatchMetricsCollector", "create_metrics_collector"):
        made = getattr(FORMS[request.param], name)
        monkeypatch.setattr(sys.modules[__name__], name, made)


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
    collector = KVCacheMetricsCollector()
    collector.on_block_allocated(1)
    collector.cleared_nowait()
    exported = json.loads(json.dumps(collector.export_to_dict()))
    parts = {
        "config",
        "counters",
        "summary",
        "lifetime_distribution",
        "access_patterns",
        "trends",
        "anomalies",
    }
    assert set(exported) == parts
    assert exported["summary"]["evictions_by_reason"]["cleared"] == 1
    assert exported["access_patterns"]["pattern"] == "no_data"


def test_exported_counters_count_everything_at_any_sample_rate_until_the_reset():
    clock = FakeClock()
    collector = KVCacheMetricsCollector(MetricsConfig(sample_rate=0.01), clock=clock)
    assert set(collector.export_to_dict()["counters"].values()) == {0}
    for block in range(6):
        clock.now += 10**9
        collector.on_block_allocated(block)
    for block in (0, 1, 1, 9):
        collector.on_block_accessed(block)
    collector.on_block_allocated(5)  # replaces
    for block, reason in ((0, "capacity"), (1, "preempted"), (2, "nonsense"), (9, "capacity")):
        collector.on_block_evicted(block, reason)
    clock.now -= 3 * 10**9
    collector.on_block_accessed(3)
    collector.on_block_evicted(4)
    collector.cleared_nowait()
    counters = collector.export_to_dict()["counters"]
    sampled = counters.pop("total_blocks_sampled")
    assert 0 <= sampled < 7
    assert counters == {
        "total_events": 18,
        "total_allocations": 7,
        "total_accesses": 4,
        "total_evictions": 6,  # block 9 among them, which an access has made known
        "total_cleared": 2,
        "total_premature_evictions": 0,
        "unknown_accesses": 1,
        "unknown_evictions": 0,
        "unknown_reasons": 1,
        "time_regressions": 3,  # an access, a lifetime and an idle time
        "clock_steps": 0,
        "blocks_live": 0,
    }
    collector.reset()
    assert set(collector.export_to_dict()["counters"].values()) == {0}


IDS = st.integers(0, 5) | st.sampled_from([-1, -32, 2**63 - 1, -(2**63), 2**63, 2**64 - 1])
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["alloc", "access", "evict", "clear", "row", "list", "query", "later"]),
        IDS,
        st.lists(IDS, max_size=5),
        st.sampled_from([*REASONS, "nonsense"]),
        st.booleans(),
    ),
    max_size=40,
)


@given(calls=CALLS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_calls_come_to_what_their_events_come_to_one_by_one(calls):
    clock, monitor = FakeClock(), Monitor()
    collector = KVCacheMetricsCollector(clock=clock)
    evicted = []

    def expect(op, ids, reason=0):
        for block in as_int64(ids).tolist():
            frame = EventFrame(
                np.array([op], np.uint8),
                np.array([block]),
                np.array([clock.now]),
                reasons=np.array([reason], np.uint8),
            )
            for batch in monitor.process(frame, records=True).evicted:
                evicted.extend(batch.to_events("default", "gpu"))

    for kind, one, several, reason, as_object in calls:
        clock.now += 1_000
        block = SimpleNamespace(block_id=one) if as_object else one
        if kind == "alloc":
            collector.on_block_allocated(block)
            expect(Op.ALLOC, [one])
        elif kind == "access":
            collector.on_block_accessed(block)
            expect(Op.ACCESS, [one])
        elif kind == "evict":
            collector.on_block_evicted(block, reason)
            expect(Op.EVICT, [one], REASON_CODE.get(reason, UNKNOWN_REASON))
        elif kind == "clear":
            collector.cleared_nowait()
            expect(Op.CLEAR, [0])
        elif kind in ("row", "list"):
            collector.record(Op.STORE, as_int64(several) if kind == "row" else several)
            expect(Op.STORE, several)
        elif kind == "query":
            collector.flush()
        else:
            clock.now += 7 * 10**9
    assert collector.drain_events() == evicted
    assert collector.get_summary() == monitor.summary()


@pytest.mark.parametrize("rows", [[5_000, 1, 5_000], [1] * 9_000, [20_000, 1, 1], [0, 0, 1]])
def test_any_number_of_ids_a_call_is_recorded_in_order(rows):
    collector = KVCacheMetricsCollector()
    for n in rows:
        collector.record(Op.ALLOC, range(n))
        collector.record(Op.EVICT, list(range(n)))
        collector.record(Op.ALLOC, np.arange(n))
        collector.record(Op.EVICT, tuple(range(n)))
    accounts = collector.get_summary().accounts
    assert (accounts.allocations, accounts.evicted, accounts.live) == (2 * sum(rows), 2 * sum(rows), 0)
    assert accounts.unknown_evictions == accounts.time_regressions == 0


def test_calls_take_their_arguments_by_name_and_anything_with_a_number():
    collector = KVCacheMetricsCollector()
    collector.on_block_allocated(block=SimpleNamespace(block_id=3))
    collector.on_block_accessed(block=np.int64(3))
    collector.on_block_evicted(block=3, reason="manual")
    collector.record(op=Op.ALLOC, ids=4)
    collector.record(Op.ALLOC, np.array([5, 6], dtype=np.uint8), reason="manual")
    summary = collector.get_summary()
    assert summary.evictions_by_reason["manual"] == 1
    assert (summary.accesses, summary.blocks_live) == (1, 3)


@pytest.mark.parametrize("name", ["on_block_allocated", "on_block_accessed", "on_block_evicted"])
@pytest.mark.parametrize("bad", ["7", 1.5, None, 2**64, SimpleNamespace(block_id="7"), object()])
def test_a_block_without_a_number_is_refused_and_nothing_recorded(name, bad):
    collector = KVCacheMetricsCollector()
    with pytest.raises(MalformedInputError):
        getattr(collector, name)(bad)
    assert collector.get_summary().accounts.offered == 0


@pytest.mark.parametrize("bad", ["7", 1.5, None, 2**64, [1, "x"], (1, 2.5), [1, 2**64], np.array([0.5])])
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


@pytest.mark.parametrize(("threshold", "found"), [(6.0, [30]), (1e6, [])])
def test_windows_of_unusual_lifetimes_are_anomalies_beyond_the_threshold(threshold, found):
    now = 0
    config = MetricsConfig(anomaly_threshold=threshold)
    collector = KVCacheMetricsCollector(config, clock=lambda: now)
    for second in range(1, 41):
        lifetime_ms = 5 if second == 30 else 200 + 7 * (second % 5)
        now = second * 10**9
        collector.allocated_nowait(range(20))
        now += lifetime_ms * 10**6
        collector.evicted_nowait(range(20))
    now = 50 * 10**9
    collector.allocated_nowait(99)  # ends the last window
    anomalies = collector.detect_anomalies()
    assert [anomaly.window_start for anomaly in anomalies] == found
    assert all(anomaly.z_score < -threshold for anomaly in anomalies)
    assert all(anomaly.median_lifetime_seconds == pytest.approx(0.005, rel=0.03) for anomaly in anomalies)
    assert len(collector.export_to_dict()["anomalies"]) == len(found)


def test_slots_with_content_keys_have_premature_evictions_and_a_curve():
    clock = iter(range(0, 10**15, 10**6)).__next__
    collector = KVCacheMetricsCollector(MetricsConfig(capacity=128), clock=clock)
    for _ in range(20):
        for content in range(256):  # a scan over twice as many contents as there are slots
            collector.on_block_evicted(content % 128)
            collector.on_block_allocated(content % 128, 1_000 + content)
    collector.on_block_accessed(0)  # so that hits are known to be reported
    summary = collector.get_summary()
    assert summary.premature.count == 19 * 256
    ratios = {point.factor: point.hit_ratio for point in summary.sizes.points}
    assert ratios[1.0] < 0.01
    assert ratios[3.0] == pytest.approx(19 / 20, abs=0.01)


def test_a_batch_takes_keys_and_labels_with_its_allocations():
    batches = BatchMetricsCollector(MetricsConfig(capacity=4))
    for _ in range(2):
        batches.batch_allocate([1, 2], keys=[2**64 - 1, None], labels=Labels(tenant="a"))
        batches.batch_evict([1, 2])
    summary = batches.get_summary()
    assert summary.premature.count == 1
    assert [each.value for each in summary.labels["tenant"]] == ["a"]


@pytest.mark.skipif(not COMPILED, reason="interpreted methods are functions")
def test_calls_take_no_detour_as_the_methods_are_the_collectors_own():
    own = installed.KVCacheMetricsCollector
    assert own.on_block_accessed.__objclass__ is own
    assert own.evicted_nowait.__objclass__ is own


def test_methods_can_be_overridden_and_called_in_a_subclass():
    class Twice(KVCacheMetricsCollector):
        def on_block_accessed(self, block):
            super().on_block_accessed(block)
            super().on_block_accessed(block)

    collector = Twice()
    collector.on_block_allocated(7)
    collector.on_block_accessed(7)
    collector.on_block_evicted(7)
    assert [event.access_count for event in collector.drain_events()] == [2]
