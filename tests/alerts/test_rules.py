import re

import numpy as np
import pytest
from msgspec.structs import replace

from kvstream.alerts.lifecycle import RuleEngine
from kvstream.alerts.rules import MIN_BASELINE, Point, Rule, read
from kvstream.alerts.rules_file import builtin_text, default_rules, load_rules
from kvstream.alerts.types import AlertLevel, MetricType
from kvstream.errors import ConfigError
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.window import Window

RULES = {rule.name: rule for rule in default_rules(trend_window=20)}


def window(index, allocations=100, accesses=900, evicted=90, dead=30, lifetime=1.0, live=50, lost=0, **more):
    """A window as it would be measured; lifetimes all alike."""
    seen = Measurements(4)
    seen.allocations, seen.accesses = allocations, accesses
    seen.evictions[0] = evicted
    seen.lifetime.record(np.full(evicted, int(lifetime * 1e9)))
    seen.never_accessed = dead
    seen.time_regressions = more.get("regressions", 0)
    return Window(index, seen, live, lost, more.get("restarts", 0))


def run(name, windows, capacity=100):
    """The (window, state) at which the rule's alert begins and ends, at whatever level."""
    engine = RuleEngine([replace(RULES[name], escalate=None)], "s", "gpu", 1.0, capacity)
    return [(w.index, alert.state) for w in windows for alert in engine.close(w)]


def episode(good, bad, before=30, during=20, after=30):
    """Windows of a good time, a bad one and a good one again."""
    return [
        window(i, **(bad if before <= i < before + during else good)) for i in range(before + during + after)
    ]


EPISODES = {
    "hit_ratio_drop": ({}, {"allocations": 700, "accesses": 300}),
    "dead_blocks": ({}, {"evicted": 180, "dead": 180}),
    "eviction_storm": ({}, {"evicted": 900, "dead": 300}),
    "lifetime_anomaly": ({}, {"lifetime": 0.2}),
    "occupancy_high": ({}, {"live": 97}),
    "lost_frames": ({}, {"lost": 2}),
    "source_restarted": ({}, {"restarts": 1}),
    "clock_step": ({}, {"regressions": 500}),
}


@pytest.mark.parametrize("name", EPISODES)
def test_rule_fires_once_and_resolves_once_in_an_episode(name):
    changes = run(name, episode(*EPISODES[name]))
    assert [state for _, state in changes] == ["firing", "resolved"]
    (fired, _), (resolved, _) = changes
    assert 30 <= fired <= 37
    assert 50 <= resolved <= 50 + RULES[name].window + RULES[name].clear_windows


@pytest.mark.parametrize("name", EPISODES)
def test_rule_fires_again_in_the_next_episode(name):
    good, bad = EPISODES[name]
    twice = episode(good, bad) + episode(good, bad)
    again = [window(i, **(bad if 30 <= i % 80 < 50 else good)) for i in range(len(twice))]
    assert [state for _, state in run(name, again)] == ["firing", "resolved"] * 2


@pytest.mark.parametrize("name", EPISODES)
def test_rule_stays_quiet_in_good_times(name):
    assert run(name, [window(i) for i in range(200)]) == []


@pytest.mark.parametrize("name", ["hit_ratio_drop", "dead_blocks", "lifetime_anomaly"])
def test_a_single_odd_window_does_not_fire(name):
    good, bad = EPISODES[name]
    bad = {**bad, "evicted": 20, "dead": min(20, bad.get("dead", 5))}
    if name == "hit_ratio_drop":
        bad = {"allocations": 60, "accesses": 20}
    assert run(name, episode(good, bad, during=1)) == []


def test_a_long_episode_fires_once_though_the_bad_becomes_normal():
    changes = run("hit_ratio_drop", episode(*EPISODES["hit_ratio_drop"], during=300))
    assert [state for _, state in changes] == ["firing", "resolved"]


