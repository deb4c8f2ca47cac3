import pytest

from kvstream.alerts.labelled import read_labels
from kvstream.alerts.scoring import (
    Gathered,
    Incident,
    Notification,
    Raised,
    false_alerts,
    quiet_seconds,
    score,
)
from kvstream.alerts.types import AlertLevel
from kvstream.errors import ConfigError
from tests.alerting import alert

INCIDENT = Incident(source="a", start=1000.0, end=1600.0)


def raised(start, end=None, source="a", page_at=None):
    return Raised(source=source, rule="r", start=start, end=end, page_at=page_at)


def test_share_covered_counts_overlapping_alerts_once():
    found = score(INCIDENT, [raised(1100, 1300), raised(1200, 1400), raised(1500)], [])
    assert (found.found, found.delay) == (True, 100)
    assert found.covered == pytest.approx(400 / 600)


@pytest.mark.parametrize(("start", "is_found"), [(900, False), (999.5, True), (1650, True), (1700, False)])
def test_it_is_found_from_its_onset_to_a_minute_after_its_end(start, is_found):
    assert score(INCIDENT, [raised(start, start + 10)], []).found == is_found
    assert not score(INCIDENT, [raised(start, source="b")], []).found
    assert bool(false_alerts([INCIDENT], [raised(start)])) == (not is_found)


def test_an_alert_that_ends_long_before_the_incident_is_a_false_resolve_unless_another_goes_on():
    assert score(INCIDENT, [raised(1100, 1300)], []).false_resolves == 1
    assert score(INCIDENT, [raised(1100, 1300), raised(1200)], []).false_resolves == 0
    assert score(INCIDENT, [raised(1100, 1550)], []).false_resolves == 0


def test_it_is_closed_if_nothing_fires_five_minutes_later_or_the_recording_has_ended():
    assert score(INCIDENT, [raised(1100, 1800)], []).closed
    assert not score(INCIDENT, [raised(1100)], []).closed
    assert score(INCIDENT, [raised(1100)], [], until=1700.0).closed


def test_notifications_count_until_five_minutes_after_the_end():
    times = [Notification("a", t) for t in (900, 1000, 1700, 1901)] + [Notification("b", 1000)]
    assert score(INCIDENT, [], times).notifications == 2


def test_alerts_are_gathered_from_firing_to_resolved():
    gathered = Gathered()
    gathered.add([alert(level=AlertLevel.WARNING, timestamp=5.0), alert(timestamp=9.0)])
    gathered.add([alert("resolved", timestamp=20.0), alert(level=AlertLevel.INFO)])
    (one,) = gathered.raised
    assert (one.start, one.page_at, one.end) == (5.0, 9.0, 20.0)
    assert [each.time for each in gathered.notifications] == [5.0, 9.0, 20.0]


def test_quiet_is_what_no_incident_and_no_grace_after_one_covers():
    assert quiet_seconds([INCIDENT], "a", 0.0, 3600.0) == 1000 + 3600 - 1660
    assert quiet_seconds([INCIDENT], "b", 0.0, 3600.0) == 3600


def test_labels_are_read_in_every_form_of_time(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(
        '{"source": "a", "from": 60, "until": 90.5, "kind": "scan"}\n\n'
        '{"source": "b", "from": "2023-11-14T22:13:30Z", "tier": "gpu"}\n'
        '{"source": "c", "from": 1700000005, "until": 1700000005}\n'
    )
    c, b, a = read_labels(path, 1_700_000_000.0, 1_700_000_100.0)
    assert (a.start - 1.7e9, a.end - 1.7e9, a.kind, a.point) == (60, 90.5, "scan", False)
    assert (b.start - 1.7e9, b.end - 1.7e9, b.tier) == (10, 100, "gpu")
    assert (c.start - 1.7e9, c.point) == (5, True)


def test_every_wrong_label_is_said_with_its_line(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(
        '{"source": "a"}\n{"source": "a", "from": 9, "until": 1}\nno\n'
        '{"source": "a", "from": "2023-11-14T22:13:30"}\n'
    )
    with pytest.raises(ConfigError) as caught:
        read_labels(path, 0.0, 10.0)
    for number, what in ((1, "from"), (2, "ends before"), (3, "truncated"), (4, "time zone")):
        assert f"{path}:{number}: " in str(caught.value)
        assert what in str(caught.value)


@pytest.mark.parametrize(("lines", "left"), [(100, "80 more lines are"), (21, "1 more line is")])
def test_wrong_lines_of_labels_are_said_one_a_line_and_no_more_than_some(tmp_path, lines, left):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"source": 1}\n' * lines)
    with pytest.raises(ConfigError) as refused:
        read_labels(path, 0.0, 1.0)
    assert len(refused.value.lines) == 21
    assert refused.value.lines[0].startswith(f"{path}:1: ")
    assert refused.value.lines[-1] == f"{path}: {left} wrong"
