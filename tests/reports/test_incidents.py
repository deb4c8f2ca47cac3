"""Incidents that are open: those that began together are one."""

import pytest
from msgspec.structs import replace

from kvstream.alerts.types import AlertLevel
from kvstream.reports.incidents import open_incidents
from tests.serving import alert

FIRST = alert(1)


def of(source, after=0.0, **changes):
    return replace(FIRST, source=source, started_at=FIRST.started_at + after, **changes)


def test_what_began_within_a_minute_on_several_caches_is_one_incident():
    (incident,) = open_incidents([of("b", 59), of("a"), of("c", 30)], 10)
    assert incident.cache_count == 3
    assert [cache.source for cache in incident.caches] == ["a", "c", "b"]
    assert incident.started_at == FIRST.started_at


@pytest.mark.parametrize(
    "other",
    [
        of("b", 61),
        of("b", rule="engine_stalled"),
        of("b", level=AlertLevel.CRITICAL),
        of("b", silenced_by="known"),
    ],
)
def test_another_rule_or_severity_or_time_is_another_incident(other):
    assert [each.cache_count for each in open_incidents([of("a"), other], 10)] == [1, 1]


def test_the_most_severe_stand_first_then_the_newest_and_silenced_ones_last():
    alerts = [
        of("silenced", level=AlertLevel.CRITICAL, silenced_by="known"),
        of("old"),
        of("new", 100),
        of("worst", level=AlertLevel.CRITICAL),
        of("info", 200, level=AlertLevel.INFO),
    ]
    order = [each.caches[0].source for each in open_incidents(alerts, 10)]
    assert order == ["worst", "new", "old", "info", "silenced"]
    assert [each.caches[0].source for each in open_incidents(alerts, 2)] == ["worst", "new"]


def test_of_many_caches_twenty_are_named_and_all_are_counted():
    (incident,) = open_incidents([of(f"cache-{n:03}") for n in range(60)], 10)
    assert (incident.cache_count, len(incident.caches)) == (60, 20)
