"""The plain twin of ``RuleEngine``: it walks every window. Slow, and the judge of what may be skipped."""

import math
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from kvstream.alerts.rules import Point, Reading, Rule, baseline_of, points_of, read
from kvstream.alerts.silences import Silences
from kvstream.alerts.types import AlertLevel, CacheAlert, MetricType, fingerprint
from kvstream.metrics.load import LookupHistory
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.window import Window
from kvstream.words import time_of_day


class _Episode(msgspec.Struct):
    """What a rule remembers between windows.

    Attributes:
        alert: Pending or firing; None while all is well.
        told: The level that subscribers know of; None if they know nothing.
        bad_windows: In a row while pending; those not good since it fired.
        good_windows: In a row, while firing.
        baseline: What was normal when the trouble began.
        worst: The reading of the worst window.
        cooled_at: When the next episode may fire, event time in seconds.
    """

    alert: CacheAlert | None = None
    told: AlertLevel | None = None
    bad_windows: int = 0
    good_windows: int = 0
    baseline: list[float] | None = None
    worst: Reading | None = None
    cooled_at: float = -math.inf

    @property
    def fires(self) -> bool:
        return self.alert is not None and self.alert.state == "firing"


class ReferenceEngine:
    """The rules of one source and tier, evaluated at every window, be it empty or not."""

    def __init__(
        self,
        rules: Sequence[Rule],
        source: str,
        tier: str,
        window_seconds: float,
        capacity: int | None,
        silences: Silences | None = None,
    ) -> None:
        self._rules = [rule for rule in rules if rule.enabled]
        self._source, self._tier = source, tier
        self._window_seconds, self._capacity = window_seconds, capacity
        self._silences = Silences() if silences is None else silences
        self._episodes = {rule.name: _Episode() for rule in self._rules}
        self._inhibitors = {
            rule.name: [by for by in self._rules if rule.name in by.inhibits] for rule in self._rules
        }
        self._load = LookupHistory(window_seconds)
        self._points: dict[MetricType, list[Point]] = {}
        self._nothing = Window(0, Measurements(0))
        self._last: Window | None = None  # in which there was something
        self._index = 0  # of the last one, with something in it or not

    def firing(self) -> list[CacheAlert]:
        """The alerts whose episodes go on, also those that nobody is told of."""
        return [e.alert for e in self._episodes.values() if e.alert is not None and e.fires]

    def pending(self) -> list[CacheAlert]:
        """What is bad, but not for long enough to fire."""
        return [e.alert for e in self._episodes.values() if e.alert is not None and not e.fires]

    def close(self, window: Window) -> list[CacheAlert]:
        """Takes in a closed window; returns the alerts to tell of: fired, risen to a level, resolved.

        The windows before it in which nothing happened are taken in first.
        """
        if window.is_empty:
            return self.pass_time(window.index + 1)
        changes = self.pass_time(window.index)
        self._last, self._index = window, window.index
        self._load.add(window.index, window.measurements.lookups)
        return changes + self._take(points_of(window, self._window_seconds, self._capacity))

    def pass_time(self, until: int) -> list[CacheAlert]:
        """Takes in the windows before index ``until`` in which nothing happened."""
        changes: list[CacheAlert] = []
        if self._last is None:
            return changes
        while self._index < until - 1:
            self._index += 1
            self._nothing.live = self._last.live
            changes += self._take(points_of(self._nothing, self._window_seconds, self._capacity))
        return changes

    def _take(self, points: dict[MetricType, Point]) -> list[CacheAlert]:
        lifetime = points[MetricType.LIFETIME]
        points[MetricType.LIFETIME_LOOKUPS] = Point(self._load.lookups_in(lifetime.value), lifetime.weight)
        for metric, point in points.items():
            kept = self._points.setdefault(metric, [])
            kept.append(point)
        now = (self._index + 1) * self._window_seconds
        changes = [alert for rule in self._rules if (alert := self._evaluate(rule, now)) is not None]
        return changes + self._to_tell(now)

    def _evaluate(self, rule: Rule, now: float) -> CacheAlert | None:
        """Moves a rule's episode on by a window; returns its alert if that resolves what was told."""
        episode = self._episodes[rule.name]
        reading = read(rule, self._points.get(rule.metric, ()), episode.baseline)
        if reading is None:
            return None
        if episode.fires:
            return self._go_on(rule, episode, reading, now)
        if not reading.bad:
            self._episodes[rule.name] = _Episode(cooled_at=episode.cooled_at)
            return None
        if episode.alert is None:
            # What was normal stays what it was when the trouble began.
            if rule.condition in ("drop", "surge", "anomaly_low", "absent"):
                episode.baseline = baseline_of(rule, self._points[rule.metric])
            episode.alert = self._alert(rule, reading, now - self._window_seconds, now)
        episode.bad_windows += 1
        _note_worst(episode, reading)
        if episode.bad_windows >= rule.for_windows and now >= episode.cooled_at:
            episode.alert = self._alert(rule, reading, episode.alert.started_at, now, state="firing")
            episode.bad_windows = 0
            self._rise(rule, episode, reading, now)
        return None

    def _go_on(self, rule: Rule, episode: _Episode, reading: Reading, now: float) -> CacheAlert | None:
        assert episode.alert is not None
        episode.good_windows = episode.good_windows + 1 if reading.good else 0
        if episode.good_windows < rule.clear_windows:
            if not reading.good:
                episode.bad_windows += 1
            _note_worst(episode, reading)
            self._rise(rule, episode, reading, now)
            return None
        self._episodes[rule.name] = _Episode(cooled_at=now + rule.cooldown_windows * self._window_seconds)
        if episode.told is None:
            return None
        worst = "" if episode.worst is None else f"; at its worst {_figure(episode.worst.value)}"
        return replace(
            episode.alert,
            state="resolved",
            message=f"over after {max(0.0, now - episode.alert.started_at):.0f} s{worst}",
            value=reading.value,
            threshold=reading.limit,
            timestamp=now,
            hint="",
            muted_by="",
        )

    def _rise(self, rule: Rule, episode: _Episode, reading: Reading, now: float) -> None:
        """Raises a firing alert's level where its rule says so; it stays there until it resolves."""
        rises = rule.escalate
        if episode.alert is None or rises is None or episode.alert.level == rises.level:
            return
        long = rises.after_windows is not None and episode.bad_windows >= rises.after_windows
        if reading.severe or long:
            at_level = replace(rule, level=rises.level, escalate=None)
            episode.alert = self._alert(at_level, reading, episode.alert.started_at, now, state="firing")

    def _to_tell(self, now: float) -> list[CacheAlert]:
        """The firing alerts, at their levels, that subscribers do not know of and are to know of."""
        changes = []
        for rule in self._rules:
            episode = self._episodes[rule.name]
            if episode.alert is None or not episode.fires:
                continue
            muted_by = next(
                (by.name for by in self._inhibitors[rule.name] if self._episodes[by.name].fires), ""
            ) or self._silences.reason(episode.alert, now)
            if muted_by != episode.alert.muted_by:
                episode.alert = replace(episode.alert, muted_by=muted_by)
            if not muted_by and episode.told != episode.alert.level:
                episode.told = episode.alert.level
                episode.alert = replace(episode.alert, timestamp=now)
                changes.append(episode.alert)
        return changes

    def _alert(
        self, rule: Rule, reading: Reading, since: float, now: float, state: str = "pending"
    ) -> CacheAlert:
        message = rule.message.format(
            value=reading.value, threshold=reading.limit, baseline=reading.baseline, since=time_of_day(since)
        )
        return CacheAlert(
            level=rule.level,
            state="firing" if state == "firing" else "pending",
            rule=rule.name,
            metric=rule.metric,
            message=message,
            value=reading.value,
            threshold=reading.limit,
            source=self._source,
            tier=self._tier,
            timestamp=now,
            started_at=since,
            fingerprint=fingerprint(rule.name, self._source, self._tier),
            hint=rule.hint,
            labels=rule.labels,
        )


def _note_worst(episode: _Episode, reading: Reading) -> None:
    if episode.worst is None or reading.measure > episode.worst.measure:
        episode.worst = reading


def _figure(value: float) -> str:
    """A number in three digits or more, without an exponent where it is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
