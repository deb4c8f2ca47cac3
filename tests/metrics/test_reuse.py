from hypothesis import given

from kvstream.engine.monitor import Monitor
from kvstream.testing import ReferenceTable
from tests.blocks.test_table import apply_plain
from tests.strategies import frame, plain_events


@given(plain_events())
def test_what_became_of_idle_blocks_is_as_counted_one_by_one(events):
    slower = [(op, block, ts * 10_000_000, reason) for op, block, ts, reason in events]
    monitor, plain = Monitor(), ReferenceTable()
    monitor.process(frame(slower))
    apply_plain(plain, slower)
    again = plain.reuse_gaps + plain.first_reuses
    idle = [eviction.idle for eviction in plain.evicted if eviction.idle is not None]
    rows = monitor.summary().reuse_by_idle
    for of in rows:
        limit = of.idle_seconds * 1e9 if of.idle_seconds else -1
        assert of.reused == sum(gap > limit for gap in again)
        assert of.evicted == sum(time > limit for time in idle)
        assert of.reuse_share == of.reused / (of.reused + of.evicted)
    assert bool(rows) <= bool(plain.accesses), "nothing is said of reuse where no hit was reported"


def test_a_block_idle_for_exactly_a_time_was_not_idle_for_longer():
    monitor = Monitor()
    monitor.process(frame([(0, 1, 0, ""), (1, 1, 10**9, ""), (2, 1, 5 * 10**9 + 1, "capacity")]))
    found = {of.idle_seconds: (of.reused, of.evicted) for of in monitor.summary().reuse_by_idle}
    assert (found[0.0], found[0.25], found[1.0], found[4.0]) == ((1, 1), (1, 1), (0, 1), (0, 1))
    assert 16.0 not in found
