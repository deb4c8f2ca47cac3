"""Judgement that goes on from what was saved, as if nothing had happened."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kvstream.alerts.evaluator import Evaluator
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
