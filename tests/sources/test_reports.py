import numpy as np

from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sources.reports import ReportLimiter

FRAME = EventFrame(np.zeros(1, np.uint8), np.zeros(1, np.int64), np.zeros(1, np.int64))


def test_a_flood_of_reports_is_few_reports_that_count_all_at_once():
    now = 0.0
    limiter = ReportLimiter(lambda: now)
    reports = []
    for turn in range(100):
        now = turn / 20
        passed = limiter.limited([Malformed("x", "message", turn, "wrong"), FRAME] * 100)
        assert passed.count(FRAME) == 100
        reports += [item for item in passed if isinstance(item, Malformed)]
        assert sum(report.count for report in reports) == 100 * (turn + 1)
        assert limiter.is_limiting
    assert len(reports) <= 5 * 20 + 100
    assert str(reports[-1]).endswith("99 more like it)")
    now += 1
    assert not limiter.is_limiting


def test_a_few_reports_are_passed_on_at_once():
    limiter = ReportLimiter(lambda: 5.0)
    reports = [Malformed("x", unit, 1, "wrong") for unit in ("message", "replay", "message")]
    assert limiter.limited(reports) == reports
    assert not limiter.is_limiting
