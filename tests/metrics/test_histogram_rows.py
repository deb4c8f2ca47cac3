import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvstream.metrics.buckets import buckets
from kvstream.metrics.histogram import ClassicHistogram, ExponentialHistogram
from kvstream.metrics.histogram_rows import HistogramRows
from tests.reference import at_most_bounds, interval_fields

INTERVALS = st.integers(0, 100) | st.integers(0, 2**40) | st.integers(2**52, 2**54)


def fields(histogram):
    counts = histogram.buckets()
    return counts, histogram.count, histogram.zero_count, histogram.sum_ns, histogram.min_ns, histogram.max_ns


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 4), INTERVALS), max_size=40), max_size=4),
    st.integers(0, 8),
)
def test_each_row_is_the_histogram_of_its_own_intervals(parts, scale):
    rows = HistogramRows(scale)
    for part in parts:
        values = [v for _, v in part]
        if values:
            counted = rows.record(np.array([r for r, _ in part], np.uint16), np.array(values, np.int64))
            assert fields(counted.exponential()) == interval_fields(values, scale)
            assert counted.classic().cumsum().tolist() == at_most_bounds(values)
    for row in range(5):
        values = [v for part in parts for r, v in part if r == row]
        assert fields(rows.histogram(row)) == interval_fields(values, scale)


def test_values_at_the_bounds_of_buckets_are_counted_as_they_must_be():
    for scale in (0, 4, 8):
        bounds = buckets(scale).bounds
        values = np.unique(np.concatenate([bounds[1:] - 1, bounds, bounds[:-1] + 1]))
        values = values[values < 2**53]
        counted = HistogramRows(scale).record(np.zeros(len(values), np.uint16), values)
        made, classic = ExponentialHistogram(scale), ClassicHistogram()
        buckets(scale).core.count(values, made, classic.counts)
        expected = interval_fields(values.tolist(), scale)
        assert fields(counted.exponential()) == fields(made) == expected
        cumulative = at_most_bounds(values.tolist())
        assert counted.classic().cumsum().tolist() == classic.cumulative() == cumulative


def test_sums_are_exact_where_they_take_more_than_64_bits():
    values = np.array([2**63 - 1, 5, 2**63 - 2, 0, 2**63 - 1])
    counted = HistogramRows(4).record(np.array([0, 1, 0, 1, 1], np.uint16), values)
    made = ExponentialHistogram()
    made.record(values)
    assert counted.sum_ns == made.sum_ns == sum(values.tolist())
    assert (made.count, made.zero_count, made.min_ns, made.max_ns) == (5, 1, 0, 2**63 - 1)