def test_falling_lifetime_fires_while_it_falls_and_resolves_when_it_stands():
    falling = [window(i, lifetime=max(0.2, 1.0 - 0.04 * i)) for i in range(25)]
    after = [window(25 + i, lifetime=0.2) for i in range(40)]
    changes = run("lifetime_falling", falling + after)
    assert [state for _, state in changes] == ["firing", "resolved"]
    assert changes[0][0] <= 25


def test_windows_without_observations_conclude_nothing():
    rule = RULES["hit_ratio_drop"]
    points = [Point(0.9, 1000)] * 30 + [Point(0.0, 0)] * 3
    assert read(rule, points) is None
    assert read(rule, [Point(0.9, 1000)] * (MIN_BASELINE + rule.window - 1)) is None


def test_alert_says_what_it_needs_to():
    engine = RuleEngine([RULES["hit_ratio_drop"]], "engine-0", "cpu", 1.0, None)
    alerts = [a for w in episode(*EPISODES["hit_ratio_drop"]) for a in engine.close(w)]
    fired, risen, resolved = alerts
    assert [a.level.value for a in alerts] == ["warning", "critical", "critical"]
    assert (risen.state, risen.fingerprint) == ("firing", fired.fingerprint)
    assert fired.metric is MetricType.HIT_RATIO
    assert (fired.source, fired.tier, fired.rule) == ("engine-0", "cpu", "hit_ratio_drop")
    assert fired.value < fired.threshold
    assert fired.started_at < fired.timestamp <= fired.started_at + 5
    assert fired.fingerprint == resolved.fingerprint
    assert resolved.started_at == fired.started_at < resolved.timestamp
    assert "fell to" in fired.message


def test_levels_compare_by_severity():
    assert AlertLevel.CRITICAL.at_least(AlertLevel.WARNING)
    assert not AlertLevel.INFO.at_least(AlertLevel.WARNING)


def test_memory_is_bounded_by_the_longest_rule():
    engine = RuleEngine(list(RULES.values()), "s", "gpu", 1.0, 100)
    for i in range(1000):
        engine.close(window(i))
    longest = max(r.window + r.baseline for r in RULES.values())
    assert max(len(points) for points in engine._points.values()) <= 2 * longest


def test_rules_file_changes_turns_off_and_adds(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(
        """
        [hit_ratio_drop]
        threshold = 0.05
        clear = 0.02
        [occupancy_high]
        enabled = false
        [idle_long]
        metric = "idle_time"
        condition = "above"
        threshold = 60
        clear = 30
        level = "info"
        message = "blocks sit idle for {value:.0f} s"
        """
    )
    rules = {rule.name: rule for rule in load_rules(path, default_rules())[0]}
    assert rules["hit_ratio_drop"].threshold == 0.05
    assert not rules["occupancy_high"].enabled
    assert rules["idle_long"].metric is MetricType.IDLE_TIME


def test_rules_file_holds_silences(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(
        """
        [[silences]]
        rule = "occupancy_*"
        until = 2030-01-01T00:00:00Z
        [[silences]]
        source = "batch-*"
        until = 2031-01-01T00:00:00+02:00
        reason = "nightly"
        """
    )
    rules, (first, second) = load_rules(path, default_rules())
    assert rules == default_rules()
    assert (first.rule, first.source, second.source, second.reason) == (
        "occupancy_*",
        "*",
        "batch-*",
        "nightly",
    )
    assert second.until.timestamp() - first.until.timestamp() == 365 * 86_400 - 7200


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[x", "TOML|Expected"),
        ("hit_ratio_drop = 3", "write \\[hit_ratio_drop\\]"),
        ("[new]\nthreshold = 1", "missing required field"),
        ("[hit_ratio_drop]\nthresold = 1", "unknown field"),
        ("[hit_ratio_drop]\nthreshold = 'high'", "float"),
        ("[hit_ratio_drop]\nclear = 0.9", "beyond the threshold"),
        ("[hit_ratio_drop]\nwindow = 0", "window must be a whole number from 1 to 1,000, not 0"),
        ("[hit_ratio_drop]\nbaseline = 2", "baseline"),
        ("[hit_ratio_drop]\nthreshold = inf", "threshold must be from"),
        ("[hit_ratio_drop]\nmessage = '{valeu}'", "message"),
        ("[hit_ratio_drop]\nlevel = 'fatal'", "Invalid enum value"),
        ("[hit_ratio_drop]\nescalate = { level = 'info' }", "escalate must name"),
        ("[lost_frames]\ninhibits = ['hits']", "2: .*hits, which is no rule"),
        ("silences = 3", "write \\[\\[silences\\]\\]"),
        ("\n[[silences]]\nuntil = 2030-01-01T00:00:00", "2: .*time zone"),
        ("[[silences]]\nrule = 'x'", "missing required field"),
    ],
)
def test_rules_file_with_an_error_says_which(tmp_path, text, says):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"rules.toml.*?({says})"):
        load_rules(path, default_rules())


