"""Rules: what windowed values must look like for an alert to begin, to grow worse and to end."""

import math
from collections.abc import Sequence
from statistics import median, stdev
from typing import Literal

import msgspec

from kvstream.alerts.types import AlertLevel, MetricType
from kvstream.errors import ConfigError
from kvstream.metrics.anomaly import robust_z
from kvstream.metrics.trend import MOST_POINTS, significant_change
from kvstream.metrics.window import Window

Condition = Literal["above", "below", "drop", "surge", "anomaly_low", "falling", "absent"]

MIN_BASELINE = 8
MOST_WINDOWS = 1000
"""Windows that a rule may look at, or compare with, as it reads them all."""
_MOST = 10**15  # of any other number, so that sums and products of them are exact enough, and finite
_STEADY = 0.95  # share of the baseline windows that must hold something for its absence to mean anything


class Point(msgspec.Struct, frozen=True):
    """A metric's value in one window, and how many observations it rests on."""

    value: float
    weight: int


class Escalation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a firing alert rises to a higher level.

    Attributes:
        level: The level it rises to.
        threshold: It rises where the measure reaches this, in the unit of the rule's threshold.
        after_windows: It rises after so many windows, since it fired, that were not good.
    """

    level: AlertLevel = AlertLevel.CRITICAL
    threshold: float | None = None
    after_windows: int | None = None


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
            baseline windows; ``absent``: 0 in the share ``threshold`` of the windows, after a baseline
            that was hardly ever 0.
        threshold: See ``condition``.
        clear: Where the alert ends: the measure must come back to this, in the threshold's unit.
        level: Level of the alert.
        window: Windows looked at together.
        baseline: Windows before them that are compared with.
        for_windows: Windows in a row that must be bad before the alert fires.
        clear_windows: Windows in a row that must be good before it resolves.
        cooldown_windows: Windows after an episode in which no new one fires.
        min_count: Observations without which nothing is concluded.
        sigmas: Standard errors that a drop or surge must also amount to, as the baseline varies, so that
            chance is not taken for trouble where little happens, or much at a time.
        least: A surge to less than this is none, however little there was before.
        escalate: When the level rises.
        inhibits: Rules of the same source and tier that say nothing while this one fires, as what they
            rest on is wrong.
        labels: Told with the alert, to route it by.
        enabled: Whether the rule is used at all.
        hint: What to try.
        message: Text with ``{value}``, ``{threshold}``, ``{baseline}`` and ``{since}``, a time of day.
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
    cooldown_windows: int = 0
    min_count: int = 1
    sigmas: float = 0.0
    least: float = 0.0
    escalate: Escalation | None = None
    inhibits: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    enabled: bool = True
    hint: str = ""

    def __post_init__(self) -> None:
        rises = self.escalate
        severe, after = (None, None) if rises is None else (rises.threshold, rises.after_windows)
        self._require_whole("window", self.window, 1, MOST_WINDOWS)
        most = MOST_POINTS if self.condition == "falling" else MOST_WINDOWS
        self._require_whole("baseline", self.baseline, MIN_BASELINE, most)
        self._require_whole("for_windows", self.for_windows, 1, _MOST)
        self._require_whole("clear_windows", self.clear_windows, 1, _MOST)
        self._require_whole("cooldown_windows", self.cooldown_windows, 0, _MOST)
        self._require_whole("min_count", self.min_count, 0, _MOST)
        self._require_within("threshold", self.threshold, -_MOST, _MOST)
        self._require_within("clear", self.clear, -_MOST, _MOST)
        self._require_within("sigmas", self.sigmas, 0, _MOST)
        self._require_within("least", self.least, 0, _MOST)
        self._require_within("escalate.threshold", severe, -_MOST, _MOST)
        self._require_whole("escalate.after_windows", after, 0, _MOST)
        wrong_side = self.clear < self.threshold if self.condition == "below" else self.clear > self.threshold
        if wrong_side:
            raise ConfigError(
                f"rule {self.name}: clear ({self.clear}) lies beyond the threshold ({self.threshold})"
            )
        if rises is not None and (
            not rises.level.severity > self.level.severity or rises == Escalation(level=rises.level)
        ):
            raise ConfigError(
                f"rule {self.name}: escalate must name a level above {self.level.value}, and a threshold "
                "or after_windows"
            )
        try:
            self.message.format(value=0.0, threshold=0.0, baseline=0.0, since="")
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(f"rule {self.name}: message cannot be filled in: {error!r}") from error

    def _require_whole(self, name: str, value: object, low: int, high: int) -> None:
        """Refuses what is no whole number within some bounds."""
        if value is not None and (not isinstance(value, int) or not low <= value <= high):
            raise ConfigError(
                f"rule {self.name}: {name} must be a whole number from {low:,} to {high:,}, not {value}"
            )

    def _require_within(self, name: str, value: float | None, low: float, high: float) -> None:
        """Refuses a number that lies outside its bounds, or is none (NaN)."""
        if value is not None and not low <= value <= high:
            raise ConfigError(f"rule {self.name}: {name} must be from {low:,} to {high:,}, not {value}")

    @property
    def longest(self) -> int:
        """Windows that the rule looks back on in all."""
        return self.window + self.baseline

    @property
    def least_weight(self) -> int:
        """Observations that make a window part of the baseline.

        A share of ``min_count``, as that is asked of all the windows looked at together.
        """
        return max(1, self.min_count // self.window)


class Reading(msgspec.Struct, frozen=True):
    """What a rule reads off the windows.

    Attributes:
        value: The metric's value.
        limit: The value that it is held against, in the metric's unit.
        baseline: What it is compared with, NaN if with nothing.
        measure: What the condition makes of the value: the higher, the worse.
        bad: Whether the condition holds.
        good: Whether it is over.
        severe: Whether the level must rise.
    """

    value: float
    limit: float
    baseline: float
    measure: float
    bad: bool
    good: bool
    severe: bool = False


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
        MetricType.DEAD_RATIO: Point(seen.dead_ratio, seen.lifetime.count),
        MetricType.DEAD_PER_LOOKUP: Point(seen.dead_ratio * evicted / max(1, lookups), lookups),
        MetricType.REGRET_RATIO: Point(seen.regret_ratio, evicted),
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
    weight = sum([p.weight for p in latest])
    if weight < max(1, rule.min_count):
        return None
    # Exactly rounded, so that the order of the points, which changes as time passes, changes nothing.
    value = math.fsum([p.value * p.weight for p in latest]) / weight
    if rule.condition in ("above", "below"):
        return _judged(rule, value, rule.threshold, math.nan, value)
    if rule.condition == "falling":
        return _read_trend(rule, points, value)
    before = baseline_of(rule, points) if frozen is None else frozen
    if rule.condition == "surge":
        # A cold cache evicts nothing yet: what comes after is the start, not a surge.
        before = [v for v in before if v > 0]
    if len(before) < MIN_BASELINE:
        return None
    normal = median(before)
    if rule.condition in ("drop", "surge"):
        falls = rule.condition == "drop"
        measure = normal - value if falls else value / normal
        limit = normal - rule.threshold if falls else rule.threshold * normal
        if measure > rule.clear and _is_harmless(rule, value, normal, before):
            measure = rule.clear
        return _judged(rule, value, limit, normal, measure)
    if rule.condition == "absent":
        if sum(v > 0 for v in before) < _STEADY * len(before):
            return None
        silent = sum(p.value == 0 for p in latest) / rule.window
        return _judged(rule, value, 0.0, normal, silent)
    return _judged(rule, value, normal, normal, -robust_z(value, before))


def _is_harmless(rule: Rule, value: float, normal: float, before: Sequence[float]) -> bool:
    """Whether a drop or surge is as likely chance, or leads to a value that is too low to matter."""
    if rule.condition == "surge" and value < rule.least:
        return True
    # Not a robust deviation: where rare windows differ much, the next of them is no news.
    return abs(value - normal) < rule.sigmas * stdev(before) / math.sqrt(rule.window)


def _judged(rule: Rule, value: float, limit: float, baseline: float, measure: float) -> Reading:
    """Holds a measure against the rule's bounds; below a threshold is the only thing worse when lower."""
    sign = -1.0 if rule.condition == "below" else 1.0
    measure *= sign
    rises = rule.escalate
    return Reading(
        value,
        limit,
        baseline,
        measure,
        bad=measure >= sign * rule.threshold,
        good=measure <= sign * rule.clear,
        severe=rises is not None and rises.threshold is not None and measure >= sign * rises.threshold,
    )


def baseline_of(rule: Rule, points: Sequence[Point]) -> list[float]:
    """Values of the windows before those looked at, without windows that hardly hold anything."""
    before = points[-rule.window - rule.baseline : -rule.window]
    least = rule.least_weight
    return [p.value for p in before if p.weight >= least]


def _read_trend(rule: Rule, points: Sequence[Point], value: float) -> Reading | None:
    series = [
        (i, p.value) for i, p in enumerate(points[-rule.baseline :]) if p.weight >= max(1, rule.min_count)
    ]
    if len(series) < rule.baseline // 2:
        return None
    change = significant_change([float(i) for i, _ in series], [v for _, v in series])
    fall = max(0.0, -change)
    first = median([v for _, v in series[:MIN_BASELINE]])
    return _judged(rule, value, first * (1.0 - rule.threshold), first, fall)
