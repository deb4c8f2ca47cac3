import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kvstream.metrics.trend import detect_trend, mann_kendall, theil_sen

SERIES = st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 1)), min_size=8, max_size=40)


@given(SERIES)
def test_slope_equals_scipys(values):
    x = np.arange(len(values), dtype=float)
    assert theil_sen(x, np.array(values)) == pytest.approx(stats.theilslopes(values, x).slope, abs=1e-9)


@given(SERIES)
def test_mann_kendall_equals_a_plain_count_and_scipys_tau(values):
    s, p = mann_kendall(np.array(values))
    assert s == sum((b > a) - (b < a) for a, b in itertools.combinations(values, 2))
    found = stats.kendalltau(np.arange(len(values)), values, method="asymptotic")
    if np.isnan(found.statistic):
        assert (s, p) == (0, 1.0)
    else:
        assert np.sign(s) == np.sign(round(found.statistic, 12))
        # Ours has the continuity correction that scipy's lacks: a little larger, never smaller.
        assert found.pvalue - 1e-9 <= p <= 1.0


def test_falling_series_is_falling_with_its_slope():
    rng = np.random.default_rng(1)
    values = 10 - 0.1 * np.arange(50) + rng.normal(0, 0.2, 50)
    trend = detect_trend(list(range(50)), values.tolist())
    assert trend.direction == "falling"
    assert trend.slope == pytest.approx(-0.1, abs=0.02)
    assert trend.relative_change == pytest.approx(-4.9 / 7.5, abs=0.1)


def test_noise_is_flat_nearly_always():
    rng = np.random.default_rng(2)
    found = [detect_trend(list(range(60)), rng.normal(5, 1, 60).tolist()).direction for _ in range(500)]
    assert found.count("flat") >= 485  # at a p-value of 1 %


def test_too_few_points_and_constant_values_are_flat():
    assert detect_trend([0, 1, 2], [1, 2, 3]).direction == "flat"
    assert detect_trend(list(range(20)), [3.0] * 20).direction == "flat"


def test_a_step_is_a_shift():
    rng = np.random.default_rng(3)
    values = [*rng.normal(10, 0.5, 40), *rng.normal(5, 0.5, 12)]
    assert detect_trend(list(range(52)), values).shift == "down"
    assert detect_trend(list(range(40)), values[:40]).shift is None


def test_a_long_series_has_the_trend_of_its_means_at_a_bounded_cost():
    values = [100.0 - 0.02 * i + (i % 7) for i in range(1003)]
    trend = detect_trend([float(i) for i in range(1003)], values)
    assert (trend.direction, trend.points) == ("falling", 1003)
    assert trend.slope == pytest.approx(-0.02, rel=0.05)
