"""Empty windows: what they change is the same whether they are walked or skipped."""

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kvstream.alerts.lifecycle import RuleEngine
from kvstream.alerts.quiet import FOREVER, unchanged_windows
from kvstream.alerts.rules import Escalation, Point, Rule, read
from kvstream.alerts.silences import Silence, Silences
from kvstream.alerts.types import AlertLevel, MetricType
from tests.alerts.reference import ReferenceEngine
from tests.alerts.test_rules import RULES, window

THRESHOLDS = {
    "above": [(0.9, 0.8), (1e-9, 0.0), (1.0, 1.0), (50.0, 10.0)],
    "below": [(0.5, 0.7), (1.0, 1.0), (0.0, 0.0), (80.0, 90.0)],
    "drop": [(0.2, 0.1), (5.0, 5.0)],
    "surge": [(2.0, 1.5), (1.0, 1.0)],
    "anomaly_low": [(3.0, 1.0), (1.0, 1.0)],
    "falling": [(0.5, 0.25), (0.01, 0.0)],
    "absent": [(1.0, 0.8), (0.5, 0.5)],
}
LEVELS = st.sampled_from([AlertLevel.INFO, AlertLevel.WARNING])


@st.composite
def rules(draw):
    """A few short rules of any condition, which may inhibit one another."""
    names = ["a", "b", "c", "d"][: draw(st.integers(1, 4))]
    made = []
    for name in names:
        condition = draw(st.sampled_from(sorted(THRESHOLDS)))
        threshold, clear = draw(st.sampled_from(THRESHOLDS[condition]))
        after = draw(st.none() | st.integers(0, 60))
        severe = draw(st.none() | st.sampled_from([threshold, 2 * threshold + 1]))
        rises = after is not None or severe is not None
        made.append(
            Rule(
                name=name,
                metric=draw(st.sampled_from(list(MetricType))),
                condition=condition,
                threshold=threshold,
                clear=clear,
                level=draw(LEVELS),
                window=draw(st.integers(1, 6)),
                baseline=draw(st.integers(8, 14)),
                for_windows=draw(st.sampled_from([1, 2, 5, 40])),
                clear_windows=draw(st.sampled_from([1, 2, 5, 70])),
                cooldown_windows=draw(st.sampled_from([0, 3, 90])),
                min_count=draw(st.sampled_from([0, 1, 3, 100, 2000])),
                sigmas=draw(st.sampled_from([0.0, 1.0])),
                escalate=Escalation(threshold=severe, after_windows=after) if rises else None,
                inhibits=tuple(draw(st.lists(st.sampled_from(names), max_size=2))),
                message="{value} {threshold} {baseline} {since}",
            )
        )
    return made


KINDS = st.sampled_from(
    [
        {},
        {},
        {},
        {"allocations": 700, "accesses": 300},
        {"evicted": 900, "dead": 900},
        {"evicted": 0, "dead": 0},
        {"allocations": 1, "accesses": 0, "evicted": 0, "dead": 0},
        {"allocations": 3, "accesses": 5, "evicted": 2, "dead": 1},
        {"lifetime": 0.2, "live": 97},
        {"live": 0},
        {"live": 95, "lost": 2},
        {"restarts": 1},
        {"regressions": 500},
    ]
)
GAPS = st.sampled_from([1] * 6 + [2, 3, 5, 12, 30, 59, 130])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("windows"), KINDS, GAPS, st.integers(1, 12)),
        st.tuples(st.just("pass"), st.none(), st.integers(-3, 120), st.just(1)),
        st.tuples(st.just("back"), KINDS, st.integers(20, 60), st.just(1)),
        st.tuples(
            st.just("silence"), st.sampled_from(["*", "a", "engine_*"]), st.integers(1, 150), st.just(1)
        ),
    ),
    max_size=8,
)


def both_ways(some_rules, steps, window_seconds):
    """What the engine and its plain twin make of the same steps, step by step."""
    found = []
    for kind in (RuleEngine, ReferenceEngine):
        silences = Silences()
        engine = kind(some_rules, "s", "gpu", window_seconds, 100, silences)
        index, of_engine = 100, []
        for what, how, distance, count in steps:
            changes = []
            if what == "silence":
                until = datetime.datetime.fromtimestamp(
                    (index + distance + 0.5) * window_seconds, datetime.UTC
                )
                silences.add(Silence(rule=how, until=until))
            elif what == "pass":
                changes = engine.pass_time(index + distance)
                index = max(index, index + distance - 1)
            else:
                for _ in range(count):
                    index += -distance if what == "back" else distance
                    changes += engine.close(window(index, **how))
            of_engine.append((changes, engine.firing(), engine.pending()))
        found.append(of_engine)
    return found


@given(rules(), STEPS, st.sampled_from([1.0, 0.1, 60.0]))
def test_any_rule_says_the_same_whether_empty_windows_are_walked_or_skipped(
    some_rules, steps, window_seconds
):
    skipping, walking = both_ways(some_rules, steps, window_seconds)
    assert skipping == walking


@settings(max_examples=50)
@given(STEPS)
def test_the_builtin_rules_say_the_same_whether_empty_windows_are_walked_or_skipped(steps):
    steps = [("windows", {}, 1, 40), *steps]
    skipping, walking = both_ways(list(RULES.values()), steps, 1.0)
    assert skipping == walking


POINTS = st.lists(st.builds(Point, st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0, 1, 5])), max_size=30)


@given(rules(), POINTS, st.sampled_from([Point(0.0, 0), Point(0.0, 1), Point(0.3, 1)]), st.integers(0, 30))
def test_a_reading_holds_for_as_many_empty_windows_as_is_said(some_rules, points, empty, trailing):
    rule = some_rules[0]
    points = [*points, Point(1.0, 5), *[empty] * trailing]
    now, held = read(rule, points), unchanged_windows(rule, points, empty, frozen=False)
    for more in range(1, min(held, 40) + 1 if held != FOREVER else 40):
        assert read(rule, [*points, *[empty] * more]) == now


def test_a_silence_of_years_is_over_at_once():
    waits = replace(RULES["engine_stalled"], escalate=Escalation(after_windows=10**6))
    engine = RuleEngine(
        [*(r for r in RULES.values() if r != RULES["engine_stalled"]), waits], "s", "gpu", 1.0, 100
    )
    for index in range(100):
        engine.close(window(index))
    evaluated = []
    engine._take, take = lambda: evaluated.append(1) or take(), engine._take
    (fired, risen) = engine.pass_time(10**9)
    assert (fired.rule, fired.timestamp, risen.level, risen.timestamp) == (
        "engine_stalled",
        105.0,
        AlertLevel.CRITICAL,
        105.0 + 10**6,
    )
    assert len(evaluated) < 100


def test_a_lonely_window_is_evaluated_a_few_times_and_not_at_every_window_after_it():
    engine = RuleEngine(list(RULES.values()), "s", "gpu", 1.0, 100)
    evaluated = []
    engine._take, take = lambda: evaluated.append(1) or take(), engine._take
    for index in range(0, 60_000, 60):
        engine.close(window(index))
    assert len(evaluated) < 12 * 1000


@pytest.mark.parametrize("gap", [1, 2, 40, 1000])
def test_an_alert_of_a_silence_ends_with_it(gap):
    skipping, walking = both_ways(
        [replace(RULES["lost_frames"], clear_windows=30)],
        [
            ("windows", {"lost": 1}, 1, 3),
            ("silence", "*", 10, 1),
            ("windows", {"lost": 1}, 1, 2),
            ("pass", None, gap, 1),
        ],
        1.0,
    )
    assert skipping == walking
