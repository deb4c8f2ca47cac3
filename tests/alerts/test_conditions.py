"""What each condition finds, and what it leaves alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.alerts.conditions import View, condition_of
from kvstream.alerts.evidence import EvidenceLog
from kvstream.alerts.points import ClosedWindow
from tests.alerts.windows import RULES, evaluator, said, stretch, window

TEN_MINUTES, HALF_AN_HOUR = 600, 1800


def fired(rule, windows):
    """When a rule begins to fire and when it is over."""
    found = said(evaluator(rule), windows)
    begun = [at for _, state, level, at in found if state == "firing" and level != "critical"]
    return begun, [at for _, state, _, at in found if state == "resolved"]


# Drop


@pytest.mark.parametrize(
    ("before", "after"), [(0.8, 0.45), (0.175, 0.04), (0.9, 0.7), (0.75, 0.6)], ids=lambda ratio: f"{ratio:g}"
)
def test_a_drop_is_found_within_minutes_and_over_once_the_ratio_is_back(before, after):
    windows = [
        *stretch(0, TEN_MINUTES, 0.02, hit_ratio=before),
        *stretch(TEN_MINUTES, 1200, 0.02, hit_ratio=after),
        *stretch(1200, HALF_AN_HOUR, 0.02, hit_ratio=before),
    ]
    (begun,), (over,) = fired("hit_ratio_drop", windows)
    assert TEN_MINUTES < begun <= TEN_MINUTES + 90
    assert 1200 < over <= 1200 + 240


@pytest.mark.parametrize("every", [1, 3, 7])
def test_evidence_and_not_seconds_decide(every):
    windows = [
        *stretch(0, TEN_MINUTES * every, 0.05, every=every),
        *stretch(TEN_MINUTES * every, 2 * TEN_MINUTES * every, 0.05, every=every, hit_ratio=0.2),
    ]
    (begun,), over = fired("hit_ratio_drop", windows)
    assert TEN_MINUTES * every < begun <= TEN_MINUTES * every + 60 + 40 * every
    assert not over


def test_a_drop_that_stays_is_never_over():
    windows = [*stretch(0, 900, 0.03), *stretch(900, 4 * 3600, 0.03, hit_ratio=0.4)]
    (_,), over = fired("hit_ratio_drop", windows)
    assert not over


def test_a_drop_that_has_mostly_come_back_and_stays_there_is_over():
    fallen = [*stretch(0, 900, 0.02), *stretch(900, 1500, 0.02, hit_ratio=0.5)]
    (_,), (over,) = fired("hit_ratio_drop", [*fallen, *stretch(1500, 1800, 0.02, hit_ratio=0.71)])
    assert 1500 + 90 < over <= 1500 + 270
    (_,), over = fired("hit_ratio_drop", [*fallen, *stretch(1500, HALF_AN_HOUR, 0.02, hit_ratio=0.66)])
    assert not over


def test_a_drop_that_comes_and_goes_is_not_over_by_its_median():
    windows = [*stretch(0, 900, 0.02), *stretch(900, 1200, 0.02, hit_ratio=0.2)]
    for start in range(1200, 1800, 60):
        windows += [*stretch(start, start + 40, 0.02), *stretch(start + 40, start + 60, 0.02, hit_ratio=0.1)]
    (_,), (over,) = fired("hit_ratio_drop", [*windows, *stretch(1800, 2400, 0.02)])
    assert 1800 < over <= 1800 + 180


def test_what_was_judged_once_begins_no_incident_again():
    fallen = [*stretch(0, 900, 0.02), *stretch(900, 1500, 0.02, hit_ratio=0.1)]
    begun, over = fired("hit_ratio_drop", [*fallen, *stretch(1500, 1860, 0.02, hit_ratio=0.7)])
    assert (len(begun), len(over)) == (1, 1)


def test_a_slow_decline_is_found_before_it_has_halved_the_ratio():
    decline = [window(900 + i, hit_ratio=0.8 - 0.5 * i / 900) for i in range(900)]
    (begun,), _ = fired("hit_ratio_drop", [*stretch(0, 900, 0.02), *decline])
    assert begun < 900 + 720


def test_a_mild_drop_that_stays_is_found_by_the_long_window():
    windows = [*stretch(0, 900, 0.03), *stretch(900, 2100, 0.03, hit_ratio=0.7)]
    (begun,), _ = fired("hit_ratio_drop", windows)
    assert begun <= 900 + 400


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_a_blip_of_five_seconds_is_no_drop(ratio):
    windows = [*stretch(0, 900, 0.03), *stretch(900, 905, hit_ratio=ratio), *stretch(905, HALF_AN_HOUR, 0.03)]
    assert fired("hit_ratio_drop", windows) == ([], [])


def test_what_a_scan_of_seconds_evicted_is_no_drop_once_it_comes_back():
    coming_back = [
        *stretch(900, 910, hit_ratio=0.3),
        *stretch(910, 940, hit_ratio=0.6),
        *stretch(940, 960, 0.03, hit_ratio=0.75),
    ]
    windows = [*stretch(0, 900, 0.03), *coming_back, *stretch(960, HALF_AN_HOUR, 0.03)]
    assert fired("hit_ratio_drop", windows) == ([], [])


def test_one_huge_request_is_no_drop():
    windows = [*stretch(0, 900, 0.03), window(900, lookups=5_000, hit_ratio=0.0), *stretch(901, 1800, 0.03)]
    assert fired("hit_ratio_drop", windows) == ([], [])


def test_what_a_noisy_engine_always_does_is_no_drop():
    assert fired("hit_ratio_drop", stretch(0, 7200, 0.25, hit_ratio=0.5)) == ([], [])


def test_a_high_ratio_that_falls_by_little_is_no_drop():
    windows = [*stretch(0, 900, hit_ratio=0.99), *stretch(900, HALF_AN_HOUR, hit_ratio=0.95)]
    assert fired("hit_ratio_drop", windows) == ([], [])


def test_a_cache_that_warms_up_is_no_drop():
    warming = [window(i, hit_ratio=0.8 * (1 - math.exp(-i / 120))) for i in range(HALF_AN_HOUR)]
    assert fired("hit_ratio_drop", warming) == ([], [])


def test_a_ratio_that_rises_is_no_drop():
    windows = [*stretch(0, 900, 0.03, hit_ratio=0.4), *stretch(900, HALF_AN_HOUR, 0.03, hit_ratio=0.9)]
    assert fired("hit_ratio_drop", windows) == ([], [])


def test_without_hits_lifetimes_show_what_flushes_the_cache():
    windows = [
        *stretch(0, 900, hit_ratio=0.0),
        *stretch(900, 1500, hit_ratio=0.0, lifetime=2.0),
        *stretch(1500, 2400, hit_ratio=0.0),
    ]
    judge = evaluator()
    found = said(judge, windows)
    assert [(rule, state) for rule, state, *_ in found] == [
        ("lifetime_drop", "firing"),
        ("lifetime_drop", "resolved"),
    ]


def test_twice_the_traffic_is_no_shorter_life():
    windows = [*stretch(0, 900, hit_ratio=0.0), *stretch(900, 1800, hit_ratio=0.0, lookups=400, lifetime=5.0)]
    assert fired("lifetime_drop", windows) == ([], [])


# Premature


def test_a_cache_that_was_always_too_small_is_found_without_a_past():
    windows = stretch(0, 900, hit_ratio=0.2, premature=120)
    (begun,), _ = fired("premature_evictions", windows)
    assert begun <= 420


def test_a_cache_that_is_too_small_is_over_once_half_as_many_lookups_ask_for_what_was_evicted():
    too_small = stretch(0, 900, hit_ratio=0.2, premature=120)
    a_little_less = stretch(900, 1800, hit_ratio=0.58, premature=63)  # of 84 evictions and 200 lookups
    assert fired("premature_evictions", [*too_small, *a_little_less])[1] == []
    far_less = stretch(1800, 2700, hit_ratio=0.85, premature=22)
    (ended,) = fired("premature_evictions", [*too_small, *a_little_less, *far_less])[1]
    assert 1800 < ended < 2160


def test_premature_evictions_that_are_few_of_all_lookups_are_left_alone():
    assert fired("premature_evictions", stretch(0, 900, hit_ratio=0.9, evicted=20, premature=18)) == ([], [])


def test_evictions_of_what_nobody_needs_again_are_left_alone():
    assert fired("premature_evictions", stretch(0, 900, hit_ratio=0.1, premature=20)) == ([], [])


def test_without_hits_only_a_larger_share_of_premature_evictions_says_that_a_cache_is_too_small():
    def evicted(share):
        return stretch(0, 900, hit_ratio=0.0, lookups=100, evicted=100, premature=round(100 * share))

    assert fired("premature_evictions", evicted(0.68)) == ([], [])
    judge = evaluator("premature_evictions")
    (alert,) = [alert for each in evicted(0.8) for alert in judge.close(each)]
    assert alert.threshold == pytest.approx(0.72)
    (evidence,) = alert.evidence
    assert evidence == "24,000 of 30,000 evicted blocks were asked for again; hits are not reported"


# Silent


@pytest.mark.parametrize("every", [1, 2, 5, 10])
def test_silence_is_judged_by_the_engines_own_pauses(every):
    judge = evaluator("engine_stalled")
    last = 0
    for each in stretch(0, 600, every=every):
        assert judge.close(each) == []
        last = each.index
    limit = max(30, 4 * every)
    assert judge.pass_time(last + 1 + limit) == []
    (alert,) = judge.pass_time(last + limit + 3)
    assert (alert.rule, alert.state, alert.level.value) == ("engine_stalled", "firing", "warning")
    assert alert.started_at == last + 1


def test_harmless_pauses_are_no_stall():
    windows = [each for start in range(0, 3600, 180) for each in stretch(start, start + 168)]
    assert fired("engine_stalled", windows) == ([], [])


def test_a_stall_is_found_again_the_second_time():
    windows = [*stretch(0, 600), *stretch(700, 1300), *stretch(1420, 2000)]
    begun, over = fired("engine_stalled", windows)
    assert begun == [631.0, 1331.0]
    assert over == [701.0, 1421.0]


def test_a_stall_becomes_critical_after_a_minute():
    found = said(evaluator("engine_stalled"), [*stretch(0, 600), *stretch(900, 960)])
    assert [(state, level, at) for _, state, level, at in found] == [
        ("firing", "warning", 631.0),
        ("firing", "critical", 691.0),
        ("resolved", "critical", 901.0),
    ]


def test_an_engine_that_has_hardly_been_heard_does_not_stall():
    judge = evaluator("engine_stalled")
    for each in stretch(0, 10):
        judge.close(each)
    assert judge.pass_time(10**6) == []


def silence_is_due_after(pauses):
    """Seconds of silence after the last of these pauses that are too long."""
    silent = condition_of(RULES["engine_stalled"])
    log, closed, now = EvidenceLog(), ClosedWindow(window(0), 1.0, True), 0.0
    for pause in [0.0, *pauses]:
        now += pause
        silent.look(View(now, log, closed=closed))
    return silent.due() - now


@given(
    st.lists(st.tuples(st.sampled_from([1.0, 9.0, 20.0]), st.integers(12, 250)), min_size=3, max_size=9),
    st.lists(st.sampled_from([1.0, 9.0, 20.0]), max_size=11),
)
def test_silence_is_judged_against_the_longest_of_the_last_pauses(runs, irregular):
    regular = [pause for pause, times in runs for _ in range(times)]
    threshold = RULES["engine_stalled"].threshold
    for pauses in (regular, regular + irregular):
        kept = sorted(pauses[-400:])
        usual = max(30.0, threshold * kept[-2 if len(kept) >= 200 else -1])
        due = silence_is_due_after(pauses)
        assert due == usual if pauses is regular else due >= usual


def test_pauses_that_grow_make_silence_due_later():
    rng = np.random.default_rng(5)
    steady = rng.exponential(3.0, 300)
    fading = np.concatenate([steady, rng.exponential(np.linspace(3.0, 30.0, 40))])
    assert silence_is_due_after(steady) < 100
    assert silence_is_due_after(fading) > 1.5 * RULES["engine_stalled"].threshold * fading.max()
    back = np.concatenate([fading, rng.exponential(3.0, 400)])
    assert silence_is_due_after(back) < 100


@pytest.mark.parametrize("seed", range(5))
def test_an_evening_that_fades_is_no_stall_and_a_stall_in_it_is(seed):
    rng, seconds, now = np.random.default_rng(seed), [], 0.0
    while (now := now + rng.exponential(1 / (0.02 + max(0.0, 1 - now / 1200)))) < 1500:
        seconds.append(int(now))
    evening = [window(second) for second in dict.fromkeys(seconds)]
    assert fired("engine_stalled", evening) == ([], [])
    hangs = [each for each in evening if each.index < 900]
    (begun,), _ = fired("engine_stalled", [*hangs, window(1500)])
    assert begun < 900 + 240


# Restarted


def test_a_restart_is_over_when_the_hit_ratio_is_what_it_was():
    windows = [
        *stretch(0, 900, 0.02),
        window(930, hit_ratio=0.0, restarts=1),
        *stretch(931, 1000, 0.02, hit_ratio=0.2),
        *stretch(1000, 1500, 0.02),
    ]
    assert fired("source_restarted", windows) == ([931.0], [pytest.approx(1110, abs=60)])


def test_a_cache_that_does_not_come_back_after_a_restart_becomes_critical():
    windows = [
        *stretch(0, 900, 0.02),
        window(930, hit_ratio=0.0, restarts=1),
        *stretch(931, 2400, 0.02, hit_ratio=0.4),
    ]
    found = said(evaluator("source_restarted"), windows)
    assert [(state, level) for _, state, level, _ in found] == [("firing", "warning"), ("firing", "critical")]


def test_a_clear_of_the_whole_cache_is_a_restart_and_one_of_a_few_blocks_is_not():
    cleared = [*stretch(0, 900), window(900, clears=1, cleared=95, live=0), *stretch(901, 1200)]
    assert fired("source_restarted", cleared)[0] == [901.0]
    few = [*stretch(0, 900), window(900, clears=1, cleared=20), *stretch(901, 1200)]
    assert fired("source_restarted", few) == ([], [])


def test_a_restart_of_which_nothing_is_known_before_is_over_after_a_minute():
    windows = [*stretch(0, 20), window(20, restarts=1), *stretch(21, 120)]
    assert fired("source_restarted", windows) == ([21.0], [82.0])


def test_without_hits_a_restart_says_nothing_of_them():
    judge = evaluator("source_restarted")
    windows = [*stretch(0, 900, hit_ratio=0.0), window(930, hit_ratio=0.0, restarts=1)]
    windows += stretch(931, 1200, hit_ratio=0.0)
    fires, over = [alert for each in windows for alert in judge.close(each)]
    assert fires.evidence == over.evidence == []
    assert over.message.startswith("over after")
    assert "at its worst" not in over.message


# Occurs, Threshold


def test_what_should_not_happen_is_reported_at_once_and_over_a_minute_after_the_last():
    windows = [*stretch(0, 100), *stretch(100, 110, lost=2), *stretch(110, 300)]
    assert fired("lost_frames", windows) == ([101.0], [171.0])


def test_a_full_cache_is_worth_knowing():
    found = said(evaluator("occupancy_high", capacity=100), [*stretch(0, 60), *stretch(60, 200, live=50)])
    assert [(state, level) for _, state, level, _ in found] == [("firing", "info"), ("resolved", "info")]


def test_more_blocks_than_there_is_room_for_are_no_full_cache_but_a_wrong_capacity():
    judge = evaluator("occupancy_high", "capacity_exceeded", capacity=100)
    alerts = [alert for each in stretch(0, 60, live=150) for alert in judge.close(each)]
    assert [(alert.rule, alert.level) for alert in alerts] == [("capacity_exceeded", "info")]
    assert "1.50 times as many blocks are live as the capacity given" in alerts[0].message


def test_an_engine_in_which_nothing_is_found_any_more_soon_after_its_start_is_found():
    windows = [*stretch(0, 60, 0.05, hit_ratio=0.4), *stretch(60, 1500, hit_ratio=0.0)]
    (begun,), over = fired("no_hits", windows)
    assert begun == pytest.approx(60 + 480, abs=2)
    assert not over


def test_a_rule_that_waits_says_since_when_it_has_been_bad():
    judge = evaluator("no_hits")
    windows = [*stretch(0, 60, 0.05, hit_ratio=0.4), *stretch(60, 1500, hit_ratio=0.0)]
    (alert,) = [alert for each in windows for alert in judge.close(each)]
    assert "no prefix has been found since 00:01:01" in alert.message


def test_where_no_hit_was_ever_reported_none_is_missed():
    assert fired("no_hits", stretch(0, 1500, hit_ratio=0.0)) == ([], [])


def test_few_requests_that_find_everything_or_nothing_are_judged_by_their_mean():
    rng = np.random.default_rng(3)

    def requests(start, end, share):
        return [
            window(i, lookups=20, hit_ratio=0.9 if rng.random() < share else 0.0, evicted=0)
            for i in range(start, end, 3)
        ]

    (begun,), _ = fired("hit_ratio_drop", [*requests(0, 1500, 0.25), *requests(1500, 2400, 0.01)])
    assert 1500 < begun <= 1500 + 420
    assert fired("hit_ratio_drop", requests(0, 3600, 0.25)) == ([], [])
