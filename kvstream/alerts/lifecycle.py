"""From readings to episodes: an alert fires once when one begins and resolves once when it is over."""

import math
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from kvstream.alerts.quiet import FOREVER, unchanged_windows
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

    @property
    def level(self) -> AlertLevel | None:
        """The alert's level, if there is an alert."""
        return None if self.alert is None else self.alert.level


class _Watch:
    """A rule of one source and tier, its episode, and its reading for as long as that holds."""

    __slots__ = ("episode", "holds", "inhibitors", "reading", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.episode = _Episode()
        self.inhibitors: list[_Watch] = []
        self.reading: Reading | None = None
        self.holds = 0.0  # empty windows to come that leave the reading as it is

    def due(self, now: float, window_seconds: float) -> float:
        """Count the empty windows up to the next one that moves the episode on, its reading being the same.

        That one is counted too; it is infinitely far where none ever will. It may be farther than counted.
        """
        rule, episode, reading = self.rule, self.episode, self.reading
        if reading is None:
            return FOREVER
        if episode.fires:
            if reading.good:
                return max(1, rule.clear_windows - episode.good_windows)
            rises = rule.escalate
            if rises is None or rises.after_windows is None or episode.level == rises.level:
                return FOREVER
            return max(1, rises.after_windows - episode.bad_windows)
        if not reading.bad:
            return FOREVER
        if episode.alert is None:
            return 1
        cooling = (episode.cooled_at - now) / window_seconds - 1  # at the most, as floats are rounded
        return max(1, rule.for_windows - episode.bad_windows, cooling)

    def wait(self, windows: int) -> None:
        """Let empty windows pass that move nothing on, as ``due`` says."""
        self.holds -= windows
        episode, reading = self.episode, self.reading
        if reading is None:
            return
        if not episode.fires:
            if reading.bad:
                episode.bad_windows += windows
        elif reading.good:
            episode.good_windows += windows
        else:
            episode.bad_windows += windows


class RuleEngine:
    """Evaluates rules as the windows of one source and tier close.

    Windows in which nothing happens count like any other, but only those are walked in which something may
    change: between them, readings stay and episodes only count. So a silence costs what it changes, however
    long it is.

    Memory is bounded: one episode a rule, and as many points as the longest rule looks back.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        source: str,
        tier: str,
        window_seconds: float,
        capacity: int | None,
        silences: Silences | None = None,
    ) -> None:
        self._source, self._tier = source, tier
        self._window_seconds, self._capacity = window_seconds, capacity
        self._silences = Silences() if silences is None else silences
        self._silences_heeded = len(self._silences)
        self._watches = [_Watch(rule) for rule in rules if rule.enabled]
        for watch in self._watches:
            watch.inhibitors = [by for by in self._watches if watch.rule.name in by.rule.inhibits]
        self._load = LookupHistory(window_seconds)
        self._longest = max((watch.rule.longest for watch in self._watches), default=1)
        self._points: dict[MetricType, list[Point]] = {}
        self._empty: dict[MetricType, Point] = {}  # what a window in which nothing happens adds to them
        self._live: int | None = None  # at the end of the last window in which there was something
        self._index = 0  # of the last window, with something in it or not

    def firing(self) -> list[CacheAlert]:
        """The alerts whose episodes go on, also those that nobody is told of."""
        episodes = [watch.episode for watch in self._watches]
        return [e.alert for e in episodes if e.alert is not None and e.fires]

    def pending(self) -> list[CacheAlert]:
        """What is bad, but not for long enough to fire."""
        episodes = [watch.episode for watch in self._watches]
        return [e.alert for e in episodes if e.alert is not None and not e.fires]

    def close(self, window: Window) -> list[CacheAlert]:
        """Takes in a closed window; returns the alerts to tell of: fired, risen to a level, resolved.

        The windows before it in which nothing happened are taken in first.
        """
        if window.is_empty:
            return self.pass_time(window.index + 1)
        changes = self.pass_time(window.index)
        if window.live != self._live:
            self._live = window.live
            nothing = Window(window.index, Measurements(0), live=window.live)
            self._empty = self._points_of(nothing)
        self._index = window.index
        self._load.add(window.index, window.measurements.lookups)
        self._add(self._points_of(window), 1)
        for watch in self._watches:
            watch.holds = 0
        return changes + self._take()

    def pass_time(self, until: int) -> list[CacheAlert]:
        """Takes in the windows before index ``until`` in which nothing happened."""
        changes: list[CacheAlert] = []
        if self._live is None:
            return changes
        while (ahead := until - 1 - self._index) > 0:
            unchanging = self._unchanging()
            if unchanging >= 1:
                skipped = int(min(unchanging, ahead))
                self._index += skipped
                self._add(self._empty, skipped)
                for watch in self._watches:
                    watch.wait(skipped)
            else:
                self._index += 1
                self._add(self._empty, 1)
                changes += self._take()
        return changes

    def end(self, message: str) -> list[CacheAlert]:
        """Resolve every alert that subscribers know of, as no window will come; returns those."""
        told = [
            watch.episode.alert
            for watch in self._watches
            if watch.episode.alert is not None and watch.episode.told is not None
        ]
        for watch in self._watches:
            watch.episode = _Episode()
        return [
            replace(alert, state="resolved", message=message, timestamp=self._now, hint="", muted_by="")
            for alert in told
        ]

    @property
    def _now(self) -> float:
        """The end of the last window, event time in seconds."""
        return (self._index + 1) * self._window_seconds

    def _points_of(self, window: Window) -> dict[MetricType, Point]:
        points = points_of(window, self._window_seconds, self._capacity)
        lifetime = points[MetricType.LIFETIME]
        points[MetricType.LIFETIME_LOOKUPS] = Point(self._load.lookups_in(lifetime.value), lifetime.weight)
        return points

    def _add(self, points: dict[MetricType, Point], windows: int) -> None:
        """Adds the points of windows that are all alike."""
        windows = min(windows, self._longest)
        for metric, point in points.items():
            kept = self._points.setdefault(metric, [])
            if windows == 1:
                kept.append(point)
            else:
                kept += [point] * windows
            if len(kept) > 2 * self._longest:
                del kept[: -self._longest]

    def _unchanging(self) -> float:
        """Counts the next windows, all of them empty, in which no reading, episode or silence changes."""
        if len(self._silences) != self._silences_heeded:
            return 0
        now = self._now
        least = FOREVER
        for watch in self._watches:
            least = min(least, watch.holds, watch.due(now, self._window_seconds) - 1)
            if least < 1:
                return 0
        if any(watch.episode.fires for watch in self._watches):
            least = min(least, (self._silences.next_end(now) - now) / self._window_seconds - 2)
        return least

    def _take(self) -> list[CacheAlert]:
        """Evaluates the rules at the end of the last window."""
        now = self._now
        changes = []
        for watch in self._watches:
            if watch.holds > 0:
                watch.holds -= 1
            else:
                self._read(watch)
            alert = self._evaluate(watch, now)
            if alert is not None:
                changes.append(alert)
        self._silences_heeded = len(self._silences)
        return changes + self._to_tell(now)

    def _read(self, watch: _Watch) -> None:
        """Reads a rule, and finds out how long it will read the same."""
        rule, frozen = watch.rule, watch.episode.baseline
        points = self._points.get(rule.metric)
        if points is None:  # as of occupancy where no capacity is known
            watch.reading, watch.holds = None, FOREVER
            return
        watch.reading = read(rule, points, frozen)
        watch.holds = unchanged_windows(rule, points, self._empty[rule.metric], frozen=frozen is not None)

    def _evaluate(self, watch: _Watch, now: float) -> CacheAlert | None:
        """Moves a rule's episode on by a window; returns its alert if that resolves what was told."""
        rule, episode, reading = watch.rule, watch.episode, watch.reading
        if reading is None:
            return None
        if episode.fires:
            return self._go_on(watch, reading, now)
        if not reading.bad:
            if episode.alert is not None:
                _begin_afresh(watch, episode.cooled_at)
            return None
        if episode.alert is None:
            # What was normal stays what it was when the trouble began.
            if rule.condition in ("drop", "surge", "anomaly_low", "absent"):
                episode.baseline = baseline_of(rule, self._points[rule.metric])
                watch.holds = 0  # as it is compared with that from now on
            episode.alert = self._alert(rule, reading, now - self._window_seconds, now)
        episode.bad_windows += 1
        _note_worst(episode, reading)
        if episode.bad_windows >= rule.for_windows and now >= episode.cooled_at:
            episode.alert = self._alert(rule, reading, episode.alert.started_at, now, state="firing")
            episode.bad_windows = 0
            self._rise(rule, episode, reading, now)
        return None

    def _go_on(self, watch: _Watch, reading: Reading, now: float) -> CacheAlert | None:
        rule, episode = watch.rule, watch.episode
        assert episode.alert is not None  # noqa: S101
        episode.good_windows = episode.good_windows + 1 if reading.good else 0
        if episode.good_windows < rule.clear_windows:
            if not reading.good:
                episode.bad_windows += 1
            _note_worst(episode, reading)
            self._rise(rule, episode, reading, now)
            return None
        _begin_afresh(watch, now + rule.cooldown_windows * self._window_seconds)
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
        for watch in self._watches:
            episode = watch.episode
            if episode.alert is None or not episode.fires:
                continue
            muted_by = next(
                (by.rule.name for by in watch.inhibitors if by.episode.fires), ""
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


def _begin_afresh(watch: _Watch, cooled_at: float) -> None:
    """Ends the episode; the next one may fire at a time."""
    if watch.episode.baseline is not None:
        watch.holds = 0  # as the rule compares with the windows before again
    watch.episode = _Episode(cooled_at=cooled_at)


def _note_worst(episode: _Episode, reading: Reading) -> None:
    if episode.worst is None or reading.measure > episode.worst.measure:
        episode.worst = reading


def _figure(value: float) -> str:
    """A number in three digits or more, without an exponent where it is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
