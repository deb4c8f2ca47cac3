"""An alert's life: pending, firing, at a higher level, muted, resolved, cooling down."""

import datetime

import pytest
from msgspec.structs import replace

from kvstream.alerts.lifecycle import RuleEngine
from kvstream.alerts.rules import Escalation, Rule
from kvstream.alerts.silences import Silence, Silences
from kvstream.alerts.types import AlertLevel, MetricType
from kvstream.errors import ConfigError
from tests.alerts.test_rules import RULES, window

LIVE = Rule(
    name="full",
    metric=MetricType.OCCUPANCY,
    condition="above",
    threshold=0.9,
    clear=0.8,
    window=1,
    for_windows=3,
    clear_windows=2,
    message="{value:.0%} full since {since}",
    hint="add memory",
    labels={"team": "inference"},
)
LOST = RULES["lost_frames"]


def told(rules, lives, silences=None, lost=()):
    """What is told, as (window, rule, state, level), of windows with so many of a hundred blocks live."""
    engine = RuleEngine(rules, "s", "gpu", 1.0, 100, silences)
    return [
        (i, alert.rule, alert.state, alert.level.value)
        for i, live in enumerate(lives)
        for alert in engine.close(window(i, live=live, lost=int(i in lost)))
    ]


def test_an_alert_is_pending_until_it_has_lasted():
    engine = RuleEngine([LIVE], "s", "gpu", 1.0, 100)
    states = []
    for i, live in enumerate([50, 95, 95, 50, 95, 95, 95]):
        engine.close(window(i, live=live))
        states.append(([a.state for a in engine.pending()], [a.state for a in engine.firing()]))
    pending, firing, nothing = (["pending"], []), ([], ["firing"]), ([], [])
    assert states == [nothing, pending, pending, nothing, pending, pending, firing]
    (alert,) = engine.firing()
    assert alert.message == "95% full since 00:00:04"
    assert (alert.started_at, alert.timestamp, alert.labels) == (4.0, 7.0, {"team": "inference"})


def test_after_an_episode_it_cools_down():
    lives = ([95] * 4 + [50] * 2) * 3
    assert [i for i, _, state, _ in told([LIVE], lives) if state == "firing"] == [2, 8, 14]
    cooling = replace(LIVE, cooldown_windows=6)
    assert [i for i, _, state, _ in told([cooling], lives) if state == "firing"] == [2, 14]


@pytest.mark.parametrize(
    ("escalate", "lives", "at"),
    [
        (Escalation(threshold=0.98), [95] * 6 + [99] + [95] * 3, 6),
        (Escalation(after_windows=5), [95] * 10, 7),
        (Escalation(threshold=0.98), [99] * 4, None),
    ],
)
def test_a_level_rises_once_and_stays(escalate, lives, at):
    found = told([replace(LIVE, escalate=escalate)], [*lives, 50, 50])
    over = len(lives) + 1
    rise = [] if at is None else [(2, "full", "firing", "warning")]
    assert found == [*rise, (at or 2, "full", "firing", "critical"), (over, "full", "resolved", "critical")]


def test_what_rests_on_lost_frames_is_not_told_of():
    rules = [LIVE, replace(LOST, inhibits=("full",))]
    assert told(rules, [95] * 5 + [50] * 4, lost={1}) == [
        (1, "lost_frames", "firing", "warning"),
    ], "the trouble was over before the loss was"
    found = told(rules, [95] * 20 + [50] * 2, lost={1})
    assert found == [
        (1, "lost_frames", "firing", "warning"),
        (11, "lost_frames", "resolved", "warning"),
        (11, "full", "firing", "warning"),
        (21, "full", "resolved", "warning"),
    ], "what goes on is told when the loss is over"
    engine = RuleEngine(rules, "s", "gpu", 1.0, 100)
    for i in range(5):
        engine.close(window(i, live=95, lost=1))
    assert {a.rule: a.muted_by for a in engine.firing()} == {"full": "lost_frames", "lost_frames": ""}


def test_what_was_told_before_is_also_told_to_be_over():
    rules = [LIVE, replace(LOST, inhibits=("full",))]
    found = told(rules, [95] * 5 + [50] * 10, lost={4})
    assert [(i, rule, state) for i, rule, state, _ in found] == [
        (2, "full", "firing"),
        (4, "lost_frames", "firing"),
        (6, "full", "resolved"),
        (14, "lost_frames", "resolved"),
    ]


def silence(until, **patterns):
    return Silence(until=datetime.datetime.fromtimestamp(until, datetime.UTC), **patterns)


def test_a_silence_holds_until_its_end_for_what_it_covers():
    lives = [95] * 12
    for covers in ({}, {"rule": "fu*"}, {"source": "s", "tier": "gpu"}):
        found = told([LIVE], lives, Silences([silence(8.0, **covers)]))
        assert [i for i, *_ in found] == [7]
    for other in ({"rule": "empty"}, {"source": "t*"}, {"tier": "cpu"}):
        found = told([LIVE], lives, Silences([silence(8.0, **other)]))
        assert [i for i, *_ in found] == [2]
    assert told([LIVE], [95] * 4 + [50] * 8, Silences([silence(8.0)])) == []


def test_a_silence_says_when_it_ends_and_why():
    with pytest.raises(ConfigError, match="time zone"):
        Silence(until=datetime.datetime(2030, 1, 1))
    engine = RuleEngine([LIVE], "s", "gpu", 1.0, 100, Silences([silence(99.0, reason="load test")]))
    for i in range(5):
        engine.close(window(i, live=95))
    assert [a.muted_by for a in engine.firing()] == ["load test"]


STALL = RULES["engine_stalled"]


def test_silence_after_steady_traffic_is_a_stall_and_is_told_when_time_passes():
    engine = RuleEngine([STALL], "s", "gpu", 1.0, None)
    for i in range(40):
        assert engine.close(window(i)) == []
    assert engine.pass_time(44) == []
    (alert,) = engine.pass_time(46)
    assert (alert.rule, alert.timestamp, alert.started_at) == ("engine_stalled", 45.0, 44.0)
    assert engine.pass_time(10**6) == []
    (over,) = engine.close(window(70))
    assert over.state == "resolved"


def test_a_stall_is_told_of_the_same_in_hindsight():
    engine = RuleEngine([STALL], "s", "gpu", 1.0, None)
    found = [a for i in [*range(40), *range(70, 80)] for a in engine.close(window(i))]
    assert [(a.state, a.timestamp) for a in found] == [("firing", 45.0), ("resolved", 71.0)]


def test_silence_after_sparse_traffic_is_no_stall():
    engine = RuleEngine([STALL], "s", "gpu", 1.0, None)
    assert [a for i in range(0, 400, 2) for a in engine.close(window(i))] == []
    assert engine.pass_time(500) == []


def test_rules_that_cannot_be_meant_are_refused():
    for wrong in (
        {"escalate": Escalation(level=AlertLevel.INFO, after_windows=3)},
        {"escalate": Escalation()},
        {"cooldown_windows": -1},
    ):
        with pytest.raises(ConfigError, match="rule full"):
            replace(LIVE, **wrong)
