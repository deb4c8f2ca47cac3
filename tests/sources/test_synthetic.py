import pytest

from kvstream.events.types import Op
from kvstream.monitor import Monitor
from kvstream.sources.synthetic import WORKLOADS, generate


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
    alerts = [a for f in generate("scan", 800_000, blocks=1024, seed=1) for a in monitor.process(f).alerts]
    assert "hit_ratio_drop" in {a.rule for a in alerts}
