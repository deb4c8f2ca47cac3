import datetime

import pytest

from kvstream import MetricsConfig, Silence, default_rules
from kvstream.alerts.drops import DropWatch
from kvstream.alerts.silences import Silences
from kvstream.engine.limits import StreamLimits


class Watching:
    """A DropWatch, and a window of the clock for each call."""

    def __init__(self, silences=()):
        limits = StreamLimits(MetricsConfig()).descriptions()
        self.watch = DropWatch(default_rules(), Silences(silences), limits)
        self.counts = {"repeated": 0, "stale": 0, "conflicting": 0}
        self.now = 0

    def windows(self, count, **new):
        alerts = []
        for _ in range(count):
            self.now += 1
            for kind, frames in new.items():
                self.counts[kind] += frames
            some = {kind: frames for kind, frames in self.counts.items() if frames}
            alerts += self.watch.look({}, [("engine", some)] if some else [], self.now)
        return alerts


@pytest.mark.parametrize("kind", ["repeated", "stale", "conflicting"])
def test_duplicates_that_a_producer_keeps_sending_raise_an_alert_that_says_which(kind):
    watching = Watching()
    (fired,) = watching.windows(60, **{kind: 3})
    assert (fired.rule, fired.state, fired.source) == (f"frames_{kind}", "firing", "engine")
    assert watching.watch.firing() == [fired]
    (resolved,) = watching.windows(60)
    assert (resolved.rule, resolved.state) == (f"frames_{kind}", "resolved")
    assert watching.watch.firing() == []


def test_duplicates_after_reconnects_raise_none():
    watching = Watching()
    for _ in range(10):
        assert watching.windows(3, repeated=1_000) == []
        assert watching.windows(60) == []


def test_a_slow_producer_that_is_never_heard_is_noticed():
    watching, alerts = Watching(), []
    for _ in range(30):
        alerts += watching.windows(1, stale=1) + watching.windows(2)
    assert [alert.rule for alert in alerts] == ["frames_stale"]


def test_a_silenced_alert_of_drops_is_published_once_the_silence_ends():
    until = datetime.datetime.fromtimestamp(100, datetime.UTC)
    watching = Watching([Silence(until=until, rule="frames_*")])
    assert watching.windows(90, repeated=1) == []
    assert [alert.rule for alert in watching.windows(20, repeated=1)] == ["frames_repeated"]


def test_a_forgotten_source_leaves_nothing_behind():
    watching = Watching()
    watching.windows(60, repeated=1)
    (ended,) = watching.watch.forget("engine", "gone", 70)
    assert (ended.state, ended.message) == ("resolved", "gone")
    assert watching.watch.firing() == []
