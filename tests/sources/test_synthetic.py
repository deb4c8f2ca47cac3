import pytest

from kvstream.engine.monitor import Monitor
from kvstream.events.types import Op
from kvstream.sources.synthetic import START_NS, WORKLOADS, generate


@pytest.mark.parametrize("workload", WORKLOADS)
def test_stream_is_exact_seeded_and_consistent(workload):
    frames = list(generate(workload, 30_001, blocks=256, seed=5))
    assert sum(map(len, frames)) == 30_001
    again = list(generate(workload, 30_001, blocks=256, seed=5))
    assert all(
        (a.blocks == b.blocks).all() and (a.ts == b.ts).all() for a, b in zip(frames, again, strict=True)
    )
    other = list(generate(workload, 30_001, blocks=256, seed=6))
    assert any(len(a) != len(b) or (a.blocks != b.blocks).any() for a, b in zip(frames, other, strict=False))
    monitor = Monitor()
    for frame in frames:
        monitor.process(frame)
    summary = monitor.summary()
    accounts = summary.accounts
    assert accounts.balanced
    assert accounts.lost_frames == accounts.time_regressions == 0
    assert accounts.unknown_accesses == accounts.unknown_evictions == 0
    assert summary.blocks_live <= 256
    assert {int(op) for f in frames for op in f.ops} == {Op.ALLOC, Op.ACCESS, Op.EVICT}


def test_scan_raises_the_alert_it_is_made_for():
    monitor = Monitor()
    alerts = []
    for frame in generate("scan", 600_000, blocks=512, rate=1000.0, seed=1):
        alerts += monitor.process(frame).alerts
    fired = [(a.level.value, a.timestamp * 1e9 - START_NS) for a in alerts if a.rule == "hit_ratio_drop"]
    assert [level for level, _ in fired] == ["warning", "critical"]
    assert 300 < fired[0][1] / 1e9 < 390
