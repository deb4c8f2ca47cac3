from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.testing import CapturedAlerts, FakeClock, ReferenceTable, ScriptedSource


async def test_a_script_is_played_to_a_stream_on_a_clock():
    clock = FakeClock()
    script = ScriptedSource("engine-0", start_ns=clock.now_ns)
    script.allocated([1, 2, 3], at=0).accessed([1], at=1).evicted([2], at=3, reason="preempted")
    async with KVStream(StreamConfig(metrics=MetricsConfig(capacity=4)), clock=clock) as stream:
        await script.play(stream)
        summary = stream.summary_nowait("engine-0")
    assert (summary.blocks_live, summary.total_evictions) == (2, 1)
    assert summary.lifetime.max == 3.0


async def test_captured_alerts_know_what_fires():
    clock, captured = FakeClock(), CapturedAlerts()
    script = ScriptedSource("engine-0", start_ns=clock.now_ns)
    for second in range(120):
        script.allocated(range(10 * second, 10 * second + 10), at=second)
    config = StreamConfig(metrics=MetricsConfig(capacity=1_000), recorded=True)
    async with KVStream(config, clock=clock) as stream:
        stream.on_alert(captured)
        await script.play(stream)
        firing = {alert.fingerprint for alert in stream.firing()}
    assert captured.alerts
    assert firing <= {alert.fingerprint for alert in captured.alerts}
    assert {alert.rule for alert in captured.alerts} == {"occupancy_high", "capacity_exceeded"}


def test_the_events_of_a_script_are_in_order_of_time():
    frame = ScriptedSource("s", start_ns=0).cleared(at=2).allocated([5], at=1).frame()
    assert frame.blocks.tolist() == [5, 0]
    assert frame.ts.tolist() == [10**9, 2 * 10**9]


def test_the_reference_applies_operations_by_their_codes():
    by_code, by_name = ReferenceTable(), ReferenceTable()
    for ts, op in enumerate([0, 1, 4, 2, 2, 3, 4]):
        by_code.apply(op, 7, ts)
    by_name.allocate(7, 0)
    by_name.access(7, 1)
    by_name.store(7, 2)
    by_name.evict(7, 3)
    by_name.evict(7, 4)
    by_name.clear()
    by_name.store(7, 6)
    assert vars(by_code) == vars(by_name)
