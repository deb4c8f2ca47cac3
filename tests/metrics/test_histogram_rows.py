import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.metrics.histogram import ExponentialHistogram
from kvstream.metrics.histogram_rows import HistogramRows

pytestmark = pytest.mark.usefixtures("loops")

INTERVALS = st.integers(0, 100) | st.integers(0, 2**40) | st.integers(2**52, 2**54)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 4), INTERVALS), max_size=40), max_size=4),
    st.integers(0, 8),
)
def test_each_row_is_the_histogram_of_its_own_intervals(parts, scale):
    rows, plain = HistogramRows(scale), [ExponentialHistogram(scale) for _ in range(5)]
    for part in parts:
        rows.record(np.array([r for r, _ in part], np.int64), np.array([v for _, v in part], np.int64), 5)
        for row, histogram in enumerate(plain):
            histogram.record(np.array([v for r, v in part if r == row], np.int64))
    for row, histogram in enumerate(plain):
        found = rows.histogram(row)
        assert found.buckets() == histogram.buckets()
        assert (found.count, found.zero_count) == (histogram.count, histogram.zero_count)
        assert (found.min_ns, found.max_ns) == (histogram.min_ns, histogram.max_ns)
        assert abs(found.sum_ns - histogram.sum_ns) <= 1e-12 * histogram.sum_ns
        assert found.quantile(0.5) == histogram.quantile(0.5)


def test_values_at_the_bounds_of_buckets_are_counted_as_they_must_be():
    from kvstream.metrics.histogram import upper_bounds

    for scale in (0, 4, 8):
        bounds = upper_bounds(scale)[1]
        values = np.unique(np.concatenate([bounds - 1, bounds, bounds + 1]))
        values = values[(values > 0) & (values < 2**53)]
        rows, plain = HistogramRows(scale), ExponentialHistogram(scale)
        rows.record(np.zeros(len(values), np.int64), values, 1)
        plain.record(values)
        assert rows.histogram(0).buckets() == plain.buckets()
