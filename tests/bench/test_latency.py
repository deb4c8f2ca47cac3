from kvstream.bench.latency import measure_latency


async def test_alert_latency_is_measured_from_record_to_handler():
    latency = await measure_latency(seconds=1.0)
    assert latency.alerts > 0
    assert 0 < latency.p50 <= latency.p99 <= latency.worst
