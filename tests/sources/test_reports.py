import numpy as np

from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sources.reports import ReportLimiter

FRAME = EventFrame(np.zeros(1, np.uint8), np.zeros(1, np.int64), np.zeros(1, np.int64))


def test_a_flood_of_reports_is_few_reports_that_count_all():
    now = 0.0
    limiter = ReportLimiter(lambda: now)
    passed = []
    for turn in range(10_000):
        now = turn / 2_000
        passed += limiter.limited([Malformed("x", "message", turn, "wrong"), FRAME])
    assert limiter.due_in is not None
    now += limiter.due_in
    passed += limiter.limited([])
    assert limiter.due_in is None
    reports = [item for item in passed if isinstance(item, Malformed)]
    assert sum(report.count for report in reports) == 10_000
    assert len(reports) <= 6 * 21
    assert passed.count(FRAME) == 10_000
    assert str(reports[-1]).endswith("more like it)")


def test_a_few_reports_are_passed_on_at_once():
    limiter = ReportLimiter(lambda: 5.0)
    reports = [Malformed("x", unit, 1, "wrong") for unit in ("message", "replay", "message")]
    assert limiter.limited(reports) == reports
    assert limiter.due_in is None
