import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.metrics.anomalies import MIN_WINDOWS, lifetime_anomalies

STEADY = [10.0, 10.4, 9.7, 10.1, 9.9, 10.2, 9.8, 10.3, 9.6, 10.0]


def starts(lifetimes):
    return [60.0 * i for i in range(len(lifetimes))]


def test_a_window_far_from_the_others_is_an_anomaly_with_its_z_score():
    lifetimes = [*STEADY, 2.0]
    (anomaly,) = lifetime_anomalies(starts(lifetimes), lifetimes, 6.0)
    assert (anomaly.window_start, anomaly.median_lifetime_seconds) == (600.0, 2.0)
    # median 10.0; absolute deviations 0, 0, .1, .1, .2, .2, .3, .3, .4, .4, 8: their median is 0.2
    assert anomaly.z_score == pytest.approx((2.0 - 10.0) / (1.4826 * 0.2))


def test_the_threshold_is_the_settings():
    assert lifetime_anomalies(starts(STEADY), STEADY, 6.0) == []
    assert len(lifetime_anomalies(starts(STEADY), STEADY, 1.3)) == 2


def test_where_most_windows_agree_exactly_the_mean_deviation_judges():
    lifetimes = [5.0] * 99 + [6.0]
    (anomaly,) = lifetime_anomalies(starts(lifetimes), lifetimes, 6.0)
    assert anomaly.z_score == pytest.approx(1.0 / (1.2533 * 0.01))


@pytest.mark.parametrize("lifetimes", [[], [1.0] * (MIN_WINDOWS - 2) + [99.0], [7.0] * 50])
def test_too_few_windows_and_equal_ones_have_no_anomaly(lifetimes):
    assert lifetime_anomalies(starts(lifetimes), lifetimes, 1e-9) == []


@given(st.lists(st.floats(0, 1e6), min_size=MIN_WINDOWS, max_size=40), st.floats(0.1, 20))
def test_at_most_half_of_the_windows_are_anomalies_beyond_a_threshold_of_one(lifetimes, threshold):
    found = lifetime_anomalies(starts(lifetimes), lifetimes, threshold)
    assert all(abs(anomaly.z_score) > threshold for anomaly in found)
    if threshold >= 1.0:
        assert len(found) <= len(lifetimes) / 2
