"""The excerpts of real captures in examples/data, against the plain twin and against what must be seen."""

import statistics
from pathlib import Path

import pytest

from kvstream.config import MetricsConfig
from kvstream.engine import cache
from kvstream.engine.monitor import Monitor
from kvstream.events.types import Op
from kvstream.sources.reader import EventReader
from kvstream.testing import ReferenceTable
from tests.blocks.test_table import apply_plain
from tests.reference import ReferenceGhosts

DATA = Path(__file__).parent.parent / "examples" / "data"
WIRE = Path(__file__).parent / "data"
OPS = {"BlockAllocated": 0, "BlockAccessed": 1, "BlockEvicted": 2, "CacheCleared": 3}


def frames_of(name):
    reader = EventReader(name)
    return [*reader.feed((DATA / f"{name}.kvlog.gz").read_bytes()), *reader.finish()]


@pytest.mark.parametrize("name", ["chat", "scan"])
def test_excerpt_gives_what_the_plain_twin_gives(name):
    monitor, plain = Monitor(), ReferenceTable()
    evictions = []
    for frame in frames_of(name):
        evictions += monitor.process(frame, records=True).eviction_events()
        apply_plain(
            plain,
            [
                (OPS[type(e).__name__], getattr(e, "block", 0), e.ts, getattr(e, "reason", ""))
                for e in frame.to_events()
            ],
        )
    summary = monitor.summary()
    assert summary.accounts.balanced
    assert summary.accesses == plain.accesses > 10_000
    assert summary.accounts.unknown_evictions == plain.unknown_evictions == 255
    assert [(e.block_id, e.reuse_gaps_seconds) for e in evictions] == [
        (e.block, [g / 1e9 for g in e.gaps]) for e in plain.evicted
    ]
    assert summary.lifetime.count == len(plain.evicted)
    total = sum(e.lifetime for e in plain.evicted) / 1e9
    assert summary.avg_lifetime_seconds * len(plain.evicted) == pytest.approx(total, rel=1e-12)


def alerts_of(name):
    monitor = Monitor(MetricsConfig(capacity=256))
    frames = frames_of(name)
    alerts = [a for frame in frames for a in monitor.process(frame).alerts] + monitor.finish()
    return [(a.level.value, a.rule, a.state, a.timestamp - frames[0].ts[0] / 1e9) for a in alerts]


@pytest.mark.parametrize("name", ["chat", "scan"])
def test_half_a_minute_is_too_short_to_judge_by_but_tells_that_the_cache_is_full(name):
    ((level, rule, state, after),) = alerts_of(name)
    assert (level, rule, state) == ("info", "occupancy_high", "firing")
    assert 5 < after < 20


@pytest.mark.parametrize("name", ["chat", "scan"])
def test_premature_evictions_of_a_capture_are_those_of_the_plain_twin(name, monkeypatch):
    """Content that the real engine removed and stored again."""
    monkeypatch.setattr(cache, "REMEMBERED_SECONDS", 5.0)
    config = MetricsConfig(remembered_evictions=400)
    monitor, plain, live = Monitor(config), ReferenceGhosts(400, 5_000_000_000), set()
    reader = EventReader(f"{name}.wire.gz")
    for frame in [*reader.feed((WIRE / f"{name}.wire.gz").read_bytes()), *reader.finish()]:
        monitor.process(frame)
        for op, block, ts in zip(frame.ops.tolist(), frame.blocks.tolist(), frame.ts.tolist(), strict=True):
            if op == Op.CLEAR:
                live.clear()
                plain.gone.clear()
            elif (is_stored := op != Op.EVICT) != (block in live):
                (live.add if is_stored else live.remove)(block)
                plain.apply(block, ts, is_stored)
    premature = monitor.summary().premature
    assert premature.count == len(plain.returned) > 0
    assert premature.return_time.max == max(time for time, _ in plain.returned) / 1e9
    middle = statistics.median(distance for _, distance in plain.returned)
    assert premature.extra_blocks_p50 == pytest.approx(middle, rel=0.03, abs=1)
