import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.metrics.trend import autocorrelation, detect_trend, fit_line
from kvstream.sources.synthetic import generate
from tests.interpreted import needs_compiled

SERIES = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 1)), min_size=8, max_size=40)


def wandering(rng, rho, points):
    """A stationary AR(1) series."""
    values = [rng.normal() / np.sqrt(1 - rho * rho)]
    while len(values) < points:
        values.append(rho * values[-1] + rng.normal())
    return values


def share_with_direction(series):
    found = [detect_trend(list(range(len(values))), values).direction for values in series]
    return sum(direction != "flat" for direction in found) / len(found)


@given(SERIES, st.floats(0.0, 0.95))
def test_the_slope_is_that_of_the_textbooks_generalised_least_squares(values, rho):
    """The formula with the whole covariance matrix, inverted."""
    n = len(values)
    x, y = np.arange(n) - (n - 1) / 2, np.array(values)
    inverse = np.linalg.inv(rho ** np.abs(np.subtract.outer(np.arange(n), np.arange(n))))
    design = np.stack([np.ones(n), x], axis=1)
    covariance = np.linalg.inv(design.T @ inverse @ design)
    beta = covariance @ design.T @ inverse @ y
    errors = y - design @ beta
    error = np.sqrt(errors @ inverse @ errors / (n - 2) * covariance[1, 1])
    # The first value's whitened error has the others' variance, 1 - rho², so that the scale cancels out.
    assert fit_line(x, y, rho) == (pytest.approx(beta[1], abs=1e-6), pytest.approx(error, abs=1e-6))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_the_autocorrelation_is_found_or_taken_for_more(rho):
    rng = np.random.default_rng(4)
    x = np.arange(200) - 99.5
    found = [autocorrelation(x, np.array(wandering(rng, rho, 200))) for _ in range(200)]
    assert rho < np.mean(found) < rho + 0.1


def test_falling_series_is_falling_with_its_slope():
    rng = np.random.default_rng(1)
    values = 10 - 0.1 * np.arange(50) + rng.normal(0, 0.2, 50)
    trend = detect_trend(list(range(50)), values.tolist())
    assert trend.direction == "falling"
    assert trend.slope == pytest.approx(-0.1, abs=0.02)
    assert trend.relative_change == pytest.approx(-4.9 / 7.5, abs=0.1)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("points", [20, 60])
def test_a_series_that_only_wanders_hardly_ever_has_a_direction(rho, points):
    rng = np.random.default_rng(2)
    assert share_with_direction([wandering(rng, rho, points) for _ in range(400)]) <= 0.02


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_of_sixty_points_that_wander_one_series_in_sixty_has_a_direction_at_most(rho):
    rng = np.random.default_rng(7)
    assert share_with_direction([wandering(rng, rho, 60) for _ in range(1200)]) <= 1 / 60


def test_a_rise_of_a_fifth_in_noise_of_a_tenth_is_found():
    rng = np.random.default_rng(3)
    rise = np.linspace(100, 120, 60)
    rising = [(rise + rng.normal(0, 10, 60)).tolist() for _ in range(800)]
    found = [detect_trend([10.0 * i for i in range(60)], values).direction for values in rising]
    assert found.count("rising") >= 720
    assert found.count("falling") == 0


@needs_compiled
def test_a_steady_engine_has_hardly_any_trends():
    """Ten engines, over the last minute of two and a half; each has its cache full from the first one on."""
    directions = []
    for seed in range(10):
        monitor = Monitor(MetricsConfig(capacity=512))
        for frame in generate("chat", 60_000, blocks=512, rate=400.0, seed=seed):
            monitor.process(frame)
        (tier,) = monitor.caches()
        assert {trend.points for trend in tier.trends().values()} == {60}
        directions += [trend.direction for trend in tier.trends().values()]
    assert len(directions) == 50
    assert sum(direction != "flat" for direction in directions) <= 2


def test_what_wanders_slowly_has_no_direction_where_the_past_shows_how_it_wanders():
    """A walk with a memory of ten windows, under noise that hides it from whoever looks at neighbours."""
    rng = np.random.default_rng(5)
    walks = [np.array(wandering(rng, 0.9, 300)) * 0.3 + rng.normal(0, 1, 300) for _ in range(400)]
    seconds = list(range(60))
    alone = [detect_trend(seconds, walk[-60:].tolist()).direction for walk in walks]
    known = [
        detect_trend(seconds, walk[-60:].tolist(), before=walk[:-60].tolist()).direction for walk in walks
    ]
    assert len(known) - known.count("flat") <= 0.7 * (len(alone) - alone.count("flat"))


@pytest.mark.parametrize("rose_before", [False, True])
def test_a_rise_is_found_beside_a_past_that_was_steady_or_rose_as_well(rose_before):
    rng = np.random.default_rng(6)
    line = 100 + np.arange(-240, 60) / 59 * 20
    series = [(line if rose_before else np.maximum(line, 100)) + rng.normal(0, 10, 300) for _ in range(800)]
    found = [
        detect_trend(list(range(60)), each[-60:].tolist(), before=each[:-60].tolist()).direction
        for each in series
    ]
    assert found.count("rising") >= 0.88 * len(found)


def test_too_few_points_and_constant_values_are_flat():
    assert detect_trend([0, 1, 2], [1, 2, 3]).direction == "flat"
    assert detect_trend(list(range(20)), [3.0] * 20).direction == "flat"
    assert detect_trend([5.0] * 20, [float(i % 3) for i in range(20)]).direction == "flat"


def test_a_line_without_noise_has_its_direction():
    trend = detect_trend([float(i) for i in range(30)], [100.0 - 2.0 * i for i in range(30)])
    assert (trend.direction, trend.slope) == ("falling", pytest.approx(-2.0))
