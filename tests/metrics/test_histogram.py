import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.metrics.buckets import buckets
from kvstream.metrics.histogram import ClassicHistogram, ExponentialHistogram
from tests.reference import at_most_bounds

VALUES = st.lists(st.integers(0, 10**12) | st.integers(0, 2**62), max_size=60)


def filled(values, scale=4):
    histogram = ExponentialHistogram(scale)
    histogram.record(np.array(values, np.int64))
    return histogram


def plain_bucket(ns, scale):
    """The bucket i with base**i < seconds <= base**(i+1), searched for with exact powers."""
    seconds = ns * 1e-9
    i = math.floor(math.log2(seconds) * 2**scale) - 2
    while 2.0 ** ((i + 1) / 2**scale) < seconds:
        i += 1
    return i


@given(VALUES, st.integers(0, 6))
def test_every_value_is_in_the_bucket_that_opentelemetry_names(values, scale):
    histogram = filled(values, scale)
    expected = {}
    for v in values:
        if v:
            i = plain_bucket(v, scale)
            expected[i] = expected.get(i, 0) + 1
    found = {histogram.offset + i: n for i, n in enumerate(histogram.counts.tolist()) if n}
    # On a boundary the last bit of log2 may decide; such values may stand in the next bucket.
    if found != expected:
        assert sum(found.values()) == sum(expected.values())
        cumulative = lambda d: [sum(n for j, n in d.items() if j <= k) for k in sorted({*d, *expected})]  # noqa: E731
        assert sum(abs(a - b) for a, b in zip(cumulative(found), cumulative(expected), strict=False)) <= 2
    assert histogram.zero_count == values.count(0)


@pytest.mark.parametrize("exponent", range(-20, 21))
def test_powers_of_two_lie_at_the_upper_end_of_their_bucket(exponent):
    histogram = ExponentialHistogram(0)
    histogram.record(np.array([max(1, round(2.0**exponent * 1e9))]))
    bound = 2.0 ** (histogram.offset + 1)
    assert bound >= histogram.max_ns / 1e9 * (1 - 1e-9)
    assert bound / 2 < histogram.max_ns / 1e9


@given(VALUES, VALUES)
def test_merging_is_recording_both(a, b):
    merged = filled(a)
    merged.merge(filled(b))
    both = filled(a + b)
    assert merged.buckets() == both.buckets()
    assert (merged.count, merged.sum_ns, merged.max_ns, merged.zero_count) == (
        len(a + b),
        sum(a + b),
        max([0, *a, *b]),
        (a + b).count(0),
    )
    assert merged.min_ns == both.min_ns == min(a + b, default=0)


@given(st.lists(st.integers(1, 10**13), min_size=1, max_size=80), st.floats(0.01, 0.99))
def test_quantiles_are_within_a_bucket_of_the_exact_ones(values, q):
    histogram = filled(values)
    exact = sorted(values)[max(0, math.ceil(q * len(values)) - 1)] / 1e9
    width = 2 ** (1 / 16)
    assert exact / width * 0.999999 <= histogram.quantile(q) <= exact * width * 1.000001


def test_quantile_error_of_smooth_data_is_small():
    values = np.random.default_rng(5).lognormal(18, 1.0, 200_000).astype(np.int64)
    histogram = ExponentialHistogram()
    histogram.record(values)
    for q in (0.05, 0.5, 0.95, 0.99):
        assert histogram.quantile(q) == pytest.approx(np.quantile(values, q) / 1e9, rel=0.022)


@given(st.lists(st.integers(0, 2 * 10**12), max_size=50))
def test_classic_buckets_count_exactly(values):
    classic = ClassicHistogram()
    buckets(4).core.count(np.array(values, np.int64), ExponentialHistogram(4), classic.counts)
    assert classic.cumulative() == at_most_bounds(values)


def test_sums_beyond_64_bits_are_exact():
    histogram = filled([2**62, 2**62, 2**62])
    assert histogram.sum_ns == 3 * 2**62


def test_empty_histogram_has_zero_statistics():
    assert ExponentialHistogram().stats().count == 0
    assert ExponentialHistogram().quantile(0.5) == 0.0
