"""Rules: what windowed values must look like for an alert to begin and to end."""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from kvstream.alerts.types import AlertLevel, MetricType
from kvstream.errors import ConfigError
from kvstream.metrics.anomaly import robust_z
from kvstream.metrics.trend import detect_trend
from kvstream.metrics.window import Window

Condition = Literal["above", "below", "drop", "surge", "anomaly_low", "falling"]


class Point(msgspec.Struct, frozen=True):
    """A metric's value in one window, and how many observations it rests on."""

    value: float
    weight: int


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to alert.

    A rule looks at the last ``window`` windows together; conditions with a baseline compare them with
    the median of the ``baseline`` windows before, which stands still while the alert is firing.

    Attributes:
        name: The rule's name.
        metric: The value looked at.
        condition: ``above`` or ``below`` the threshold; ``drop``: below the baseline by ``threshold``;
            ``surge``: ``threshold`` times the baseline; ``anomaly_low``: robust z-score below
            ``-threshold``; ``falling``: a significant fall by the share ``threshold`` over the
            baseline windows.
        threshold: See ``condition``.
        clear: Where the alert ends: the measure must come back to this, in the threshold's unit.
        level: Level of the alert.
        window: Windows looked at together.
        baseline: Windows before them that are compared with.
        for_windows: Windows in a row that must be bad before the alert fires.
        clear_windows: Windows in a row that must be good before it resolves.
        min_count: Observations without which nothing is concluded.
        enabled: Whether the rule is used at all.
        hint: What to try.
        message: Text with ``{value}``, ``{threshold}`` and ``{baseline}``.
    """

    name: str
    metric: MetricType
    condition: Condition
    threshold: float
    clear: float
    message: str
    level: AlertLevel = AlertLevel.WARNING
    window: int = 3
    baseline: int = 30
    for_windows: int = 1
    clear_windows: int = 3
    min_count: int = 1
    enabled: bool = True
    hint: str = ""

    def __post_init__(self) -> None:
        for name in ("window", "for_windows", "clear_windows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"rule {self.name}: {name} must be at least 1, not {getattr(self, name)}")
        if self.baseline < MIN_BASELINE:
            raise ConfigError(f"rule {self.name}: baseline must be at least {MIN_BASELINE} windows")
        if not (math.isfinite(self.threshold) and math.isfinite(self.clear)):
            raise ConfigError(f"rule {self.name}: threshold and clear must be finite numbers")
        wrong_side = self.clear < self.threshold if self.condition == "below" else self.clear > self.threshold
        if wrong_side:
            raise ConfigError(
                f"rule {self.name}: clear ({self.clear}) lies beyond the threshold ({self.threshold})"
            )
        try:
            self.message.format(value=0.0, threshold=0.0, baseline=0.0)
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(f"rule {self.name}: message cannot be filled in: {error!r}") from error


class Reading(msgspec.Struct, frozen=True):
    """What a rule reads off the windows.

    Attributes:
        value: The metric's value.
        limit: The value that it is held against, in the metric's unit.
        baseline: What it is compared with, NaN if with nothing.
        bad: Whether the condition holds.
        good: Whether it is over.
    """

    value: float
    limit: float
    baseline: float
    bad: bool
    good: bool


MIN_BASELINE = 8


def points_of(window: Window, window_seconds: float, capacity: int | None) -> dict[MetricType, Point]:
    """Every metric's value in one window."""
    seen = window.measurements
    evicted = seen.total_evictions
    points = {
        MetricType.LIFETIME: Point(seen.lifetime.quantile(0.5), seen.lifetime.count),
        MetricType.IDLE_TIME: Point(seen.idle.quantile(0.5), seen.idle.count),
        MetricType.REUSE_GAP: Point(seen.reuse_gap.quantile(0.5), seen.reuse_gap.count),
        MetricType.FIRST_REUSE: Point(seen.first_reuse.quantile(0.5), seen.first_reuse.count),
        MetricType.HIT_RATIO: Point(seen.hit_ratio, seen.accesses + seen.allocations),
        MetricType.EVICTION_RATE: Point(evicted / window_seconds, 1),
        MetricType.DEAD_RATIO: Point(seen.dead_ratio, seen.lifetime.count),
        MetricType.REGRET_RATIO: Point(seen.regret_ratio, evicted),
        MetricType.LOST: Point(float(window.lost), 1),
    }
    if capacity:
        points[MetricType.OCCUPANCY] = Point(window.live / capacity, 1)
    return points


def read(rule: Rule, points: Sequence[Point], frozen: Sequence[float] | None = None) -> Reading | None:
    """Reads a rule off a metric's points, oldest first.

    Args:
        rule: The rule.
        points: One point a window.
        frozen: Baseline values to compare with instead of those before the window looked at.

    Returns:
        None if there is too little to conclude from.
    """
    latest = points[-rule.window :]
    weight = sum(p.weight for p in latest)
    if weight < max(1, rule.min_count):
        return None
    value = sum(p.value * p.weight for p in latest) / weight
    if rule.condition in ("above", "below"):
        bad = value >= rule.threshold if rule.condition == "above" else value <= rule.threshold
        good = value <= rule.clear if rule.condition == "above" else value >= rule.clear
        return Reading(value, rule.threshold, math.nan, bad, good)
    if rule.condition == "falling":
        return _read_trend(rule, points, value)
    before = baseline_of(rule, points) if frozen is None else frozen
    if rule.condition == "surge":
        # A cold cache evicts nothing yet: what comes after is the start, not a surge.
        before = [v for v in before if v > 0]
    if len(before) < MIN_BASELINE:
        return None
    median = float(np.median(before))
    if rule.condition == "drop":
        measure, limit = median - value, median - rule.threshold
    elif rule.condition == "surge":
        measure, limit = (value / median if median else 0.0), rule.threshold * median
    else:
        measure, limit = -robust_z(value, before), median
    return Reading(value, limit, median, measure >= rule.threshold, measure <= rule.clear)


def baseline_of(rule: Rule, points: Sequence[Point]) -> list[float]:
    """Values of the windows before those looked at, without windows that hardly hold anything."""
    before = points[-rule.window - rule.baseline : -rule.window]
    # A share of min_count, since that is asked of all the windows looked at together.
    least = max(1, rule.min_count // rule.window)
    return [p.value for p in before if p.weight >= least]


def _read_trend(rule: Rule, points: Sequence[Point], value: float) -> Reading | None:
    series = [
        (i, p.value) for i, p in enumerate(points[-rule.baseline :]) if p.weight >= max(1, rule.min_count)
    ]
    if len(series) < rule.baseline // 2:
        return None
    trend = detect_trend([float(i) for i, _ in series], [v for _, v in series])
    fall = -trend.relative_change if trend.direction == "falling" else 0.0
    first = float(np.median([v for _, v in series[:MIN_BASELINE]]))
    limit = first * (1.0 - rule.threshold)
    return Reading(value, limit, first, fall >= rule.threshold, fall <= rule.clear)
