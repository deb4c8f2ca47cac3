"""From findings to incidents: one cause, one notification; what joins, rises, recurs and ends."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kvstream.alerts.evaluator import Evaluator
from kvstream.alerts.evidence import KEPT
from kvstream.alerts.silences import Silence, Silences
from kvstream.alerts.types import AlertLevel
from tests.alerts.windows import RULES, empty, evaluator, said, stretch, window
from tests.strategies import fewer


def flushed(start, end):
    """A cache that something flushes: hits and lifetimes fall together."""
    return stretch(start, end, 0.02, hit_ratio=0.2, lifetime=1.0)


def test_findings_of_one_cause_are_one_incident_with_evidence():
    judge = evaluator()
    found = said(judge, [*stretch(0, 900, 0.02), *flushed(900, 1500)])
    assert [rule for rule, *_ in found] == ["hit_ratio_drop", "hit_ratio_drop"]
    (alert,) = judge.firing()
    assert any("blocks survive" in line for line in alert.evidence)
    assert "lookups" in alert.evidence[0]
    assert alert.runbook == "hit_ratio_drop"


def test_an_incident_has_one_id_from_its_beginning_to_its_end():
    judge = evaluator("hit_ratio_drop")
    alerts = [
        alert
        for each in [*stretch(0, 900, 0.02), *flushed(900, 1500), *stretch(1500, 2100, 0.02)]
        for alert in judge.close(each)
    ]
    assert [a.state for a in alerts] == ["firing", "firing", "resolved"]
    assert len({a.incident for a in alerts}) == 1
    assert len({a.started_at for a in alerts}) == 1


def test_an_alert_becomes_critical_after_minutes_and_not_seconds():
    judge = evaluator("hit_ratio_drop")
    found = said(judge, [*stretch(0, 900, 0.02), *flushed(900, 1500)])
    (_, _, _, begun), (_, _, level, risen) = found
    assert level == "critical"
    assert 120 <= risen - begun <= 300


def test_a_mild_drop_stays_a_ticket():
    found = said(evaluator(), [*stretch(0, 900, 0.02), *stretch(900, 3600, 0.02, hit_ratio=0.68)])
    assert [(rule, level) for rule, _, level, _ in found] == [("hit_ratio_drop", "warning")]


def test_another_cause_is_notified_while_an_incident_is_open():
    windows = [*stretch(0, 900, 0.02), *flushed(900, 1200), *stretch(1200, 1210, lost=3, hit_ratio=0.2)]
    rules = [rule for rule, state, level, _ in said(evaluator(), windows) if level == "warning"]
    assert rules == ["hit_ratio_drop", "lost_frames"]


def test_an_alert_of_another_matter_does_not_hide_what_is_normal():
    rules = [RULES["hit_ratio_drop"], replace(RULES["occupancy_high"], level=AlertLevel.WARNING)]
    judge = Evaluator(rules, "s", "gpu", 1.0, 100)
    found = said(judge, [*stretch(0, 900, 0.02), *flushed(900, 1000)])
    assert [rule for rule, *_ in found] == ["occupancy_high", "hit_ratio_drop"]


def test_what_rests_on_lost_frames_begins_no_alert():
    windows = [*stretch(0, 900, 0.02), *stretch(900, 1100, 0.02, hit_ratio=0.2, lost=1)]
    assert [rule for rule, *_ in said(evaluator(), windows)] == ["lost_frames"]


def test_a_restart_inhibits_the_drop_that_comes_with_it():
    windows = [
        *stretch(0, 900, 0.02),
        window(900, restarts=1, hit_ratio=0.0),
        *stretch(901, 1000, 0.02, hit_ratio=0.1),
        *stretch(1000, 1600, 0.02),
    ]
    assert [(rule, state) for rule, state, *_ in said(evaluator(), windows)] == [
        ("source_restarted", "firing"),
        ("source_restarted", "resolved"),
    ]


@pytest.mark.parametrize(("lifetime", "ends"), [(7.0, 1110), (3.0, 1640)])
def test_a_restart_is_not_over_while_blocks_survive_less_than_half_as_long(lifetime, ends):
    windows = [
        *stretch(0, 900, 0.02),
        window(930, hit_ratio=0.0, restarts=1),
        *stretch(931, 1000, 0.02, hit_ratio=0.2, evicted=0),
        *stretch(1000, 2400, 0.02, lifetime=lifetime),
    ]
    end = next(at for rule, state, _, at in said(evaluator(), windows) if state == "resolved")
    assert end == pytest.approx(ends, abs=60), "within ten minutes even so, as nobody suffers"


def test_a_hit_ratio_that_comes_back_ends_no_incident_while_lifetimes_do_not():
    bad = stretch(900, 1300, 0.02, hit_ratio=0.5, lifetime=2.0)
    by_chance = stretch(1300, 1600, 0.02, lifetime=3.0)
    windows = [*stretch(0, 900, 0.02), *bad, *by_chance, *stretch(1600, 1800, 0.02)]
    *_, (rule, state, _, ended) = said(evaluator(), windows)
    assert (rule, state) == ("hit_ratio_drop", "resolved")
    assert 1600 < ended < 1700


def test_a_drop_that_was_inhibited_and_came_back_is_judged_anew():
    windows = [
        *stretch(0, 900, 0.02),
        window(900, restarts=1, hit_ratio=0.0),
        *stretch(901, 1000, 0.02, hit_ratio=0.1),
        *stretch(1000, 1400, 0.02),
        *stretch(1400, 1540, 0.02, hit_ratio=0.72),  # too little to begin an incident
    ]
    assert {rule for rule, *_ in said(evaluator(), windows)} == {"source_restarted"}


def test_an_engine_that_hangs_and_then_restarts_is_one_incident():
    windows = [
        *stretch(0, 900, 0.02),
        window(940, restarts=1, hit_ratio=0.0),
        *stretch(941, 1000, 0.02, hit_ratio=0.1),
        *stretch(1000, 1600, 0.02),
    ]
    found = said(evaluator(), windows)
    assert [(rule, state) for rule, state, *_ in found] == [
        ("engine_stalled", "firing"),
        ("engine_stalled", "resolved"),
    ]
    assert found[1][3] > 1060, "over when the hit ratio is back"


def test_an_engine_that_clears_its_cache_at_every_training_step_wakes_nobody():
    steps = []
    for start in range(900, 3300, 240):
        steps += [
            window(start, restarts=1, hit_ratio=0.0),
            *stretch(start + 1, start + 40, 0.02, hit_ratio=0.1),
            *stretch(start + 40, start + 240, 0.02),
        ]
    found = said(evaluator(), [*stretch(0, 900, 0.02), *steps, *stretch(3300, 4000, 0.02)])
    assert [(rule, state, level) for rule, state, level, _ in found] == [
        ("source_restarted", "firing", "warning"),
        ("source_restarted", "resolved", "warning"),
    ] * 2


def test_an_engine_that_falls_silent_while_it_recovers_from_a_restart_is_notified():
    windows = [
        *stretch(0, 900, 0.02),
        window(900, restarts=1, hit_ratio=0.0),
        *stretch(901, 930, 0.02, hit_ratio=0.1),
        *stretch(1130, 1600, 0.02),
    ]
    found = said(evaluator(), windows)
    assert [(rule, level, state) for rule, state, level, _ in found] == [
        ("source_restarted", "warning", "firing"),
        ("engine_stalled", "warning", "firing"),
        ("engine_stalled", "critical", "firing"),
        ("engine_stalled", "critical", "resolved"),
        ("source_restarted", "warning", "resolved"),
    ]


def test_a_job_that_comes_every_few_minutes_is_notified_less_and_less():
    job = [
        each
        for start in range(900, 3300, 330)
        for each in [
            *stretch(start, start + 90, 0.02, hit_ratio=0.2),
            *stretch(start + 90, start + 330, 0.02),
        ]
    ]
    found = said(evaluator(), [*stretch(0, 900, 0.02), *job, *stretch(3540, 4200, 0.02)])
    assert len(found) <= 6
    assert found[-1][1] == "resolved"


def test_what_recurred_is_over_once_it_is_good_for_longer_than_it_was_between():
    last, windows = 0, stretch(0, 900, 0.02)
    for start in range(900, 900 + 4 * 320, 320):
        last = start + 120
        windows += [*flushed(start, last), *stretch(last, start + 320, 0.02)]
    found = said(evaluator("hit_ratio_drop"), [*windows, *stretch(last + 200, last + 600, 0.02)])
    *_, (_, state, _, over) = found
    assert state == "resolved"
    assert last + 200 < over <= last + 300
    assert len([each for each in found if each[1] == "resolved"]) == 2


def test_evidence_lasts_for_an_hour_and_no_longer():
    judge = evaluator()
    for each in stretch(0, 4000):
        judge.close(each)
    assert len(judge._log.pieces) == KEPT


# Silences


def silence(until, **patterns):
    return Silence(until=datetime.datetime.fromtimestamp(until, datetime.UTC), **patterns)


def test_a_silence_holds_until_its_end_for_what_it_covers():
    windows = [*stretch(0, 100), *stretch(100, 300, lost=1)]
    for covers in ({}, {"rule": "lost_*"}, {"source": "s", "tier": "gpu"}):
        judge = evaluator("lost_frames", silences=Silences([silence(200.0, **covers)]))
        assert [at for *_, at in said(judge, windows)] == [200.0]
    for other in ({"rule": "hit*"}, {"source": "t*"}, {"tier": "cpu"}):
        judge = evaluator("lost_frames", silences=Silences([silence(200.0, **other)]))
        assert [at for *_, at in said(judge, windows)] == [101.0]


def test_what_is_over_before_its_silence_ends_is_never_notified():
    judge = evaluator("lost_frames", silences=Silences([silence(400.0)]))
    assert said(judge, [*stretch(0, 100), window(100, lost=1), *stretch(101, 600)]) == []


def test_a_silenced_alert_says_why_it_is_quiet():
    judge = evaluator("lost_frames", silences=Silences([silence(400.0, reason="load test")]))
    said(judge, [*stretch(0, 100), window(100, lost=1)])
    assert [alert.silenced_by for alert in judge.firing()] == ["load test"]


# Time


def test_a_clock_that_is_set_back_neither_blinds_nor_fools():
    windows = [
        *stretch(1000, 1900, 0.02),
        window(1600, clock_step=True),
        *stretch(1601, 1900, 0.02),
        *stretch(1900, 2400, 0.02, hit_ratio=0.2),
    ]
    found = said(evaluator(), windows)
    assert [(rule, state) for rule, state, *_ in found][:3] == [
        ("clock_step", "firing"),
        ("clock_step", "resolved"),
        ("hit_ratio_drop", "firing"),
    ]
    assert 1900 < found[2][3] <= 1990


@fewer
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 1, 1, 2, 20, 40, 90, 400, 3000]),
            st.sampled_from(
                [
                    {},
                    {},
                    {},
                    {"hit_ratio": 0.1},
                    {"lost": 2},
                    {"restarts": 1},
                    {"live": 50},
                    {"lifetime": 0.5},
                ]
            ),
            st.integers(1, 120),
        ),
        max_size=12,
    ),
    st.sampled_from([None, 700.0, 1500.0]),
)
def test_skipping_empty_windows_gives_the_alerts_of_walking_them_all(parts, silenced_until):
    index, windows = 0, stretch(0, 300, 0.03)
    for gap, what, length in parts:
        index = windows[-1].index + gap
        windows += stretch(index, index + length, 0.03, **what)

    def judge():
        silences = Silences([silence(silenced_until)] if silenced_until else [])
        return evaluator(capacity=100, silences=silences)

    walked, every = judge(), []
    last = -1
    for each in windows:
        for i in range(last + 1, each.index):
            every += walked.close(empty(i))
        every += walked.close(each)
        last = each.index
    skipped = judge()
    assert [alert for each in windows for alert in skipped.close(each)] == every
    assert skipped.pass_time(last + 5_000) == [
        alert for i in range(last + 1, last + 5_000) for alert in walked.close(empty(i))
    ]


@pytest.mark.parametrize("gap", [10**5, 10**12])
def test_the_length_of_a_silence_costs_nothing(gap):
    judge = evaluator()
    for each in stretch(0, 600, 0.02):
        judge.close(each)
    (first, second) = judge.pass_time(600 + gap)
    assert (first.rule, first.timestamp, second.timestamp) == ("engine_stalled", 631.0, 691.0)
