"""Points: every metric's value in one window, and how much it rests on."""

from collections.abc import Callable

import msgspec

from kvstream.alerts.types import MetricType
from kvstream.metrics.histogram import ExponentialHistogram
from kvstream.metrics.window import Window


class Point(msgspec.Struct, frozen=True):
    """A metric's value in one window, and how many observations it rests on."""

    value: float
    weight: int


_Reader = Callable[[Window, float, int | None], Point | None]
"""Reads a point off a window, given its length in seconds and the cache's capacity or None."""


def _median(histogram: ExponentialHistogram) -> Point:
    return Point(histogram.quantile(0.5), histogram.count)


def _ratio(ratio: float | None, weight: int) -> Point:
    """Return a point of a ratio, which is None where its weight is 0."""
    return Point(ratio or 0.0, weight)


def _never_reused_per_lookup(window: Window, seconds: float, capacity: int | None) -> Point:
    seen = window.measurements
    lookups = seen.lookups
    return Point((seen.never_reused_ratio or 0.0) * seen.total_evictions / max(1, lookups), lookups)


def _clock_errors(window: Window, seconds: float, capacity: int | None) -> Point:
    seen = window.measurements
    if not (window.clock_step or seen.time_regressions):
        return Point(0.0, 1)
    events = max(1, seen.processed)
    return Point(float(window.clock_step) or seen.time_regressions / events, events)


_READERS: dict[MetricType, _Reader] = {
    MetricType.LIFETIME: lambda window, *_: _median(window.measurements.lifetime),
    MetricType.IDLE_TIME: lambda window, *_: _median(window.measurements.idle),
    MetricType.REUSE_GAP: lambda window, *_: _median(window.measurements.reuse_gap),
    MetricType.FIRST_REUSE: lambda window, *_: _median(window.measurements.first_reuse),
    MetricType.HIT_RATIO: lambda w, *_: _ratio(w.measurements.hit_ratio, w.measurements.lookups),
    MetricType.EVICTION_RATE: lambda w, seconds, _: Point(w.measurements.total_evictions / seconds, 1),
    MetricType.NEVER_REUSED_RATIO: lambda w, *_: _ratio(
        w.measurements.never_reused_ratio, w.measurements.lifetime.count
    ),
    MetricType.NEVER_REUSED_PER_LOOKUP: _never_reused_per_lookup,
    MetricType.PREMATURE_RATIO: lambda w, *_: _ratio(
        w.measurements.premature_ratio, w.measurements.total_evictions
    ),
    MetricType.EVENT_RATE: lambda w, seconds, _: Point(w.measurements.processed / seconds, 1),
    MetricType.LOST: lambda window, *_: Point(float(window.lost), 1),
    MetricType.RESTARTS: lambda window, *_: Point(float(window.restarts), 1),
    MetricType.CLOCK_ERRORS: _clock_errors,
    MetricType.OCCUPANCY: lambda w, _, capacity: Point(w.live / capacity, 1) if capacity else None,
}


def point_of(
    metric: MetricType, window: Window, window_seconds: float, capacity: int | None = None
) -> Point | None:
    """Return a metric's value in one window; None where windows do not hold it.

    Args:
        metric: The metric.
        window: The window.
        window_seconds: Its length.
        capacity: Blocks that the cache has room for, if known.
    """
    reader = _READERS.get(metric)
    return None if reader is None else reader(window, window_seconds, capacity)


class Points:
    """Every metric's value in one window, read when it is asked for.

    Args:
        window: The window.
        window_seconds: Its length.
        capacity: Blocks that the cache has room for, if known.
        given: Points that the window does not hold, or that are known better.
    """

    def __init__(
        self,
        window: Window,
        window_seconds: float,
        capacity: int | None,
        given: dict[MetricType, Point],
    ) -> None:
        self._window, self._window_seconds, self._capacity = window, window_seconds, capacity
        self._given = given

    def get(self, metric: MetricType) -> Point | None:
        """Return a metric's point; None where the window has none."""
        return self._given.get(metric) or point_of(metric, self._window, self._window_seconds, self._capacity)
