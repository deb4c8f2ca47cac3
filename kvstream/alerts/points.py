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


class ClosedWindow(msgspec.Struct, frozen=True, eq=False):
    """A window that has closed, and what else its points need.

    Attributes:
        window: The window.
        seconds: Its length.
        hits_known: Whether a hit was ever reported: before, the ratio is not 0 but unknown.
        capacity: Blocks that the cache has room for, if known.
        lifetime_lookups: Median lifetime in blocks asked for meanwhile.
    """

    window: Window
    seconds: float
    hits_known: bool
    capacity: int | None = None
    lifetime_lookups: float = 0.0


Reader = Callable[[ClosedWindow], Point | None]
"""Reads a metric's point off a window; None where windows do not hold it."""


def _median(histogram: ExponentialHistogram) -> Point:
    return Point(histogram.quantile(0.5), histogram.count)


def _ratio(ratio: float | None, weight: int) -> Point:
    """Return a point of a ratio, which is None where its weight is 0."""
    return Point(ratio or 0.0, weight)


def _hit_ratio(closed: ClosedWindow) -> Point:
    seen = closed.window.measurements
    lookups = seen.lookups if closed.hits_known else 0
    return Point(seen.accesses / lookups if lookups else 0.0, lookups)


def _lifetime_lookups(closed: ClosedWindow) -> Point:
    return Point(closed.lifetime_lookups, closed.window.measurements.lifetime.count)


def _never_reused(closed: ClosedWindow) -> Point:
    seen = closed.window.measurements
    return _ratio(seen.never_reused_ratio, seen.lifetime.count)


def _never_reused_per_lookup(closed: ClosedWindow) -> Point:
    seen = closed.window.measurements
    lookups = seen.lookups
    return Point((seen.never_reused_ratio or 0.0) * seen.total_evictions / max(1, lookups), lookups)


def _premature_ratio(closed: ClosedWindow) -> Point:
    seen = closed.window.measurements
    return _ratio(seen.premature_ratio, seen.total_evictions)


def _clock_errors(closed: ClosedWindow) -> Point:
    window, seen = closed.window, closed.window.measurements
    if not (window.clock_step or seen.time_regressions):
        return Point(0.0, 1)
    events = max(1, seen.processed)
    return Point(float(window.clock_step) or seen.time_regressions / events, events)


def _occupancy(closed: ClosedWindow) -> Point | None:
    return Point(closed.window.live / closed.capacity, 1) if closed.capacity else None


_READERS: dict[MetricType, Reader] = {
    MetricType.LIFETIME: lambda closed: _median(closed.window.measurements.lifetime),
    MetricType.LIFETIME_LOOKUPS: _lifetime_lookups,
    MetricType.IDLE_TIME: lambda closed: _median(closed.window.measurements.idle),
    MetricType.REUSE_GAP: lambda closed: _median(closed.window.measurements.reuse_gap),
    MetricType.FIRST_REUSE: lambda closed: _median(closed.window.measurements.first_reuse),
    MetricType.HIT_RATIO: _hit_ratio,
    MetricType.EVICTION_RATE: lambda c: Point(c.window.measurements.total_evictions / c.seconds, 1),
    MetricType.NEVER_REUSED_RATIO: _never_reused,
    MetricType.NEVER_REUSED_PER_LOOKUP: _never_reused_per_lookup,
    MetricType.PREMATURE_RATIO: _premature_ratio,
    MetricType.EVENT_RATE: lambda closed: Point(closed.window.measurements.processed / closed.seconds, 1),
    MetricType.LOST: lambda closed: Point(float(closed.window.lost), 1),
    MetricType.RESTARTS: lambda closed: Point(float(closed.window.restarts), 1),
    MetricType.CLOCK_ERRORS: _clock_errors,
    MetricType.OCCUPANCY: _occupancy,
}


def reader_of(metric: MetricType) -> Reader:
    """Return what reads a metric's point off a window."""
    return _READERS.get(metric, lambda closed: None)
