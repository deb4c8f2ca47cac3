"""Whether hits are reported is found out from what each source sends."""

import pytest

from kvstream.engine.monitor import Monitor
from kvstream.events.types import Op
from tests.strategies import frame

FAR = 2**40  # as content hashes are


def stores(first, count):
    return [(Op.STORE, FAR + block, 1, "") for block in range(first, first + count)]


@pytest.mark.parametrize(
    ("events", "reported", "ratio"),
    [
        ([], None, None),
        (stores(0, 999), None, None),
        (stores(0, 1_000), "none", None),
        # Another copy, or its removal, is no hit.
        ([*stores(0, 1_000), *stores(0, 500), (Op.EVICT, FAR, 2, "")], "none", None),
        # vLLM's report mode is asked for request by request.
        ([*stores(0, 1_000), (Op.PREFIX, FAR, 2, "")], "some", 1 / 1_001),
        ([(Op.ALLOC, 1, 1, ""), (Op.ACCESS, 1, 2, "")], "all", 0.5),
        ([(Op.ALLOC, block, 1, "") for block in range(1_000)], "none", None),
    ],
)
def test_hits_are_reported_by_no_request_by_some_or_by_all(events, reported, ratio):
    monitor = Monitor()
    if events:
        monitor.process(frame(events))
    summary = monitor.summary()
    assert (summary.hits_reported, summary.hit_rate_estimate) == (reported, ratio)
    resting_on_hits = (
        *(summary.idle, summary.first_reuse, summary.reuse_gap),
        *(summary.recent.access_rate, summary.recent.idle, summary.recent.hit_ratio),
    )
    assert {value is None for value in resting_on_hits} == {ratio is None}


def test_of_several_sources_some_report_hits_where_not_all_do():
    monitor = Monitor()
    monitor.process(frame(stores(0, 1_000), source="a"))
    monitor.process(frame(stores(0, 5), source="b"))
    assert monitor.summary().hits_reported == "none"
    monitor.process(frame([(Op.ALLOC, 1, 1, ""), (Op.ACCESS, 1, 2, "")], source="c"))
    assert monitor.summary().hits_reported == "some"
    assert monitor.summary("c").hits_reported == "all"
    assert monitor.summary("b").hits_reported is None
