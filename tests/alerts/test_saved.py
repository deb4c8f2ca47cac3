"""Judgement that goes on from what was saved, as if nothing had happened."""

import datetime

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kvstream.alerts.drops import DropWatch
from kvstream.alerts.evaluator import Evaluator
from kvstream.alerts.rules_file import default_rules
from kvstream.alerts.silences import MAX_SILENCES, Silence, Silences
from kvstream.config import MetricsConfig
from kvstream.engine.limits import StreamLimits
from tests.alerts.windows import RULES, evaluator, said, stretch, window
from tests.state.saved import through_a_snapshot
from tests.strategies import fewer

WHAT = (
    {},
    {"hit_ratio": 0.1},
    {"lost": 2},
    {"restarts": 1},
    {"live": 50},
    {"lifetime": 0.5},
    {"premature": 30},
)
PARTS = st.lists(
    st.tuples(st.sampled_from([1, 2, 40, 90, 400]), st.sampled_from(WHAT), st.integers(1, 120)), max_size=10
)


def restored(judge, rules=None, capacity=None):
    after = Evaluator(RULES.values() if rules is None else rules, "s", "gpu", 1.0, capacity)
    ended = after.restore(through_a_snapshot(judge.save()))
    return after, ended


@fewer
@given(PARTS, st.lists(st.integers(0, 900), max_size=4))
def test_saved_and_restored_anywhere_it_says_what_it_would_have_said(parts, saved_at):
    windows = stretch(0, 300, 0.03)
    for gap, what, length in parts:
        index = windows[-1].index + gap
        windows += stretch(index, index + length, 0.03, **what)
    straight, judge = evaluator(capacity=100), evaluator(capacity=100)
    for at, each in enumerate(windows):
        if at in saved_at:
            judge, ended = restored(judge, capacity=100)
            assert ended == []
        assert judge.close(each) == straight.close(each)
        assert judge.firing() == straight.firing()
        assert judge.pending() == straight.pending()
        assert judge.due() == straight.due()


def test_an_incident_goes_on_under_its_id_and_is_notified_once():
    straight, judge = evaluator(), evaluator()
    windows = [*stretch(0, 1000, 0.02), *stretch(1000, 1400, 0.02, hit_ratio=0.1)]
    assert said(judge, windows) == said(straight, windows) != []
    (open_incident,) = judge.firing()
    judge, ended = restored(judge)
    assert ended == []
    assert judge.firing() == [open_incident]
    went_on = [alert for each in stretch(1400, 1900, 0.02) for alert in judge.close(each)]
    assert [(a.state, a.incident, a.started_at) for a in went_on] == [
        ("resolved", open_incident.incident, open_incident.started_at)
    ]


def test_an_alert_whose_rule_has_changed_meanwhile_ends():
    judge = evaluator()
    said(judge, [*stretch(0, 900, 0.02), *stretch(900, 1100, 0.02, hit_ratio=0.1)])
    changed = replace(RULES["hit_ratio_drop"], threshold=5.0)
    after, ended = restored(judge, [changed])
    assert [(a.rule, a.state, a.message) for a in ended] == [
        ("hit_ratio_drop", "resolved", "its rule was changed")
    ]
    assert after.firing() == []


def test_a_rule_that_is_new_begins_with_nothing():
    judge = evaluator("hit_ratio_drop")
    said(judge, stretch(0, 900, 0.02))
    after, _ = restored(judge)
    found = said(after, [window(900, lost=3)])
    assert ("lost_frames", "firing") in [(rule, state) for rule, state, *_ in found]


class Watched:
    """A ``DropWatch`` of frames that come again, and of events that are refused."""

    def __init__(self, rules=None, silences=()):
        self.silences = Silences(silences)
        limits = StreamLimits(MetricsConfig()).descriptions()
        self.watch = DropWatch(default_rules() if rules is None else rules, self.silences, limits)

    def went_on(self, rules=None):
        after = Watched(rules)
        after.silences.restore(through_a_snapshot({"silences": self.silences.save()})["silences"])
        ended = after.watch.restore(through_a_snapshot({"drops": self.watch.save()})["drops"], 1e6)
        return after, ended

    def look(self, now, again, refused):
        counts = [("engine", {"repeated": again})] if again else []
        return self.watch.look({"too_many_caches": refused} if refused else {}, counts, now)


def counts_until(second):
    """Frames that came again up to a second, which went on for a minute, and events refused, for a moment."""
    return min(second, 60) * 3, 50 * (second > 20)


@given(st.lists(st.integers(0, 250), max_size=4))
def test_drops_are_watched_on_as_if_nothing_had_happened(saved_at):
    straight, watched = Watched(), Watched()
    said = []
    for second in range(250):
        if second in saved_at:
            watched, ended = watched.went_on()
            assert ended == []
        alerts = straight.look(second, *counts_until(second))
        assert watched.look(second, *counts_until(second)) == alerts
        assert watched.watch.firing() == straight.watch.firing()
        said += [(alert.rule, alert.state) for alert in alerts]
    assert sorted(said) == [
        *[("frames_repeated", "firing"), ("frames_repeated", "resolved")],
        *[("limit_reached", "firing"), ("limit_reached", "resolved")],
    ]


def test_an_alert_on_drops_whose_rule_has_changed_meanwhile_ends():
    watched = Watched()
    for second in range(50):
        watched.look(second, *counts_until(second))
    changed = [replace(rule, clear_seconds=rule.clear_seconds + 1) for rule in default_rules()]
    after, ended = watched.went_on(changed)
    assert sorted((alert.rule, alert.state) for alert in ended) == [
        ("frames_repeated", "resolved"),
        ("limit_reached", "resolved"),
    ]
    assert after.watch.firing() == []


def test_silences_that_were_added_go_on_beside_those_of_the_rules_file():
    until = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    configured = Silence(until=until, rule="a", id="configured")
    silences = Silences([configured])
    added = [silences.add(Silence(until=until, rule="b")), silences.add(Silence(incident="c"))]
    after = Silences([configured])
    after.restore(through_a_snapshot({"silences": silences.save()})["silences"])
    assert {each.id: each for each in after.all()} == {each.id: each for each in [configured, *added]}
    after.replace_configured([])
    assert len(after) == 2


def test_silences_are_restored_as_far_as_there_is_room():
    until = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    silences = Silences()
    for _ in range(MAX_SILENCES):
        silences.add(Silence(until=until))
    after = Silences([Silence(until=until, id="configured")])
    after.restore(silences.save())
    assert len(after) == MAX_SILENCES
    assert "configured" in {each.id for each in after.all()}
