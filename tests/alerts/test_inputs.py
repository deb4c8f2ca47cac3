from datetime import UTC, datetime, timedelta

from kvstream.alerts.inputs import InputReading, InputWatch
from kvstream.alerts.rules_file import default_rules
from kvstream.alerts.silences import Silence, Silences
from kvstream.alerts.types import MetricType
from kvstream.engine.inputs import InputStatistics, readings_of

START = 1_800_000_000.0
URL = "zmq://vllm-0:5557"


def watch(*silences):
    return InputWatch(default_rules(), Silences(silences))


def away(now, *, state="not connected", since=START, error="nobody answers there"):
    return list(readings_of(InputStatistics(input=URL, state=state, since=since, error=error), now))


def at(watching, second, **seen):
    now = START + second
    return [(a.state, a.rule, a.source) for a in watching.look(away(now, **seen), now)]


def test_an_input_that_is_not_connected_for_a_minute_alerts_once_until_it_is_again():
    watching = watch()
    changes = [at(watching, second) for second in range(0, 300, 10)]
    assert [change for change in changes if change] == [[("firing", "input_not_connected", URL)]]
    assert changes[7]  # a minute after it was first seen
    (firing,) = watching.firing()
    assert firing.message.endswith(": nobody answers there")
    changes = [at(watching, second, state="connected") for second in range(300, 330, 5)]
    assert [change for change in changes if change] == [[("resolved", "input_not_connected", URL)]]
    assert watching.firing() == []


def test_a_short_break_and_one_that_connects_alert_nobody():
    watching = watch()
    for second in range(0, 600, 5):
        state = "not connected" if second % 60 < 30 else "connected"
        assert at(watching, second, state=state) == []
        assert at(watch(), second, state="connecting") == []


def test_one_that_is_watched_no_more_is_resolved():
    watching = watch()
    assert [at(watching, second) for second in (10, 70)][1]
    (resolved,) = watching.look([], START + 80)
    assert (resolved.state, resolved.message) == ("resolved", "it is no longer watched")


def test_a_shared_topic_is_one_alert_that_names_it():
    seen = InputStatistics(input=URL, state="connected", since=START, shared_topics=["kv"])
    watching = watch()
    (alert,) = watching.look(readings_of(seen, START), START)
    assert (alert.rule, alert.message) == ("shared_topic", "several publishers send under one topic: 'kv'")
    assert watching.look(readings_of(seen, START + 1), START + 1) == []


def test_what_is_unknown_neither_begins_nor_ends_anything():
    def drift(value):
        return [InputReading(MetricType.DRIFT, "vllm-0", value, "in stores")]

    watching = watch()
    for second in range(0, 200, 10):
        assert watching.look(drift(None), START + second) == []
    alerts = [a for second in range(200, 400, 10) for a in watching.look(drift(0.4), START + second)]
    assert [(a.rule, a.source, a.level) for a in alerts] == [("engine_drift", "vllm-0", "warning")]
    assert "40% apart" in alerts[0].message
    for second in range(400, 900, 10):
        assert watching.look(drift(None), START + second) == []
        assert watching.look(drift(0.07), START + second + 5) == []  # better, not good
    alerts = [a for second in range(900, 1000, 10) for a in watching.look(drift(0.0), START + second)]
    assert [a.state for a in alerts] == ["resolved"]


def test_a_silence_covers_it_and_ends():
    until = datetime.fromtimestamp(START, UTC) + timedelta(seconds=200)
    watching = watch(Silence(rule="input_*", until=until, reason="maintenance"))
    assert [at(watching, second) for second in range(0, 200, 10)] == [[]] * 20
    assert watching.firing()[0].silenced_by
    assert at(watching, 210) == [("firing", "input_not_connected", URL)]


def test_rules_that_are_taken_away_resolve_their_alerts():
    watching = watch()
    assert [at(watching, second) for second in (10, 70)][1]
    (resolved,) = watching.replace_rules([], START + 80)
    assert resolved.state == "resolved"
    assert at(watching, 90) == []
