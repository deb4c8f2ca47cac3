"""From readings to episodes: an alert fires once when one begins and resolves once when it is over."""

from collections import deque
from collections.abc import Sequence

import msgspec

from kvstream.alerts.rules import Point, Rule, baseline_of, points_of, read
from kvstream.alerts.types import CacheAlert, MetricType, fingerprint
from kvstream.metrics.window import Window


class _Episode(msgspec.Struct):
    """What a rule remembers between windows."""

    bad_windows: int = 0
    good_windows: int = 0
    since: float = 0.0
    baseline: list[float] | None = None
    firing: CacheAlert | None = None


class RuleEngine:
    """Evaluates rules as the windows of one source and tier close.

    Memory is bounded: one episode a rule, and as many points as the longest rule looks back.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        source: str,
        tier: str,
        window_seconds: float,
        capacity: int | None,
    ) -> None:
        self._rules = [rule for rule in rules if rule.enabled]
        self._source, self._tier = source, tier
        self._window_seconds, self._capacity = window_seconds, capacity
        self._episodes = {rule.name: _Episode() for rule in self._rules}
        self._hits_seen = False
        longest = max((rule.window + rule.baseline for rule in self._rules), default=1)
        self._points: deque[dict[MetricType, Point]] = deque(maxlen=longest)

    def firing(self) -> list[CacheAlert]:
        """The alerts whose episodes go on."""
        return [episode.firing for episode in self._episodes.values() if episode.firing is not None]

    def close(self, window: Window) -> list[CacheAlert]:
        """Takes in a closed window; returns the alerts that fire or resolve with it."""
        points = points_of(window, self._window_seconds, self._capacity)
        self._hits_seen |= window.measurements.accesses > 0
        if not self._hits_seen:
            # Where an engine does not report hits, as vLLM by default, no block is known to be dead.
            del points[MetricType.DEAD_RATIO]
        self._points.append(points)
        ended = (window.index + 1) * self._window_seconds
        changes = []
        for rule in self._rules:
            of_rule = [p[rule.metric] for p in self._points if rule.metric in p]
            alert = self._evaluate(rule, self._episodes[rule.name], of_rule, ended)
            if alert is not None:
                changes.append(alert)
        return changes

    def _evaluate(
        self, rule: Rule, episode: _Episode, points: Sequence[Point], now: float
    ) -> CacheAlert | None:
        reading = read(rule, points, episode.baseline)
        if reading is None:
            return None
        if episode.firing is None:
            if not reading.bad:
                episode.bad_windows, episode.baseline = 0, None
                return None
            if not episode.bad_windows:
                episode.since = now - self._window_seconds
                # What was normal stays what it was when the trouble began.
                if rule.condition in ("drop", "surge", "anomaly_low"):
                    episode.baseline = baseline_of(rule, points)
            episode.bad_windows += 1
            if episode.bad_windows < rule.for_windows:
                return None
        else:
            episode.good_windows = episode.good_windows + 1 if reading.good else 0
            if episode.good_windows < rule.clear_windows:
                return None
        resolved = episode.firing is not None
        if resolved:
            message = f"over after {now - episode.since:.0f} s"
        else:
            message = rule.message.format(
                value=reading.value, threshold=reading.limit, baseline=reading.baseline
            )
        alert = CacheAlert(
            level=rule.level,
            state="resolved" if resolved else "firing",
            rule=rule.name,
            metric=rule.metric,
            message=message,
            value=reading.value,
            threshold=reading.limit,
            source=self._source,
            tier=self._tier,
            timestamp=now,
            started_at=episode.since,
            fingerprint=fingerprint(rule.name, self._source, self._tier),
            hint="" if resolved else rule.hint,
        )
        self._episodes[rule.name] = _Episode() if resolved else episode
        episode.firing = None if resolved else alert
        return alert
