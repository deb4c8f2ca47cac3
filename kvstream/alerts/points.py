"""Points: every metric's value in one window, and how much it rests on."""

import msgspec

from kvstream.alerts.types import MetricType
from kvstream.metrics.window import Window


class Point(msgspec.Struct, frozen=True):
    """A metric's value in one window, and how many observations it rests on."""

    value: float
    weight: int


def points_of(window: Window, window_seconds: float, capacity: int | None) -> dict[MetricType, Point]:
    """Every metric's value in one window."""
    seen = window.measurements
    evicted, events, lookups = seen.total_evictions, seen.processed, seen.lookups
    points = {
        MetricType.LIFETIME: Point(seen.lifetime.quantile(0.5), seen.lifetime.count),
        MetricType.IDLE_TIME: Point(seen.idle.quantile(0.5), seen.idle.count),
        MetricType.REUSE_GAP: Point(seen.reuse_gap.quantile(0.5), seen.reuse_gap.count),
        MetricType.FIRST_REUSE: Point(seen.first_reuse.quantile(0.5), seen.first_reuse.count),
        MetricType.HIT_RATIO: Point(seen.hit_ratio, lookups),
        MetricType.EVICTION_RATE: Point(evicted / window_seconds, 1),
        MetricType.NEVER_REUSED_RATIO: Point(seen.never_reused_ratio, seen.lifetime.count),
        MetricType.NEVER_REUSED_PER_LOOKUP: Point(
            seen.never_reused_ratio * evicted / max(1, lookups), lookups
        ),
        MetricType.PREMATURE_RATIO: Point(seen.premature_ratio, evicted),
        MetricType.EVENT_RATE: Point(events / window_seconds, 1),
        MetricType.LOST: Point(float(window.lost), 1),
        MetricType.RESTARTS: Point(float(window.restarts), 1),
        MetricType.CLOCK_ERRORS: Point(
            float(window.clock_step) or seen.time_regressions / max(1, events), max(1, events)
        ),
    }
    if capacity:
        points[MetricType.OCCUPANCY] = Point(window.live / capacity, 1)
    return points
