import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kvstream.metrics.anomaly import PageHinkley, robust_z


@given(st.lists(st.floats(0.1, 1e3), min_size=5, max_size=50), st.floats(0, 1e4))
def test_robust_z_equals_scipys_where_the_baseline_moves(baseline, value):
    mad = stats.median_abs_deviation(baseline, scale="normal")
    median = float(np.median(baseline))
    expected = (value - median) / max(mad, 0.05 * median)
    assert robust_z(value, baseline) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_steady_baseline_does_not_make_small_steps_anomalous():
    assert abs(robust_z(1.04, [1.0] * 30)) < 1
    assert robust_z(0.0, [0.0] * 30) == 0.0
    assert robust_z(1.0, []) == 0.0


def test_page_hinkley_finds_a_shift_once_and_soon():
    rng = np.random.default_rng(0)
    series = [*rng.normal(0, 1, 300), *rng.normal(4, 1, 100)]
    detector = PageHinkley(delta=0.5, threshold=10.0)
    found = [(i, kind) for i, x in enumerate(series) if (kind := detector.update(x))]
    assert [kind for _, kind in found] == ["up"]
    assert 300 <= found[0][0] <= 306
