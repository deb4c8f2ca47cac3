"""The test of a difference: rarely wrong where nothing changed, sure where much did."""

import numpy as np
import pytest

from kvstream.metrics.change import MIN_BINS, autocorrelation_time, holm, ratio_change


def lookups(random, n, hit_ratio, correlation, burst=0.0):
    """Hits and lookups of intervals; the hit ratio wanders as an AR(1) process around its mean."""
    noise = random.normal(0, 0.05, n)
    for at in range(1, n):
        noise[at] = correlation * noise[at - 1] + np.sqrt(1 - correlation**2) * noise[at]
    asked = random.poisson(40, n) * (random.random(n) >= burst)
    hits = random.binomial(asked, np.clip(hit_ratio + noise, 0, 1))
    return hits.astype(float), asked.astype(float)


@pytest.mark.parametrize(
    ("correlation", "burst"), [(0.0, 0.0), (0.7, 0.0), (0.9, 0.0), (0.95, 0.0), (0.5, 0.6)]
)
def test_where_nothing_changed_a_difference_is_rarely_found(correlation, burst):
    random = np.random.default_rng(1)
    p_values = []
    for _ in range(400):
        spans = [lookups(random, 400, 0.6, correlation, burst) for _ in range(2)]
        p_values.append(ratio_change(*spans).p_value)
    known = [p for p in p_values if p is not None]
    assert len(known) > 200
    assert sum(p < 0.01 for p in known) <= 0.025 * len(known)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_a_change_of_ten_points_is_found_with_its_size(correlation):
    random = np.random.default_rng(2)
    found = 0
    for _ in range(20):
        change = ratio_change(lookups(random, 400, 0.6, correlation), lookups(random, 300, 0.5, correlation))
        found += change.p_value < 0.001 and change.low < -0.1 < change.high
    assert found >= 16


def test_the_standard_error_of_independent_intervals_is_the_textbook_one():
    random = np.random.default_rng(3)
    before, after = ((random.normal(5, 1, 500), np.ones(500)) for _ in range(2))
    change = ratio_change(before, after)
    textbook = 2 * 1.96 * np.sqrt(before[0].var(ddof=1) / 500 + after[0].var(ddof=1) / 500)
    assert change.high - change.low == pytest.approx(textbook, rel=0.25)
    assert change.after - change.before == pytest.approx(after[0].mean() - before[0].mean())


def test_too_little_evidence_is_not_judged():
    few = (np.ones(MIN_BINS - 1), np.full(MIN_BINS - 1, 2.0))
    many = (np.ones(400), np.full(400, 2.0))
    change = ratio_change(few, many)
    assert (change.before, change.after, change.p_value) == (0.5, 0.5, None)
    nothing = (np.zeros(400), np.zeros(400))
    assert ratio_change(many, nothing).after is None
    wandering = (np.cumsum(np.random.default_rng(4).normal(0, 1, 60)), np.ones(60))
    assert ratio_change(wandering, wandering).p_value is None


def test_what_never_varies_is_certain():
    half, third = ((np.ones(100), np.full(100, float(n))) for n in (2, 3))
    assert ratio_change(half, half).p_value == 1.0
    assert ratio_change(half, third).p_value == 0.0


def test_the_autocorrelation_time_is_that_of_the_process_or_somewhat_longer():
    random = np.random.default_rng(6)
    for rho in (0.0, 0.5, 0.8):
        noise, values = random.normal(0, 1, 20_000), np.zeros(20_000)
        for at in range(1, 20_000):
            values[at] = rho * values[at - 1] + noise[at]
        assert 0.9 < autocorrelation_time(values) / ((1 + rho) / (1 - rho)) < 1.3


def test_p_values_are_adjusted_in_their_order():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