def test_every_mistake_in_a_rules_file_is_told_with_its_line(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(
        """\
# strict
[hit_ratio_drop]
threshold = 0.1
clear = "low"

[occupancy_high]
level = "fatal"

[dead_blocks]
thresold = 1
window = 3

[eviction_storm]
clear = 9

[lifetime_anomaly]
threshold = 9.0
window = 0
"""
    )
    with pytest.raises(ConfigError) as error:
        load_rules(path, default_rules())
    told = [line.removeprefix(f"{path}:") for line in str(error.value).splitlines()]
    assert [line.partition(":")[0] for line in told] == ["4", "7", "10", "13", "18"]
    assert all("rule " in line for line in told)


def test_the_builtin_rules_say_why_and_what_to_try():
    text = builtin_text()
    for rule in default_rules():
        assert rule.hint
        assert re.search(rf"^# .+\n\[{rule.name}\]$", text, re.M)
    for metric in MetricType:
        assert metric.value in text


def test_rule_needs_a_finite_threshold():
    with pytest.raises(ConfigError):
        Rule(name="x", metric=MetricType.LOST, condition="above", threshold=float("nan"), clear=0, message="")


def test_a_cache_that_starts_to_evict_once_full_is_no_storm():
    cold = [window(i, evicted=0, dead=0) for i in range(12)] + [window(12, evicted=5, dead=1)]
    assert run("eviction_storm", cold + [window(13 + i) for i in range(60)]) == []


def test_where_hits_are_not_reported_no_block_is_called_dead():
    assert run("dead_blocks", [window(i, accesses=0, dead=90) for i in range(60)]) == []


def test_twice_the_traffic_is_no_anomaly_of_lifetimes():
    before = [window(i, lifetime=20.0) for i in range(60)]
    # A block that is evicted k windows after the change has lived through as many lookups as ever.
    doubled = [
        window(59 + k, allocations=200, accesses=1800, lifetime=max(10.0, 20.0 - k)) for k in range(1, 60)
    ]
    assert run("lifetime_anomaly", before + doubled) == []
    assert run("lifetime_falling", before + doubled) == []
    shorter = [window(60 + i, lifetime=5.0) for i in range(10)]
    assert [state for _, state in run("lifetime_anomaly", before + shorter)] == ["firing"]


def test_a_surge_from_hardly_anything_to_little_does_not_fire():
    assert run("dead_blocks", episode({"dead": 10}, {"dead": 90})) == [], "1 % to 9 % of the blocks asked for"
    assert run("dead_blocks", episode({"dead": 10}, {"evicted": 120, "dead": 120})) != [], "to 12 %"


def test_a_drop_within_what_chance_explains_does_not_fire():
    rng = np.random.default_rng(1)
    few = [window(i, *((40, 10) if rng.random() < 0.3 else (10, 40))) for i in range(600)]
    assert run("hit_ratio_drop", few) == []
